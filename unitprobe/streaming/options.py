"""What one pass can do: which statistics, with how many resamples, in how much memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unitprobe.errors import OptionError
from unitprobe.inference.resampling import draw_layouts, redraw, shuffle
from unitprobe.metrics.registry import MEASURES, default_metrics, get_measure, measures
from unitprobe.online import Resamples, ResponseHistogram
from unitprobe.streaming.layer_statistics import BY_HISTOGRAM, SKETCHED
from unitprobe.streaming.resampled_measures import RESAMPLED_MEASURES, sums_for

#: The most that the histograms of all units and classes may occupy.
HISTOGRAM_BYTES = 2**30
#: The most that all responses may occupy to be kept, for exact measures with their inference.
KEPT_BYTES = 2**30
#: The most that the class sums of all units and resamples, with the draws, may occupy.
RESAMPLE_BYTES = 4 * 2**30


def check_metrics(metrics: Sequence[str] | None, stimuli: int) -> list[str]:
    """Return the names of the statistics to compute; for None all that `analyze` would compute.

    Raises
    ------
    OptionError
        One is not known.
    """
    if metrics is None:
        return default_metrics(stimuli)
    for name in metrics:
        get_measure(name)
    return list(metrics)


def check_options(
    pool: str, signed: str, *, n_permutations: int, n_bootstrap: int, seed: int
) -> None:
    """Refuse what one pass cannot do.

    Raises
    ------
    OptionError
        Positions are kept, negative responses are shifted or treated in no known way, or a number
        is negative.
    """
    if pool == "none":
        raise OptionError(
            "pool='none' keeps positions, over which an analysis averages; choose 'mean'"
        )
    if signed == "shift":
        raise OptionError(
            "signed='shift' needs the lowest response of every unit before the first stimulus; "
            "choose 'rectify', 'refuse' or 'allow', or record, then analyze the recording"
        )
    if signed not in ("allow", "rectify", "refuse"):
        raise OptionError(f"signed={signed!r} is not known; choose one of allow, rectify, refuse")
    for option, value in (
        ("n_permutations", n_permutations),
        ("n_bootstrap", n_bootstrap),
        ("seed", seed),
    ):
        if value < 0:
            raise OptionError(f"{option}={value} is negative; give 0 or more")


def keeps_responses(
    names: Sequence[str], units: int, stimuli: int, *, n_permutations: int, n_bootstrap: int
) -> bool:
    """Tell whether what one pass over sums gives not, or not exactly, is had from all responses."""
    ranked = (
        set(measures("class")) - set(RESAMPLED_MEASURES) if n_permutations or n_bootstrap else set()
    )
    needed = any(name in {*SKETCHED, *measures(needs=["distances"]), *ranked} for name in names)
    return needed and 8 * units * stimuli <= KEPT_BYTES


def fit_in_memory(names: Sequence[str], units: int, classes: int, *, by_name: bool) -> list[str]:
    """Return those of `names` that can be had without keeping all responses.

    Left out are those from distances, and those of histograms by class if these would not fit in
    memory.

    Raises
    ------
    OptionError
        Such a statistic was asked for by name.
    """
    distances = [name for name in names if MEASURES[name].needs == "distances"]
    if distances and by_name:
        raise OptionError(
            f"metric {distances[0]!r} needs the responses more than once, and all of {units:,} "
            f"units are above {KEPT_BYTES / 2**30:.0f} GiB; choose fewer layers, or record, then "
            "analyze the recording"
        )
    names = [name for name in names if name not in distances]
    needed = units * ResponseHistogram(classes).bytes_per_unit
    wanted = [name for name in names if name in BY_HISTOGRAM]
    if not wanted or needed <= HISTOGRAM_BYTES:
        return list(names)
    if by_name:
        raise OptionError(
            f"metric {wanted[0]!r} would need {needed / 2**30:.1f} GiB of histograms for {units:,} "
            f"units and {classes:,} classes, above {HISTOGRAM_BYTES / 2**30:.0f} GiB; choose fewer "
            "layers, or record, then analyze the recording"
        )
    return [name for name in names if name not in wanted]


def measures_with_inference(
    names: Sequence[str], *, asked: bool, n_permutations: int, n_bootstrap: int, keep: bool
) -> tuple[list[str], list[str]]:
    """Return the measures that get a null, and those that get an interval, as in `analyze`.

    Without all responses (`keep`) only those do whose resamples are sums over stimuli.
    """
    of_class = [name for name in names if MEASURES[name].kind == "class"]
    null_names = (
        [n for n in of_class if asked or MEASURES[n].null_by_default] if n_permutations else []
    )
    wanted = (
        [n for n in of_class if asked or MEASURES[n].interval_by_default] if n_bootstrap else []
    )
    return (
        [name for name in null_names if keep or name in RESAMPLED_MEASURES],
        [name for name in wanted if keep or name in RESAMPLED_MEASURES],
    )


def draw_resamples(
    labels: NDArray[np.int64],
    counts: NDArray[np.int64],
    units: int,
    null_names: Sequence[str],
    interval_names: Sequence[str],
    *,
    n_permutations: int,
    n_bootstrap: int,
    seed: int,
) -> dict[str, Resamples]:
    """Draw the resamples that `unitprobe.analyze` draws for the same seed, before any response.

    An interval needs shuffles too, as many as the null has, or as there are redraws.

    Raises
    ------
    OptionError
        Their class sums would not fit in memory.
    """
    shuffled = sums_for([*null_names, *interval_names])
    redrawn = sums_for(interval_names)
    wanted = {"shuffles": n_permutations or n_bootstrap, "redraws": n_bootstrap if redrawn else 0}
    if not shuffled:
        return {}
    sums_bytes = 8 * len(counts) * units
    draws_bytes = 3 * len(labels)
    bytes_each = {
        "shuffles": len(shuffled) * sums_bytes + draws_bytes,
        "redraws": len(redrawn) * sums_bytes + draws_bytes,
    }
    needed = sum(bytes_each[kind] * wanted[kind] for kind in wanted)
    if needed > RESAMPLE_BYTES:
        fitting = RESAMPLE_BYTES // sum(bytes_each[kind] for kind in wanted if wanted[kind])
        raise OptionError(
            f"n_permutations={n_permutations} and n_bootstrap={n_bootstrap} would need "
            f"{needed / 2**30:.1f} GiB for {units:,} units and {len(counts):,} classes, "
            f"above {RESAMPLE_BYTES / 2**30:.0f} GiB; "
            f"{fitting:,} of each fit, or fewer layers or metrics, or record, then analyze the "
            "recording"
        )
    return {
        name: Resamples(draw_layouts(draw, labels, counts, wanted[name], seed), counts)
        for name, draw in (("shuffles", shuffle), ("redraws", redraw))
        if wanted[name]
    }
