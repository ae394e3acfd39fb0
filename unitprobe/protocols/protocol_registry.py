"""The list of protocols: one record each, from which the command line, report and tables are made.

To add a protocol, write its function and its summary in a module of this package, its figure in
`unitprobe.plots.of_protocols`, and add a record here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import xarray as xr

from unitprobe.errors import StoreError
from unitprobe.protocols.bau import bau_protocol, summarize_bau
from unitprobe.protocols.morcos import morcos_protocol, summarize_morcos
from unitprobe.protocols.ranadive import ranadive_protocol, summarize_ranadive
from unitprobe.protocols.zhou import summarize_zhou, zhou_protocol


@dataclass(frozen=True)
class Protocol:
    """A published ablation protocol.

    Attributes
    ----------
    name : str
        The attribute ``protocol`` of its tree, and its command.
    run : callable
        The function. Its keyword-only parameters and its docstring also make the options of the
        command.
    question : str
        What it asks, for help and documentation.
    summarize : callable
        From the root of its tree to a short table.
    plot : str
        The function in `unitprobe.plots` that draws its tree.
    heading, caption : str
        The title of the figure in a report, and how to read it.
    """

    name: str
    run: Callable[..., xr.DataTree]
    question: str
    summarize: Callable[[xr.Dataset], pd.DataFrame]
    plot: str
    heading: str
    caption: str


#: Every protocol, by name.
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="zhou",
            run=zhou_protocol,
            question="What predicts the damage of ablating a unit?",
            summarize=summarize_zhou,
            plot="plot_zhou",
            heading="What predicts the damage",
            caption="Left: rank correlations within layers with their 95% intervals; open dots are "
            "random directions. Right: units beside random directions of the same layer.",
        ),
        Protocol(
            name="morcos",
            run=morcos_protocol,
            question="How fast does accuracy fall as units are removed, selective ones first?",
            summarize=summarize_morcos,
            plot="plot_morcos",
            heading="Cumulative ablation",
            caption="A curve by selectivity outside the grey ones means that selectivity predicts "
            "which units the network relies on.",
        ),
        Protocol(
            name="bau",
            run=bau_protocol,
            question="Which units does the network need to recognize a class?",
            summarize=summarize_bau,
            plot="plot_bau",
            heading="The units of a class",
            caption="Balanced accuracy; 50% is chance. Units were ranked on one half of the "
            "stimuli and removed on the other.",
        ),
        Protocol(
            name="ranadive",
            run=ranadive_protocol,
            question="Do selective units matter more, and when during training?",
            summarize=summarize_ranadive,
            plot="plot_ranadive",
            heading="Selective units over checkpoints",
            caption="Above 0, the most selective units cost more than as many random ones.",
        ),
    )
}


def protocol_of(tree: xr.DataTree) -> Protocol | None:
    """Return the protocol that made a tree; None for another tree."""
    return PROTOCOLS.get(str(tree.attrs.get("protocol")))


def summarize_protocol(tree: xr.DataTree) -> pd.DataFrame:
    """Return the main results of a protocol as a short table.

    Parameters
    ----------
    tree : DataTree
        From one of the protocols.

    Returns
    -------
    pandas.DataFrame
        For Zhou et al., a row for each damage and predictor, with ranks within layers; for Morcos
        et al., a row for each layer and clamp, and for all layers together if they were ablated;
        for Bau et al., a row for each layer, at 20 units or the largest number below; for Ranadive
        et al., a row for each checkpoint, with means over layers.

    Raises
    ------
    StoreError
        The tree is not from a protocol.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.protocols import summarize_protocol, zhou_protocol
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ... )
    >>> stimuli = up.load_stimuli("digits", limit=100)
    >>> tree = zhou_protocol(network, stimuli, n_directions=0, resamples=20)
    >>> list(summarize_protocol(tree).columns)
    ['damage', 'predictor', 'correlation', 'low', 'high', 'p', 'q', 'units']
    """
    protocol = protocol_of(tree)
    if protocol is None:
        raise StoreError(
            f"the tree is of protocol {tree.attrs.get('protocol')!r}; give the result of one of "
            f"{', '.join(PROTOCOLS)}"
        )
    return protocol.summarize(tree.to_dataset())
