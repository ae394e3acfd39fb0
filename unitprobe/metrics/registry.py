"""The registry of measures: one record each, which everything else reads.

`unitprobe.analyze`, permutation nulls, intervals, variable attributes, the help of the command line
and the tables of the documentation know a measure from its record here and from nowhere else. To
add one, write its function and add its record: see ``docs/add_a_measure.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite, log2
from typing import Any, Literal, TypeAlias

import numpy as np

from unitprobe.errors import OptionError, nearest
from unitprobe.metrics import (
    dimensionality,
    information,
    intrinsic_dimension,
    localist,
    ranking,
    selectivity,
    separation,
    sparsity,
    tuning,
)
from unitprobe.metrics._selectivity_of_means import selectivity_of_means
from unitprobe.typing import Array, FloatArray, IntArray

#: What a measure has a value for:
#:
#: - "class": each unit, and it tells how the responses depend on the class; it can have a null
#: - "unit": each unit
#: - "tuning": each class and unit
#: - "stimulus": each stimulus
#: - "layer": the layer
Kind: TypeAlias = Literal["class", "unit", "tuning", "stimulus", "layer"]

#: What a measure can be computed from, other than all responses. It decides how nulls, resamples
#: and one-pass statistics are computed. `Measure.of` takes this:
#:
#: - "means": ``of(means, counts)``, means (..., class_name, unit), counts (class_name,)
#: - "moments": ``of(counts, means, variances)``, as `unitprobe.metrics.separation` describes
#: - "ranks": ``of(ranked_class)``, the formula of one class, of `unitprobe.metrics._ranks`
#: - "extremes": ``of(lowest, highest)``, the extremes (..., class_name, unit) of each class
#: - "bins": ``of(binned, labels)``, of the bins of `unitprobe.metrics.information`
#: - "spectrum": ``of(eigenvalues)``, of the covariance of the units of a layer
#: - "distances", "responses": only the function itself
Needs: TypeAlias = Literal[
    "means",
    "moments",
    "ranks",
    "extremes",
    "bins",
    "spectrum",
    "distances",
    "responses",
]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What everything else needs to know of a measure.

    Attributes
    ----------
    name : str
        The name of the variable in an analysis, and of the measure everywhere.
    kind : str
        What it has a value for: see `Kind`.
    function : callable
        From responses (stimulus, unit), and for kinds "class" and "tuning" the labels. Where
        `has_classes` is true it takes ``reduce=`` and ``class_count=``.
    long_name : str
        What it is, in a few words: the attribute of the variable and the help.
    formula, source : str
        For the documentation: the formula or its words, and who proposed it.
    range : tuple of float
        The smallest and the largest value. An interval leaves it only to hold an observed value
        that does, such as a corrected information below 0.
    valid_range : tuple of float, optional
        The attribute of the variable, if values may leave `range`.
    range_text : str
        The range in words, where it depends on the data.
    smallest, largest : callable, optional
        From the numbers of stimuli (class_name,), the smallest and the largest value, where it
        depends on them.
    constant : str
        For the documentation: the value of a unit that responds alike to every stimulus.
    units : str
        "1" for a pure number.
    has_classes : bool
        Whether every class has a value, of which the best is that of the unit.
    needs, of
        What it can be computed from, and how: see `Needs`.
    of_mean_ranks : callable, optional
        The values of all classes from the mean ranks (..., class_name, unit) of their stimuli and
        the numbers of stimuli (class_name,), if these are enough.
    assumes_non_negative : bool
        Whether negative responses raise an error unless ``signed=`` says how to treat them.
    labelled : bool
        Whether a function of kind "unit" takes labels too.
    options : mapping
        The options of the function that have a name elsewhere, with their defaults.
    fewest_stimuli : int
        With fewer stimuli it cannot be computed.
    no_effect : float or callable, optional
        The value of a unit to which all classes are the same, or a function of the numbers of
        stimuli (class_name,). None: the mean of the null.
    largest_resolved : callable, optional
        From the numbers of stimuli, the value above which sums in single precision do not differ
        from those of infinity.
    share_of : callable, optional
        For a share of stimuli: from the numbers of stimuli of the best class, the number of trials
        and the value if all succeed.
    redrawn_excess : callable, optional
        From the observed values and the numbers of stimuli, by how much values of redrawn stimuli
        are too high.
    uncorrected : callable, optional
        The function without its correction for few stimuli. What it corrects is subtracted from the
        values of redrawn stimuli.
    redraw_tails : bool
        Whether one or two extreme responses decide it, so that intervals redraw the tails.
    threshold_of : callable, optional
        The formula of ranks for the threshold that belongs to the value: variable
        ``NAME_threshold``.
    with_share : bool
        Whether the variable ``NAME_share`` holds it divided by min(stimuli, units).
    """

    name: str
    kind: Kind
    function: Callable[..., Any]
    long_name: str
    formula: str = ""
    source: str = ""
    range: tuple[float, float] = (-inf, inf)
    valid_range: tuple[float, float] | None = None
    range_text: str = ""
    smallest: Callable[[IntArray], float] | None = None
    largest: Callable[[IntArray], float] | None = None
    constant: str = ""
    units: str = "1"
    has_classes: bool = False
    needs: Needs = "responses"
    of: Callable[..., Any] | None = None
    of_mean_ranks: Callable[..., Any] | None = None
    assumes_non_negative: bool = False
    labelled: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    fewest_stimuli: int = 1
    no_effect: float | Callable[[IntArray], float] | None = 0.0
    largest_resolved: Callable[[IntArray], float] | None = None
    share_of: Callable[[IntArray], tuple[IntArray, FloatArray | IntArray | float]] | None = None
    redrawn_excess: Callable[[FloatArray, IntArray], FloatArray] | None = None
    uncorrected: Callable[..., Any] | None = None
    redraw_tails: bool = False
    threshold_of: Callable[..., Any] | None = None
    with_share: bool = False

    @property
    def null_by_default(self) -> bool:
        """Whether a null is computed unasked: if a permutation costs one sum over responses."""
        return self.interval_by_default or self.of_mean_ranks is not None

    @property
    def interval_by_default(self) -> bool:
        """Whether an interval is computed unasked: if a resample costs one sum over responses."""
        return self.needs in ("means", "moments")

    def compute(self, responses: Array, labels: Array, class_count: int | None = None) -> Any:
        """Return the values of the measure.

        Parameters
        ----------
        responses : array
            (stimulus, unit).
        labels : array
            (stimulus,).
        class_count : int, optional
            The number of classes; by default the highest label and one.

        Returns
        -------
        array or float
            (unit,) of kinds "class" and "unit", but (class_name, unit) where `has_classes`;
            (class_name, unit), (stimulus,) or a number of "tuning", "stimulus" and "layer".

        Raises
        ------
        ResponseError, LabelError, OptionError
            As the function.
        """
        if self.has_classes:
            return self.function(responses, labels, class_count=class_count, reduce=None)
        if self.kind == "tuning":
            return self.function(responses, labels, class_count)
        if self.kind == "class" or self.labelled:
            return self.function(responses, labels)
        return self.function(responses)


_ANY = (-inf, inf)
#: Variables of the summary by layer that are not named after a measure.
_SUMMARIES = {
    "units": "number of units",
    "dead_share": "share of units whose response to every stimulus is 0",
    "selective_share": "share of units whose class selectivity has a q below 0.05",
}
# A share of the variance below the rounding of sums in single precision.
_NEGLIGIBLE_SHARE = 1e-6


def _largest_share(counts: IntArray) -> float:
    return float(counts.max() / counts.sum())


def _f1_of_chance(counts: IntArray) -> float:
    largest = _largest_share(counts)
    return 2 * largest / (1 + largest)


def _largest_f(counts: IntArray) -> float:
    classes, stimuli = np.count_nonzero(counts), counts.sum()
    share = (1 - _NEGLIGIBLE_SHARE) / _NEGLIGIBLE_SHARE
    return float(share * (stimuli - classes) / max(classes - 1, 1))


def _largest_information(counts: IntArray) -> float:
    return log2(min(information.BINS, int(np.count_nonzero(counts))))


def excess_of_redrawn_f(f: FloatArray, counts: IntArray) -> FloatArray:
    """Return how much higher `anova_f` of redrawn stimuli is than the value it stands for.

    Parameters
    ----------
    f : array
        (unit,), F of the given stimuli.
    counts : array
        (class_name,), the number of stimuli of each class.

    Returns
    -------
    array
        (unit,), 0 where F is infinite.

    Notes
    -----
    Redrawing adds to the differences of the class means the noise that is in them already, which is
    worth 1, and makes the variance within classes smaller by C/N. So redrawn values lie around
    1 + F N/(N - C), which less this is F.
    """
    classes, stimuli = np.count_nonzero(counts), counts.sum()
    excess = 1 + np.where(np.isfinite(f), f, 0.0) * classes / np.maximum(stimuli - classes, 1)
    return np.where(np.isinf(f), 0.0, excess)


def _whole_class(members: IntArray) -> tuple[IntArray, float]:
    return members, 1.0


def _highest_k(members: IntArray) -> tuple[IntArray, FloatArray]:
    trials = np.minimum(members, ranking.K)
    return trials, trials / ranking.K


#: All measures by name, in the order in which an analysis holds them.
MEASURES: dict[str, Measure] = {}


def register(measure: Measure) -> Measure:
    """Add a measure to the registry, and return it.

    Raises
    ------
    OptionError
        There is a measure of this name.
    """
    if measure.name in MEASURES:
        raise OptionError(f"there is a measure {measure.name!r}; choose another name")
    MEASURES[measure.name] = measure
    return measure


@contextmanager
def registered(measure: Measure) -> Iterator[Measure]:
    """Add a measure to the registry while a block of code runs."""
    register(measure)
    try:
        yield measure
    finally:
        del MEASURES[measure.name]


def get_measure(name: str, kind: Kind | None = None) -> Measure:
    """Return the record of a measure.

    Raises
    ------
    OptionError
        No measure has this name, or it is not of this kind; the nearest are named.
    """
    known = measures(kind)
    if name not in known:
        what = f"not of kind {kind!r}" if name in MEASURES else "not known"
        near = ", ".join(nearest(name, known))
        raise OptionError(f"metric {name!r} is {what}; the nearest are {near}")
    return MEASURES[name]


def measures(kind: Kind | None = None, *, needs: Sequence[Needs] = ()) -> list[str]:
    """Return the names of all measures, or of those of a kind and of those with these needs."""
    return [
        name
        for name, measure in MEASURES.items()
        if kind in (None, measure.kind) and (not needs or measure.needs in needs)
    ]


def default_metrics(stimuli: int) -> list[str]:
    """Return the names of all measures that can be computed from so many stimuli."""
    return [name for name, measure in MEASURES.items() if stimuli >= measure.fewest_stimuli]


# How a variable follows from that of its measure: the words around its `long_name`, whether it has
# the units of the measure, and its range if this is not that of the measure.
_ENDINGS: Mapping[str, tuple[str, bool, tuple[float, float] | None]] = {
    "_null_mean": ("{}, mean under permuted labels", True, None),
    "_z": ("{}, in standard deviations above its mean under permuted labels", False, _ANY),
    "_p": ("{}, one-sided p-value of permuted labels", False, (0, 1)),
    "_q": ("{}, false discovery rate over all units of all layers", False, (0, 1)),
    "_corrected": ("{}, less its mean under permuted labels", True, _ANY),
    "_low": ("{}, lower end of the 95% interval", True, None),
    "_high": ("{}, upper end of the 95% interval", True, None),
    "_class": ("{}, index of the class that has it, -1 if none stands out", False, _ANY),
    "_share": ("{}, divided by min(stimuli, units)", False, (0, 1)),
}
#: Endings of the variables of a null and of an interval. `_q` follows from all layers together.
NULL_ENDINGS = ("_null_mean", "_z", "_p", "_corrected")
INTERVAL_ENDINGS = ("_low", "_high")


def measure_of(variable: str) -> str | None:
    """Return the measure that a variable of an analysis belongs to, None for any other variable.

    Examples
    --------
    >>> measure_of("roc_auc_p"), measure_of("roc_auc"), measure_of("label")
    ('roc_auc', 'roc_auc', None)
    """
    stems = [variable.removesuffix(ending) for ending in ("", *_ENDINGS, "_threshold")]
    return next((stem for stem in stems if stem in MEASURES), None)


def variable_attributes(name: str, *, bounded: bool = True) -> dict[str, Any]:
    """Return the attributes of a variable of an analysis.

    Parameters
    ----------
    name : str
        The name of the variable: that of a measure, alone or with one of the endings of an
        analysis, such as ``"class_selectivity_p"``.
    bounded : bool
        False where negative responses take a measure that assumes non-negative ones out of its
        range.

    Returns
    -------
    dict
        ``long_name`` and ``units``, and ``valid_range`` (a list of two numbers) where the values
        have bounds. Empty for an unknown variable.

    Examples
    --------
    >>> variable_attributes("roc_auc_p")["long_name"]
    'area under the ROC curve of the best class, one-sided p-value of permuted labels'
    >>> variable_attributes("roc_auc")["valid_range"]
    [0.0, 1.0]
    """
    if name in _SUMMARIES:
        return {"long_name": _SUMMARIES[name], "units": "1"}
    measure, words, same_units, limits = MEASURES.get(name), "{}", True, None
    if measure is None:
        stem = name.removesuffix("_threshold")
        measure = MEASURES.get(stem)
        if stem != name and measure is not None and measure.threshold_of is not None:
            return {
                "long_name": f"response from which the class of {measure.long_name} is predicted",
                "units": "response",
            }
        for ending, derived in _ENDINGS.items():
            if name.endswith(ending) and name.removesuffix(ending) in MEASURES:
                measure = MEASURES[name.removesuffix(ending)]
                words, same_units, limits = derived
    if measure is None:
        return {}
    if limits is None:
        limits = measure.valid_range or measure.range
        if not bounded and measure.assumes_non_negative:
            limits = _ANY
    attributes: dict[str, Any] = {
        "long_name": words.format(measure.long_name),
        "units": measure.units if same_units else "1",
    }
    if any(map(isfinite, limits)):
        attributes["valid_range"] = [float(limit) for limit in limits]
    return attributes


for _measure in (
    Measure(
        name="class_selectivity",
        kind="class",
        function=selectivity.class_selectivity,
        long_name="class selectivity index",
        formula="(mu_max - mu_rest) / (mu_max + mu_rest), every other class counting the same",
        source="Morcos et al. 2018; Leavitt and Morcos 2020",
        range=(0, 1),
        constant="0; NaN if dead",
        needs="means",
        of=partial(selectivity_of_means, weighting="class"),
        assumes_non_negative=True,
    ),
    Measure(
        name="ccmas",
        kind="class",
        function=selectivity.ccmas,
        long_name="class-conditional mean activity selectivity",
        formula="(mu_max - mu_rest) / (mu_max + mu_rest), every other stimulus counting the same",
        source="Zhou et al. 2018; Gale et al. 2020",
        range=(0, 1),
        valid_range=(-1, 1),
        constant="0; NaN if dead",
        needs="means",
        of=partial(selectivity_of_means, weighting="stimulus"),
        assumes_non_negative=True,
    ),
    Measure(
        name="localist_selectivity",
        kind="class",
        function=localist.localist_selectivity,
        long_name="gap between the responses to the best class and all others",
        formula="the larger of min_A x - max_notA x and min_notA x - max_A x",
        source="Bowers et al. 2014",
        range_text="any; above 0 is localist",
        constant="0",
        units="response",
        has_classes=True,
        needs="extremes",
        of=localist.localist_selectivity_from_extremes,
        no_effect=None,
        redraw_tails=True,
    ),
    Measure(
        name="top_class_selectivity",
        kind="class",
        function=ranking.top_class_selectivity,
        long_name="length of the run of one class at the top of the ranking",
        formula="top-ranked stimuli of one class before another comes",
        source="Gale et al. 2020",
        range=(0, inf),
        range_text="0 to n",
        largest=lambda counts: float(counts.max()),
        constant="0",
        units="stimuli",
        has_classes=True,
        needs="ranks",
        of=ranking.top_class_selectivity_of,
        no_effect=None,
        share_of=lambda members: (members, members),
        redraw_tails=True,
    ),
    Measure(
        name="precision_at_k",
        kind="class",
        function=ranking.precision_at_k,
        long_name=f"share of the best class among the {ranking.K} highest responses",
        formula=f"share of the most frequent class among the k = {ranking.K} highest responses",
        source="Zhou et al. 2015; Gale et al. 2020",
        range=(0, 1),
        range_text="1/C to 1",
        smallest=lambda counts: 1.0 / np.count_nonzero(counts),
        constant="largest share of a class",
        has_classes=True,
        needs="ranks",
        of=ranking.precision_at_k_of,
        options={"k": ranking.K},
        fewest_stimuli=ranking.K,
        no_effect=_largest_share,
        share_of=_highest_k,
    ),
    Measure(
        name="max_informedness",
        kind="class",
        function=ranking.max_informedness,
        long_name="largest informedness over thresholds",
        formula="max_t TPR(t) - FPR(t), FPR among the other stimuli only",
        source="Youden 1950; Gale et al. 2020",
        range=(0, 1),
        constant="0",
        has_classes=True,
        needs="ranks",
        of=ranking.max_informedness_of,
        share_of=_whole_class,
        threshold_of=ranking.max_informedness_threshold_of,
    ),
    Measure(
        name="roc_auc",
        kind="class",
        function=ranking.roc_auc,
        long_name="area under the ROC curve of the best class",
        formula="chance that a stimulus of A has a higher response than another",
        source="Mann and Whitney 1947",
        range=(0.5, 1),
        valid_range=(0, 1),
        range_text="0.5 to 1; of a single class 0 to 1",
        constant="0.5",
        has_classes=True,
        needs="ranks",
        of=ranking.roc_auc_of,
        of_mean_ranks=ranking.roc_auc_from_mean_ranks,
        no_effect=0.5,
        share_of=_whole_class,
    ),
    Measure(
        name="average_precision",
        kind="class",
        function=ranking.average_precision,
        long_name="average precision of the best class",
        formula="sum_t (recall(t) - recall(t - 1)) precision(t)",
        source="as scikit-learn",
        range=(0, 1),
        range_text="above 0 to 1",
        smallest=lambda counts: 1.0 / counts.sum(),
        constant="p, the largest share of a class",
        has_classes=True,
        needs="ranks",
        of=ranking.average_precision_of,
        no_effect=_largest_share,
        share_of=_whole_class,
    ),
    Measure(
        name="recall_at_precision",
        kind="class",
        function=ranking.recall_at_precision,
        long_name=f"largest recall at a precision of {ranking.PRECISION}",
        formula=f"largest share of A found at a precision of {ranking.PRECISION}",
        source="as scikit-learn",
        range=(0, 1),
        constant="0",
        has_classes=True,
        needs="ranks",
        of=ranking.recall_at_precision_of,
        options={"precision": ranking.PRECISION},
        no_effect=lambda counts: float(_largest_share(counts) >= ranking.PRECISION),
        share_of=_whole_class,
    ),
    Measure(
        name="max_f1",
        kind="class",
        function=ranking.max_f1,
        long_name="largest F1 score over thresholds",
        formula="max_t 2 precision(t) recall(t) / (precision(t) + recall(t))",
        source="van Rijsbergen 1979",
        range=(0, 1),
        range_text="2 p / (1 + p) to 1; of a single class from 0",
        smallest=_f1_of_chance,
        constant="2 p / (1 + p)",
        has_classes=True,
        needs="ranks",
        of=ranking.max_f1_of,
        no_effect=_f1_of_chance,
        share_of=_whole_class,
    ),
    Measure(
        name="class_correlation",
        kind="class",
        function=separation.class_correlation,
        long_name="correlation of the response with the best class",
        formula="Pearson's r with membership in A, or with its `probabilities`",
        source="Zhou et al. 2018",
        range=(-1, 1),
        constant="NaN",
        has_classes=True,
        needs="moments",
        of=separation.class_correlation_from_moments,
    ),
    Measure(
        name="d_prime",
        kind="class",
        function=separation.d_prime,
        long_name="sensitivity index of the best class",
        formula="(mu_A - mu_rest) / sqrt((var_A + var_rest) / 2)",
        source="Green and Swets 1966",
        range_text="any; infinite if neither varies",
        constant="NaN",
        units="standard deviation",
        has_classes=True,
        needs="moments",
        of=separation.d_prime_from_moments,
        largest_resolved=lambda counts: _NEGLIGIBLE_SHARE**-0.5,
    ),
    Measure(
        name="mutual_information",
        kind="class",
        function=information.mutual_information,
        long_name="mutual information of class and response",
        formula="of class and response in ten bins, after Miller and Madow",
        source="Shannon 1948; Panzeri et al. 2007",
        range=(0, inf),
        valid_range=_ANY,
        range_text="about 0 to log2 of classes or bins",
        largest=_largest_information,
        constant="0",
        units="bit",
        needs="bins",
        of=information.mutual_information_from_bins,
        uncorrected=partial(information.mutual_information, corrected=False),
    ),
    Measure(
        name="anova_f",
        kind="class",
        function=separation.anova_f,
        long_name="F statistic of a one-way analysis of variance over classes",
        formula="variance between classes / variance within; no best class",
        source="Fisher 1925",
        range=(0, inf),
        constant="NaN",
        needs="moments",
        of=separation.anova_f_from_moments,
        no_effect=1.0,
        largest_resolved=_largest_f,
        redrawn_excess=excess_of_redrawn_f,
    ),
    Measure(
        name="eta_squared",
        kind="class",
        function=separation.eta_squared,
        long_name="share of the variance that lies between classes",
        formula="SS_between / SS_total; no best class",
        source="Fisher 1925",
        range=(0, 1),
        constant="NaN",
        needs="moments",
        of=separation.eta_squared_from_moments,
    ),
    Measure(
        name="preferred_class",
        kind="unit",
        function=selectivity.preferred_class,
        labelled=True,
        long_name="index of the class of the highest mean response, -1 without any response",
        formula="the class of mu_max; -1 for a unit without any response",
        range_text="a class",
    ),
    Measure(
        name="lifetime_sparseness",
        kind="unit",
        function=sparsity.lifetime_sparseness,
        long_name="lifetime sparseness",
        formula="(1 - a) / (1 - 1/n), a = mean(r)^2 / mean(r^2)",
        source="Treves and Rolls 1991; Vinje and Gallant 2000",
        range=(0, 1),
        assumes_non_negative=True,
    ),
    Measure(
        name="hoyer_sparseness",
        kind="unit",
        function=sparsity.hoyer_sparseness,
        long_name="Hoyer's sparseness over stimuli",
        formula="(sqrt n - L1/L2) / (sqrt n - 1)",
        source="Hoyer 2004",
        range=(0, 1),
        assumes_non_negative=True,
    ),
    Measure(
        name="gini",
        kind="unit",
        function=sparsity.gini,
        long_name="Gini coefficient of the responses over stimuli",
        formula="2 sum_i i r_(i) / (n sum r) - (n + 1)/n, ascending",
        source="Hurley and Rickard 2009",
        range=(0, 1),
        range_text="0 to 1 - 1/n",
        assumes_non_negative=True,
    ),
    Measure(
        name="kurtosis",
        kind="unit",
        function=sparsity.kurtosis,
        long_name="excess kurtosis of the responses over stimuli",
        formula="excess, over stimuli",
        range=(-2, inf),
    ),
    Measure(
        name="half_max_share",
        kind="unit",
        function=sparsity.half_max_share,
        long_name="share of stimuli with at least half of the largest response",
        formula="share of stimuli with at least half of the largest response",
        range=(0, 1),
        range_text="1/n to 1",
        assumes_non_negative=True,
    ),
    Measure(
        name="fraction_active",
        kind="unit",
        function=sparsity.fraction_active,
        long_name="share of stimuli with a response above 0",
        formula="share of stimuli with a response above 0",
        range=(0, 1),
    ),
    Measure(
        name="dead",
        kind="unit",
        function=sparsity.dead,
        long_name="whether the response to every stimulus is 0",
        formula="exactly 0 to every stimulus",
        range_text="true, false",
    ),
    Measure(
        name="tuning_curve",
        kind="tuning",
        function=tuning.class_means,
        long_name="mean response to each class",
        formula="the mean response to each class",
        units="response",
    ),
    Measure(
        name="class_variance",
        kind="tuning",
        function=tuning.class_variances,
        long_name="variance of the responses to each class",
        formula="the population variance of the responses to each class",
        range=(0, inf),
        units="response^2",
    ),
    Measure(
        name="class_fraction_active",
        kind="tuning",
        function=tuning.class_fraction_active,
        long_name="share of the stimuli of each class with a response above 0",
        formula="`fraction_active` of the stimuli of each class",
        range=(0, 1),
    ),
    Measure(
        name="population_sparseness",
        kind="stimulus",
        function=sparsity.population_sparseness,
        long_name="population sparseness",
        formula="the same over the n units that respond to one stimulus",
        source="Treves and Rolls 1991; Vinje and Gallant 2000",
        range=(0, 1),
        assumes_non_negative=True,
    ),
    Measure(
        name="participation_ratio",
        kind="layer",
        function=dimensionality.participation_ratio,
        long_name="participation ratio of the principal components",
        formula="(sum l)^2 / sum l^2",
        source="Gao et al. 2017",
        range=(1, inf),
        range_text="1 to units",
        needs="spectrum",
        of=dimensionality.participation_ratio_from_spectrum,
    ),
    Measure(
        name="effective_rank",
        kind="layer",
        function=dimensionality.effective_rank,
        long_name="effective rank of the centred responses",
        formula="exp of the entropy of s / sum s",
        source="Roy and Vetterli 2007",
        range=(1, inf),
        range_text="1 to units",
        needs="spectrum",
        of=dimensionality.effective_rank_from_spectrum,
    ),
    Measure(
        name="components_90",
        kind="layer",
        function=dimensionality.components_90,
        long_name="principal components with 90% of the variance",
        formula="fewest principal components with 90% of the variance",
        range=(0, inf),
        range_text="1 to units",
        needs="spectrum",
        of=partial(dimensionality.components_from_spectrum, share=0.90),
        with_share=True,
    ),
    Measure(
        name="components_95",
        kind="layer",
        function=dimensionality.components_95,
        long_name="principal components with 95% of the variance",
        formula="fewest principal components with 95% of the variance",
        range=(0, inf),
        range_text="1 to units",
        needs="spectrum",
        of=partial(dimensionality.components_from_spectrum, share=0.95),
        with_share=True,
    ),
    Measure(
        name="twonn_dimension",
        kind="layer",
        function=intrinsic_dimension.twonn_dimension,
        long_name="intrinsic dimension from the two nearest neighbours",
        formula="slope of -log(1 - F) on log(r2/r1) over stimuli, the largest 10% left out",
        source="Facco et al. 2017",
        range=(0, inf),
        range_text="above 0",
        needs="distances",
        fewest_stimuli=3,
    ),
    Measure(
        name="mle_dimension",
        kind="layer",
        function=intrinsic_dimension.mle_dimension,
        long_name="intrinsic dimension by maximum likelihood",
        formula="1 / mean of log(r_k/r_j), j < k = 20",
        source="Levina and Bickel 2004; MacKay and Ghahramani 2005",
        range=(0, inf),
        range_text="above 0",
        needs="distances",
        fewest_stimuli=22,
    ),
):
    register(_measure)
