"""The page on an experiment, in Markdown: every number and sentence comes from the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import xarray as xr

from recipes.selectivity_regularization.claims import (
    Finding,
    Judgement,
    accuracy_tests,
    selectivity_fall,
)
from recipes.selectivity_regularization.figures import Picture
from recipes.selectivity_regularization.gathering import (
    FELL_APART,
    LAYER_MEASURES,
    at,
    fell_apart,
)
from recipes.selectivity_regularization.images import data_name
from recipes.selectivity_regularization.settings import PRESETS, find_preset
from recipes.selectivity_regularization.tabulating import (
    NONE,
    binomial_interval,
    interval_text,
    markdown_table,
    mean_cell,
    network_table,
    number,
    range_cell,
)
from unitprobe.inference import difference_over_networks

#: Settings of training that the command line can change, and their options.
_OPTIONS = {
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "weight_decay": "--weight-decay",
}


def write_page(
    runs: xr.Dataset,
    judgements: Sequence[Judgement],
    controls: xr.Dataset | None,
    pictures: Sequence[Picture],
    *,
    table_file: str,
    data_note: str = "",
    options: str = "",
) -> str:
    """Return the page.

    Parameters
    ----------
    runs, judgements, controls, pictures
        From `gathering.gather_runs`, `claims.judge_claims`, `controls.run_controls` (or None) and
        `figures.draw_all`.
    table_file : str
        Name of the CSV file of `tabulating.network_table`.
    data_note : str
        A sentence on the images, given by whoever ran it.
    options : str
        Of the command line that made the page.
    """
    config = runs.attrs["config"]
    parts = [
        f"# Selectivity regularization: {config['model']} on {data_name(config['data'])}",
        _what_was_run(runs, controls, data_note),
        _claims(judgements, config),
        _by_alpha(runs, table_file),
        _over_epochs(runs),
        *([_controls(controls)] if controls is not None else []),
        "## Figures",
        *(
            f"### {each.title}\n\n![{each.title}]({each.file})\n\n{each.caption}"
            for each in pictures
        ),
        _commands(config, options),
    ]
    return "\n\n".join(parts) + "\n"


def _what_was_run(runs: xr.Dataset, controls: xr.Dataset | None, data_note: str) -> str:
    config = runs.attrs["config"]
    table = network_table(runs)
    kind = config["data"].partition(":")[0]
    cells = [
        f"{alpha:g} (seeds {', '.join(map(str, group['seed']))})"
        for alpha, group in table.groupby("alpha")
    ]
    absent = [
        f"alpha {float(alpha):g} seed {int(seed)}"
        for alpha in runs["alpha"].data
        for seed in runs["seed"].data
        if not bool(runs["finished"].sel(alpha=alpha, seed=seed))
    ]
    lines = [
        f"{len(table)} networks, the last finished {runs.attrs['last_finished']}.",
        "",
        f"- Data: `{kind}`, {runs.sizes['class_name']} classes, {config['image_size']} pixels, "
        f"{runs.attrs['test_stimuli']:,} test images. {data_note}".rstrip(),
        f"- Training: preset `{config['preset']}`, {config['epochs']} epochs, batches of "
        f"{config['batch_size']}, learning rate {config['learning_rate']:g} "
        f"({config['schedule']}), momentum {config['momentum']:g}, weight decay "
        f"{config['weight_decay']:g}, precision {config['precision']}.",
        f"- Regularized and measured: {runs.sizes['layer']} layers "
        f"({', '.join(f'`{each}`' for each in config['layers'])}), {int(runs['units'].sum()):,} "
        f"units. Loss: cross-entropy - alpha * {config['measure']}; alpha below 0 suppresses it.",
        f"- Alphas: {'; '.join(cells)}.",
        f"- Time: {table['minutes'].sum() / 60:.1f} hours of training in all, "
        f"{table['minutes'].min():.1f} to {table['minutes'].max():.1f} minutes a network.",
        *(
            f"- Machine: {', '.join(f'{key} {value}' for key, value in environment.items())}."
            for environment in runs.attrs["environments"]
        ),
    ]
    if absent:
        lines.append(
            f"- Pairs of these alphas and seeds without a finished run: {', '.join(absent)}."
        )
    if runs.attrs["unfinished"]:
        lines.append(f"- Started and not finished: {', '.join(runs.attrs['unfinished'])}.")
    lines += _unstable(runs)
    if runs.attrs["schedules"]:
        left = ", ".join(runs.attrs["schedules"])
        lines.append(f"- Left out, because alpha is a schedule over epochs: {left}.")
    if controls is None:
        lines.append("- Not run: the controls that need the networks (rotation, ablation).")
    return "## What was run\n\n" + "\n".join(lines)


def _unstable(runs: xr.Dataset) -> list[str]:
    """Name the networks whose training fell apart: another learning rate might have kept them."""
    apart = fell_apart(runs)
    found = []
    for alpha in runs["alpha"].data:
        for seed in runs["seed"].data:
            if bool(apart.sel(alpha=alpha, seed=seed)):
                curve = runs["train_loss"].sel(alpha=alpha, seed=seed).data
                found.append(
                    f"alpha {alpha:g} seed {seed} (from {curve[0]:.2f} to {curve.max():.2f} in "
                    f"epoch {curve.argmax() + 1}; {curve[-1]:.2f} in the last)"
                )
    what = (
        f"- Fell apart in training, the loss rose to more than {FELL_APART} times that of the "
        "first epoch (left out of every test and verdict)"
    )
    return [f"{what}: {'; '.join(found)}."] if found else []


def _claims(judgements: Sequence[Judgement], config: dict[str, object]) -> str:
    parts = [
        "## Claims",
        'Claims of Leavitt & Morcos, "Selectivity considered harmful" (2020, arXiv:2003.01262); '
        "rules and thresholds are in `claims.py`. An interval is over seeds, paired: networks of "
        "one seed share initial weights and the order of images. It needs two seeds; without it "
        "the verdict is inconclusive, whatever the difference. A claim of several predictions is "
        "refuted at a level corrected for their number (Bonferroni). Accuracies are compared as "
        "log-odds and shown in points. `claims.py` says which rules were set before which runs.",
    ]
    if config["preset"] != "full":
        parts.append(
            f"These networks were trained by preset `{config['preset']}`, {config['epochs']} "
            "epochs, not by the published schedule; the verdicts hold for networks trained so."
        )
    parts.append(
        markdown_table(
            ["claim", "verdict", ""],
            [[each.claim, f"**{each.verdict}**", each.text] for each in judgements],
        )
    )
    for each in judgements:
        parts.append(f"### {each.claim}: {each.verdict}")
        parts.append(f"{each.text} {each.rule}")
        if each.reason:
            parts.append(f"Not run: {each.reason}.")
        if each.findings:
            parts.append(_findings(each.findings))
    return "\n\n".join(parts)


def _findings(findings: Iterable[Finding]) -> str:
    headings = ["prediction", "threshold", "alpha", "estimate", "interval", "seeds", "verdict"]
    rows = []
    for each in findings:
        sign = ">" if each.prediction.direction == "greater" else "<"
        interval = interval_text(each.low, each.high)
        if interval:
            interval += f" at level {each.level:.3g}"
        elif each.seeds < 2:
            interval = "one seed: no interval"
        else:
            interval = "no interval: the seeds do not differ"
        rows.append(
            [
                each.prediction.name,
                f"{sign} {each.prediction.threshold:g}",
                f"{each.alpha:g}",
                number(each.estimate, 2, signed="ratio" not in each.prediction.name),
                interval,
                str(each.seeds),
                each.verdict,
            ]
        )
    return markdown_table(headings, rows)


def _by_alpha(runs: xr.Dataset, table_file: str) -> str:
    tests = accuracy_tests(runs)
    percent = 100 * runs["test_accuracy"]
    has_plain = 0.0 in runs["alpha"]
    first, second = [], []
    for alpha in [float(alpha) for alpha in runs["alpha"].data]:
        networks = len(at(percent, alpha))
        test = tests.sel(alpha=alpha)
        against = [NONE] * 3
        if has_plain and alpha:
            fall = selectivity_fall(runs, alpha)
            gain = [float(test[name]) for name in ("gain", "low", "high")]
            against = [
                range_cell(gain, 2, signed=True),
                " and ".join(number(float(test[name]), 3) for name in ("p", "q")),
                range_cell(fall, 2),
            ]
        sampling = NONE
        if networks == 1:
            low, high = binomial_interval(at(percent, alpha)[0] / 100, runs.attrs["test_stimuli"])
            sampling = interval_text(100 * low, 100 * high)
        first.append(
            [f"{alpha:g}", str(networks), mean_cell(percent, alpha, 2), sampling, *against]
        )
        measures = [mean_cell(runs[f"mean_{name}"], alpha, 3) for name in LAYER_MEASURES[:-1]]
        dead = mean_cell(100 * runs["mean_dead_share"], alpha, 1)
        second.append([f"{alpha:g}", *measures, dead])
    return "\n\n".join(
        [
            "## By alpha",
            "Means over networks [95% t interval over networks, where there are two or more that "
            'differ]. "Sampling": for a single network, the 95% binomial (Wilson) interval of its '
            "accuracy, which is the chance of the test images alone and says nothing of another "
            "training. Gain in points of test accuracy over alpha 0 (paired by seed), with p and "
            "with q adjusted over all alphas (Benjamini & Hochberg); fall: SI at alpha 0 over SI.",
            markdown_table(
                [
                    "alpha",
                    "networks",
                    "test accuracy (%)",
                    "sampling",
                    "gain",
                    "p and q",
                    "fall of SI",
                ],
                first,
            ),
            "On test images, means over units without the dead ones, then over layers "
            f"({NONE} where a layer is dead throughout). Noise floor: the same after "
            f"{runs.attrs['null_shuffles']} shuffles of the labels.",
            markdown_table(
                [
                    "alpha",
                    "SI",
                    "noise floor",
                    "SI less noise floor",
                    "d-prime",
                    "mutual information (bits)",
                    "dead units (%)",
                ],
                second,
            ),
            f"Every network: [{table_file}]({table_file}).",
        ]
    )


def _over_epochs(runs: xr.Dataset) -> str:
    curves = runs["validation_class_selectivity"].mean("layer", skipna=False).mean("seed")
    rows = []
    for alpha in curves["alpha"].data:
        curve = curves.sel(alpha=alpha)
        if bool(curve.isnull().any()):
            rows.append([f"{alpha:g}", NONE, NONE, NONE])
            continue
        peak = curve.isel(epoch=int(curve.argmax("epoch")))
        rows.append(
            [
                f"{alpha:g}",
                f"{float(curve[0]):.3f}",
                f"{float(peak):.3f} (epoch {int(peak['epoch'])})",
                f"{float(curve[-1]):.3f}",
            ]
        )
    return "\n\n".join(
        [
            "## Selectivity over epochs",
            "SI on validation images in evaluation mode, mean over layers and seeds.",
            markdown_table(["alpha", "after epoch 1", "highest", "after the last"], rows),
        ]
    )


def _controls(controls: xr.Dataset) -> str:
    alphas = [float(alpha) for alpha in controls["alpha"].data]
    by_network = {str(name): _by_network(values) for name, values in controls.items()}
    rotation, ablation = [], []
    for alpha in alphas:
        similar = [mean_cell(by_network[name], alpha, 3) for name in ("cka", "pwcca")]
        names = ("at_axes", "at_axes_null", "upper_bound", "upper_bound_null")
        values = [mean_cell(by_network[name], alpha, 3) for name in names]
        beyond = by_network["upper_bound"] - by_network["upper_bound_null"]
        change = _against_plain(beyond, alpha, 3)
        rotation.append([f"{alpha:g}", *(similar if alpha else [NONE] * 2), *values, change])
        losses = [
            mean_cell(100 * by_network[name], alpha, 2)
            for name in ("mean_drop", "max_drop", "mean_class_drop")
        ]
        change = _against_plain(100 * by_network["mean_drop"], alpha, 2)
        ablation.append([f"{alpha:g}", *losses, change])
    pairs = controls.attrs["plain_pairs"]
    baseline = "There is one plain network, so no baseline of two trained from different seeds."
    if pairs:
        cka, cca = (float(controls[f"{n}_between_plain"].mean()) for n in ("cka", "pwcca"))
        baseline = (
            f"Between plain networks of different seeds ({pairs} pair{'s' * (pairs > 1)}): CKA "
            f"{cka:.3f}, PWCCA {cca:.3f}."
        )
    layers = ", ".join(f"`{name}`" for name in controls["ablated_layer"].data)
    return "\n\n".join(
        [
            "## Controls",
            "### Rotation",
            "Means over layers, then networks [95% t interval over networks]. CKA and PWCCA to the "
            f"plain network of the same seed, on {controls.attrs['stimuli']:,} test images. "
            f"{baseline} "
            "Best rotation: gradient ascent over rotations of a layer looked for the most "
            "SI beyond its noise floor. It searched on half of these images, and the "
            "table shows the value on the other half. Directions are rectified, and dead "
            "ones count as 0. A search may miss the best rotation, so the true upper "
            "bound may be higher. At the axes: the same for the units themselves. Noise "
            "floors come from shuffled labels; a direction that responds to few images "
            "has a higher one.",
            markdown_table(
                [
                    "alpha",
                    "CKA",
                    "PWCCA",
                    "SI at the axes",
                    "noise floor",
                    "SI of the best rotation",
                    "noise floor",
                    "best rotation less noise floor, against alpha 0",
                ],
                rotation,
            ),
            "### Ablation",
            f"Every unit of {layers} silenced in turn, "
            f"{controls.attrs['ablation_stimuli']:,} test images; in points of accuracy, over the "
            "units of a layer, then means over layers and networks. The largest losses are maxima "
            "over noisy values and so positive without any effect: compare them between alphas.",
            markdown_table(
                [
                    "alpha",
                    "mean absolute change",
                    "largest loss by a unit",
                    "mean largest loss of a class",
                    "mean absolute change against alpha 0",
                ],
                ablation,
            ),
        ]
    )


def _by_network(values: xr.DataArray) -> xr.DataArray:
    """Return means over layers, of the networks that have a value."""
    layers = [name for name in values.dims if name not in ("alpha", "seed")]
    means = values.mean(layers, skipna=False)
    return means.assign_coords(finished=means.notnull())


def _against_plain(values: xr.DataArray, alpha: float, digits: int) -> str:
    if not alpha:
        return NONE
    differs = difference_over_networks(at(values, alpha), at(values, 0.0))
    return range_cell([differs.value, differs.low, differs.high], digits, signed=True)


def _commands(config: dict[str, object], options: str) -> str:
    data = str(config["data"])
    kind, _, place = data.partition(":")
    shown = (
        kind
        if not place
        else f"{kind}:DIR/{data_name(data)}"
        if kind == "imagefolder"
        else f"{kind}:DIR"
    )
    words = f"--model {config['model']} --data {shown} --preset {config['preset']}"
    if config["preset"] in PRESETS:
        preset = find_preset(
            str(config["preset"]),
            str(config["model"]),
            data_name(data),
            int(str(config["image_size"])),
        )
        for name, option in _OPTIONS.items():
            if config[name] != getattr(preset, name):
                words += f" {option} {config[name]}"
    layers = config["layers"]
    if isinstance(layers, list) and layers != ["activations"]:
        words += "".join(f" --layers '{each}'" for each in layers)
    if config["measure"] != "class_selectivity":
        words += f" --measure {config['measure']}"
    if config["precision"] != "bfloat16":
        words += f" --precision {config['precision']}"
    return (
        "## Commands\n\nFrom the root of the checkout, for every alpha and seed above, "
        "then once:\n\n"
        f"```sh\npython -m {__package__}.train {words} --alpha ALPHA --seed SEED --out OUT\n"
        f"python -m {__package__}.analyse "
        f"OUT/{config['model']}-{data_name(data)}-{config['preset']}"
        f"{options}\n```"
    )
