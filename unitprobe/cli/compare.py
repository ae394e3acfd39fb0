"""The command that compares a network with a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from unitprobe.cli.arguments import Overwrite, Seed, Signed, refuse_given

if TYPE_CHECKING:
    import xarray as xr

# The statistics that are printed if both have them; the file has all.
_SHOWN = ("class_selectivity_corrected", "class_selectivity", "lifetime_sparseness", "d_prime")
_COLUMNS = ("layer", "value", "baseline", "difference", "low", "high", "auc", "q")


def compare(
    context: typer.Context,
    network: Annotated[Path, typer.Argument(help="An analysis, or a recording.")],
    baseline: Annotated[
        Path, typer.Argument(help="The same of a baseline, such as the network untrained.")
    ],
    out: Annotated[Path | None, typer.Option(help="The CSV file to write.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="Only this statistic of units. May be repeated.")
    ] = None,
    n_permutations: Annotated[
        int, typer.Option(help="Permutations of the labels, if a recording is given.")
    ] = 200,
    signed: Signed = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Compare the units of a network with those of a baseline, layer by layer."""
    from unitprobe import analysis
    from unitprobe.store import check_output, content_of, open_store, writing

    if out is not None:
        check_output(out, overwrite=overwrite)

    trees = [open_store(path) for path in (network, baseline)]
    if "recording" not in map(content_of, trees):
        refuse_given(
            context, "two analyses, which are measured already", ("n_permutations", "signed")
        )

    def analysis_of(tree: xr.DataTree) -> xr.DataTree:
        if content_of(tree) != "recording":
            return tree
        return analysis.analyze(
            tree, n_permutations=n_permutations, seed=seed, signed=cast(Any, signed)
        )

    table = analysis.compare(*map(analysis_of, trees), metrics=metrics, seed=seed)
    if out is not None:
        with writing(out):
            table.to_csv(out, index=False)
    for name in metrics or [name for name in _SHOWN if name in set(table["metric"])]:
        rows = table.loc[table["metric"] == name, list(_COLUMNS)]
        typer.echo(f"{name}\n{rows.to_string(index=False, float_format='%.3f')}\n")
    layers, statistics = table["layer"].nunique(), table["metric"].nunique()
    where = "" if out is None else f": {out}"
    typer.echo(f"compared {layers} layers by {statistics} statistics{where}")
