"""Ablate single units of a trained network and hold claims C9, C10 and C11 against it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import xarray as xr

from recipes.selectivity_regularization import options
from recipes.selectivity_regularization.architectures import build_network
from recipes.selectivity_regularization.controls import balanced
from recipes.selectivity_regularization.images import Splits, data_name, load_splits, to_inputs
from recipes.selectivity_regularization.runs import CONFIG
from recipes.single_unit_ablation.ablation_page import Experiment, draw_all, unit_rows, write_page
from recipes.single_unit_ablation.unit_claims import judge_c9, judge_c10, judge_c11
from unitprobe.errors import ContentsMismatchError, OptionError, UnitprobeWarning
from unitprobe.models import Network
from unitprobe.models.weights_file import load_weights
from unitprobe.protocols import morcos_protocol, zhou_protocol
from unitprobe.stimuli import Stimuli
from unitprobe.store import check_output, open_store, save_tree, writing

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Plan:
    """How much is ablated.

    Attributes
    ----------
    limit, curve_limit : int
        Test images for single units and for curves.
    layers, curve_layers : list of str
        Which layers; of the curves first, middle and last if empty.
    directions, orders, points : int
        Random directions and orders of each layer, points of each curve.
    resamples, seed, batch_size : int
    device : str or None
    """

    limit: int
    curve_limit: int
    layers: list[str]
    curve_layers: list[str]
    directions: int
    orders: int
    points: int
    resamples: int
    seed: int
    batch_size: int
    device: str | None


@app.command()
def main(
    weights: Annotated[Path, typer.Option(help="The trained network, .safetensors or .pt.")],
    data: Annotated[
        str, typer.Option(help="What it was trained on: digits, cifar10:DIR, imagefolder:DIR, ...")
    ],
    model: Annotated[str, typer.Option(help="resnet8, resnet20, ... as in the other recipe.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the page, its figures and its table.")
    ] = Path("docs/results"),
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for the ablations. Those that are there are not run again."),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Folder for decoded images.")] = Path("runs/cache"),
    data_note: Annotated[str, typer.Option(help="A sentence on the images, for the page.")] = "",
    limit: Annotated[int, typer.Option(help="Test images for single units.", min=2)] = 10000,
    layers: Annotated[
        list[str] | None, typer.Option(help="Ablate these layers. May be repeated.")
    ] = None,
    directions: Annotated[int, typer.Option(help="Random directions of each layer.", min=0)] = 16,
    curve_limit: Annotated[int, typer.Option(help="Test images for the curves.", min=2)] = 1000,
    curve_layers: Annotated[
        list[str] | None,
        typer.Option(help="Layers of the curves; by default first, middle and last."),
    ] = None,
    orders: Annotated[int, typer.Option(help="Random orders of each curve.", min=1)] = 40,
    points: Annotated[int, typer.Option(help="Points of each curve.", min=1)] = 5,
    resamples: Annotated[int, typer.Option(help="For intervals and p-values.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page.")] = False,
) -> None:
    """Run the protocols of Zhou et al. and Morcos et al. on test images, and write a page."""
    warnings.showwarning = _show_warning
    plan = Plan(
        limit,
        curve_limit,
        layers or ["activations"],
        curve_layers or [],
        directions,
        orders,
        points,
        resamples,
        seed,
        batch_size or 250,
        device,
    )
    stem = f"single_unit_ablation_{model}_{data_name(data)}".replace("/", "_").replace(":", "_")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    page = check_output(out / f"{stem}.md", overwrite=overwrite)
    splits = load_splits(data, cache)
    check_data(weights, splits)
    network = rebuild(model, weights, splits)
    zhou, morcos = run_protocols(network, splits, plan, keep)
    judgements = [judge_c9(zhou), judge_c10(zhou), judge_c11(zhou)]
    with writing(page):
        experiment = Experiment(
            model, data, data_note, zhou, morcos, judgements, _command(model, data, plan)
        )
        table = f"{stem}.csv"
        unit_rows(zhou).to_csv(out / table, index=False, float_format="%.6g")
        page.write_text(write_page(experiment, draw_all(experiment, out, stem), table))
    for each in judgements:
        typer.echo(f"{each.claim}: {each.verdict}")
    typer.echo(f"accuracy {float(zhou['accuracy']):.2%}: {page}")


def rebuild(model: str, weights: Path, splits: Splits) -> Network:
    """Return the trained network, in evaluation mode."""
    module = build_network(model, len(splits.class_names), splits.image_size)
    load_weights(module, weights, model)
    return Network(module, name=model, input_size=(3, splits.image_size, splits.image_size))


def check_data(weights: Path, splits: Splits) -> None:
    """Raise an error if the network was trained on other images.

    The folder of its run has their fingerprint; without it there is no check.

    Raises
    ------
    ContentsMismatchError
        The fingerprints differ.
    """
    path = weights.parent / CONFIG
    if not path.exists():
        return
    trained_on = json.loads(path.read_text()).get("data_fingerprint")
    if trained_on != splits.fingerprint:
        raise ContentsMismatchError(
            f"{weights} was trained on images of fingerprint {trained_on}, and --data has "
            f"{splits.fingerprint}; give the images of its training"
        )


def run_protocols(
    network: Network, splits: Splits, plan: Plan, keep: Path | None = None
) -> tuple[xr.DataTree, xr.DataTree]:
    """Return the trees of both protocols, from the folder `keep` if it has them.

    Raises
    ------
    OptionError
        A tree in the folder was made with other options.
    """
    seen, few = (_test_images(splits, limit) for limit in (plan.limit, plan.curve_limit))
    zhou = _kept(
        keep,
        "zhou",
        {
            "layers": plan.layers,
            "n_directions": plan.directions,
            **_shared(network, seen, plan),
        },
        lambda: zhou_protocol(
            network,
            seen,
            layers=plan.layers,
            n_directions=plan.directions,
            resamples=plan.resamples,
            seed=plan.seed,
            batch_size=plan.batch_size,
            device=plan.device,
        ),
    )
    names = list(zhou.children)
    chosen = plan.curve_layers or [names[0], names[len(names) // 2], names[-1]]
    morcos = _kept(
        keep,
        "morcos",
        {
            "layers": chosen,
            "n_orders": plan.orders,
            "n_points": plan.points,
            **_shared(network, few, plan),
        },
        lambda: morcos_protocol(
            network,
            few,
            layers=lambda layer: layer.name in chosen,
            n_orders=plan.orders,
            n_points=plan.points,
            resamples=plan.resamples,
            seed=plan.seed,
            batch_size=plan.batch_size,
            device=plan.device,
        ),
    )
    return zhou, morcos


def _test_images(splits: Splits, limit: int) -> Stimuli:
    chosen = balanced(splits.test.labels, limit)
    images = to_inputs(torch.from_numpy(splits.test.images[chosen]), splits.mean, splits.std)
    labels = splits.test.labels[chosen]
    return Stimuli(images.contiguous(), labels, splits.class_names, name="test")


def _shared(network: Network, stimuli: Stimuli, plan: Plan) -> dict[str, Any]:
    return {
        "weights_fingerprint": network.fingerprint,
        "stimuli_fingerprint": stimuli.fingerprint,
        "resamples": plan.resamples,
        "seed": plan.seed,
    }


def _kept(
    folder: Path | None, name: str, wanted: dict[str, Any], make: Callable[[], xr.DataTree]
) -> xr.DataTree:
    """Return the tree in a folder; make it and save it there if the folder does not have it."""
    if folder is None:
        return make()
    path = folder / f"{name}.h5"
    if not path.exists():
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
        made = make()
        made.attrs["made_with"] = json.dumps(wanted)
        save_tree(made, path)
    tree = open_store(path).load()
    made_with = json.loads(str(tree.attrs.get("made_with", "{}")))
    for option, value in wanted.items():
        if made_with.get(option) != value:
            raise OptionError(
                f"{path} was made with {option} {made_with.get(option)}, and {value} is "
                "asked for; remove it, or choose another --keep"
            )
    return tree


def _command(model: str, data: str, plan: Plan) -> str:
    """Return the command line that makes the page, without the paths of folders."""
    kind, _, folder = data.partition(":")
    shown = kind if not folder else f"{kind}:DIR"
    words = (
        "python -m recipes.single_unit_ablation.run --weights WEIGHTS "
        f"--model {model} --data {shown} --limit {plan.limit} "
        f"--directions {plan.directions} --curve-limit {plan.curve_limit} --orders {plan.orders} "
        f"--points {plan.points} --resamples {plan.resamples} --seed {plan.seed}"
    )
    if plan.layers != ["activations"]:
        words += "".join(f" --layers '{each}'" for each in plan.layers)
    return words + "".join(f" --curve-layers '{each}'" for each in plan.curve_layers)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UnitprobeWarning):
        typer.echo(f"warning: {message}", err=True)


if __name__ == "__main__":
    options.run(lambda: app(standalone_mode=False))
