"""Analyse finished runs of the recipe: parse, call, print."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from recipes.selectivity_regularization import options
from recipes.selectivity_regularization.claims import judge_claims
from recipes.selectivity_regularization.controls import run_controls
from recipes.selectivity_regularization.figures import draw_all
from recipes.selectivity_regularization.gathering import gather_runs
from recipes.selectivity_regularization.images import data_name
from recipes.selectivity_regularization.page import write_page
from recipes.selectivity_regularization.tabulating import network_table
from unitprobe.errors import OptionError, UnitprobeWarning
from unitprobe.store import check_output, writing

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    folder: Annotated[
        Path, typer.Argument(metavar="RUNS", help="OUT/MODEL-DATA-PRESET: one folder for each run.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the page, its figures and its table.")
    ] = Path("docs/results"),
    data: Annotated[
        str | None, typer.Option(help="Where the images are now, if elsewhere than in training.")
    ] = None,
    data_note: Annotated[str, typer.Option(help="A sentence on the images, for the page.")] = "",
    controls: Annotated[
        bool, typer.Option(help="Also compare, rotate and ablate the networks themselves.")
    ] = True,
    limit: Annotated[int, typer.Option(help="Test images for similarity and rotation.")] = 10000,
    ablation_layers: Annotated[
        list[str] | None,
        typer.Option(help="Layers to ablate; by default first, middle and last. May be repeated."),
    ] = None,
    ablation_limit: Annotated[int, typer.Option(help="Test images for the ablation.")] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page.")] = False,
) -> None:
    """Hold the claims of Leavitt & Morcos 2020 against finished runs, and write a page."""
    warnings.showwarning = _show_warning
    for name, value in (("--limit", limit), ("--ablation-limit", ablation_limit)):
        if value < 1:
            raise OptionError(f"{name} {value} is not a number of images; give 1 or more")
    runs = gather_runs(folder)
    config = runs.attrs["config"]
    model = config["model"].replace("/", "_").replace(":", "_")
    stem = f"selectivity_regularization_{model}_{data_name(config['data'])}"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    page = check_output(out / f"{stem}.md", overwrite=overwrite)
    judgements = judge_claims(runs)
    compared = None
    if controls:
        compared = run_controls(
            runs,
            folder,
            data,
            limit=limit,
            ablation_layers=ablation_layers,
            ablation_limit=ablation_limit,
            report=typer.echo,
        )
    with writing(page):
        pictures = draw_all(runs, compared, out, stem)
        table = f"{stem}.csv"
        network_table(runs).to_csv(out / table, index=False)
        text = write_page(
            runs,
            judgements,
            compared,
            pictures,
            table_file=table,
            data_note=data_note,
            options=_chosen(controls, limit, ablation_layers, ablation_limit),
        )
        page.write_text(text)
    for each in judgements:
        typer.echo(f"{each.claim}: {each.verdict}{f' ({each.reason})' if each.reason else ''}")
    typer.echo(f"{int(runs['finished'].sum())} networks: {page}")


def _chosen(
    controls: bool, limit: int, ablation_layers: list[str] | None, ablation_limit: int
) -> str:
    """Return the options that the numbers of the page depend on."""
    if not controls:
        return " --no-controls"
    layers = "".join(f" --ablation-layers '{each}'" for each in ablation_layers or [])
    return f" --limit {limit}{layers} --ablation-limit {ablation_limit}"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UnitprobeWarning):
        typer.echo(f"warning: {message}", err=True)


if __name__ == "__main__":
    options.run(lambda: app(standalone_mode=False))
