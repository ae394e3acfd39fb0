"""The demonstration: train, record, analyze, ablate, compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import xarray as xr
from safetensors.torch import save_file

from unitprobe.ablation import ablate
from unitprobe.analysis import analyze
from unitprobe.demo.small_network import make_network
from unitprobe.demo.training import train
from unitprobe.models import Network
from unitprobe.recording import record
from unitprobe.report import NetworkResult, check_folder, write_comparison, write_report
from unitprobe.stimuli import Stimuli, load_stimuli
from unitprobe.store import save_tree, writing

#: Weight of the regularizer by network: ``loss = cross_entropy - alpha * SI``.
ALPHAS: Mapping[str, float] = {"suppressed": -1.0, "plain": 0.0, "promoted": 1.0}
PERMUTATIONS = 1000
RESAMPLES = 200


def run_demo(
    out: Path, *, seed: int = 0, overwrite: bool = False, progress: bool = True
) -> Iterator[str]:
    """Run the demonstration; yield a line of text as each finding is made.

    Parameters
    ----------
    out : Path
        Folder for the results: three stores with their analyses, ablations, weights and reports,
        ``comparison.csv`` and ``index.html``.
    seed : int
        Seed of weights, training, permutations and resamples.
    overwrite : bool
        Replace the results of an earlier run.
    progress : bool
        Show progress bars if standard error is a terminal.

    Raises
    ------
    StoreExistsError
        The folder has something in it and `overwrite` is false.
    """
    check_folder(out, overwrite=overwrite)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    digits = load_stimuli("digits", split="train")
    unseen = load_stimuli("digits", split="test")
    yield (
        f"Training three small residual networks on {len(digits)} handwritten digits; "
        f"probing them with {len(unseen)} others."
    )
    results = []
    for name, alpha in ALPHAS.items():
        network = make_network(name, seed)
        train(network, digits, alpha=alpha, seed=seed, progress=progress)
        result = _probe(network, unseen, out, seed=seed, progress=progress, alpha=alpha)
        results.append(result)
        yield _finding(result)
    page = write_comparison(results, out, overwrite=True)
    yield from _conclusion(results)
    yield f"Open {page} in a browser. xarray opens the stores without unitprobe:"
    yield f"  xarray.open_datatree('{out / 'plain.h5'}', engine='h5netcdf')"
    yield "Next: unitprobe record MODEL imagefolder:DIR --out store.h5, with a network of your own."


def _probe(
    network: Network, stimuli: Stimuli, out: Path, *, seed: int, progress: bool, alpha: float
) -> NetworkResult:
    name = network.name
    save_file(network.module.state_dict(), out / f"{name}.safetensors")
    tree = record(
        network, stimuli, out / f"{name}.h5", resume=False, overwrite=True, progress=progress
    )
    analysis = analyze(
        tree, n_permutations=PERMUTATIONS, n_bootstrap=RESAMPLES, seed=seed, progress=progress
    )
    save_tree(analysis, out / f"{name}-analysis.h5", overwrite=True)
    ablation = ablate(network, stimuli, batch_size=len(stimuli), progress=progress)
    save_tree(ablation, out / f"{name}-ablation.h5", overwrite=True)
    write_report(analysis, out / name, ablation=ablation, title=f"DigitNet, {name}", overwrite=True)
    return NetworkResult(
        name=name,
        analysis=analysis,
        ablation=ablation,
        notes=f"loss = cross-entropy - ({alpha:g}) * SI",
    )


def _selectivity(analysis: xr.DataTree) -> float:
    return float(analysis["class_selectivity"].mean())


def _finding(result: NetworkResult) -> str:
    analysis, ablation = result.analysis, result.ablation
    null = float(analysis["class_selectivity_null_mean"].mean())
    beyond = sum(
        int((node["class_selectivity_q"] < 0.05).sum()) for node in analysis.children.values()
    )
    units = int(analysis["units"].sum())
    drop = max(float(node["accuracy_drop"].max()) for node in ablation.children.values())
    worst = max(float(node["max_class_accuracy_drop"].max()) for node in ablation.children.values())
    return (
        f"{result.name}: accuracy {float(ablation['accuracy']):.1%}; "
        f"class selectivity {_selectivity(analysis):.2f} (shuffled labels {null:.2f}), "
        f"{beyond} of {units} units beyond chance; "
        f"the worst single unit costs {100 * drop:.1f} points, {100 * worst:.1f} in one class"
    )


def _conclusion(results: list[NetworkResult]) -> Iterator[str]:
    by_name = {result.name: result for result in results}
    plain = by_name["plain"]
    for name in ("suppressed", "promoted"):
        other = by_name[name]
        factor = _selectivity(other.analysis) / _selectivity(plain.analysis)
        change = float(other.ablation["accuracy"]) - float(plain.ablation["accuracy"])
        yield (
            f"{name} against plain: {factor:.2f} times the class selectivity, "
            f"{100 * change:+.1f} points of accuracy (one seed: no claim beyond this run)"
        )
