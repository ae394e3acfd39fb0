"""What a protocol found, as a short table."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from unitprobe.errors import StoreError
from unitprobe.protocols.correlating import pooled_correlations

#: Of the numbers of units that a class is tested without, the one that is shown.
_SHOWN_SIZE = 20


def summarize_protocol(tree: xr.DataTree) -> pd.DataFrame:
    """Return the findings of a protocol as a table to print; the tree has all.

    Parameters
    ----------
    tree : DataTree
        From one of the protocols.

    Returns
    -------
    pandas.DataFrame
        Of Zhou et al., a row for each damage and predictor, correlations with ranks within layers;
        of Morcos et al., a row for each layer and clamp, and for all layers together if these were
        ablated; of Bau et al., a row for each layer, at
        20 units or the most that it has a value for; of Ranadive et al., a row for each
        checkpoint, means over layers.

    Raises
    ------
    StoreError
        No protocol made the tree.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.protocols import zhou_protocol
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ... )
    >>> stimuli = up.load_stimuli("digits", limit=100)
    >>> tree = zhou_protocol(network, stimuli, n_directions=0, resamples=20)
    >>> list(summarize_protocol(tree).columns)
    ['damage', 'predictor', 'correlation', 'low', 'high', 'p', 'q', 'units']
    """
    protocol = tree.attrs.get("protocol")
    tables = {"zhou": _zhou, "morcos": _morcos, "bau": _bau, "ranadive": _ranadive}
    if protocol not in tables:
        raise StoreError(
            f"the tree is of protocol {protocol!r}; one of {', '.join(tables)} is summarized"
        )
    return tables[protocol](tree.to_dataset())


def _zhou(root: xr.Dataset) -> pd.DataFrame:
    table = pooled_correlations(root).to_dataframe().reset_index()
    return table.astype({"units": int})


def _morcos(root: xr.Dataset) -> pd.DataFrame:
    columns = {
        "random_auc_mean": "random_auc",
        "selective_first_auc": "selective_first_auc",
        "selective_first_auc_percentile": "percentile",
        "selective_first_auc_p": "p",
        "selective_first_auc_q": "q",
    }
    table = _table(root, columns)
    if "network_random_auc" not in root:
        return table
    whole = root.assign(network_random_auc_mean=root["network_random_auc"].mean("order"))
    together = {f"network_{name}": word for name, word in columns.items() if word != "q"}
    return pd.concat([table, _table(whole, together).assign(layer="all together")])


def _bau(root: xr.Dataset) -> pd.DataFrame:
    columns = {
        "removed_mean": "removed",
        "random_removed_mean": "random_removed",
        "removed_others_mean": "others",
        "kept_mean": "kept",
        "random_kept_mean": "random_kept",
        "removed_p": "p",
        "removed_q": "q",
    }
    table = _table(root, columns)
    fitting = table[(table["size"] <= _SHOWN_SIZE) & table["removed"].notna()]
    if fitting.empty:  # only larger numbers were asked for
        fitting = table[table["removed"].notna()]
    return fitting.groupby("layer", sort=False).tail(1).reset_index(drop=True)


def _ranadive(root: xr.Dataset) -> pd.DataFrame:
    columns = {
        "class_selectivity_mean": "class_selectivity",
        "selective_accuracy_drop": "selective_drop",
        "random_accuracy_drop_mean": "random_drop",
        "difference": "difference",
    }
    table = root[list(columns)].rename(columns).mean("layer")
    table["accuracy"] = root["accuracy"]
    table["layers_q<0.05"] = (root["difference_q"] < 0.05).sum("layer")
    order = ["accuracy", *columns.values(), "layers_q<0.05"]
    return table[order].to_dataframe().reset_index()


def _table(root: xr.Dataset, columns: dict[str, str]) -> pd.DataFrame:
    """Return variables under the names of columns, and their coordinates."""
    return root[list(columns)].rename(columns).to_dataframe().reset_index()
