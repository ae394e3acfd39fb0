"""What an analysis can compute, by name: the functions of `unitprobe.metrics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from unitprobe import metrics as m
from unitprobe.inference import ClassMeasure
from unitprobe.typing import FloatArray

Responses: TypeAlias = npt.NDArray[Any]
Labels: TypeAlias = npt.NDArray[np.int64]

#: Measures of how the responses of a unit depend on the class; each can have a null.
CLASS_MEASURES: tuple[ClassMeasure, ...] = (
    "class_selectivity",
    "ccmas",
    "localist_selectivity",
    "top_class_selectivity",
    "precision_at_k",
    "max_informedness",
    "roc_auc",
    "average_precision",
    "recall_at_precision",
    "max_f1",
    "class_correlation",
    "d_prime",
    "mutual_information",
    "anova_f",
    "eta_squared",
)
assert set(CLASS_MEASURES) == set(get_args(ClassMeasure))

#: Those that rank the stimuli, and so share the sorting.
RANKING_MEASURES: tuple[m.RankingMeasure, ...] = (
    "localist_selectivity",
    "top_class_selectivity",
    "precision_at_k",
    "max_informedness",
    "roc_auc",
    "average_precision",
    "recall_at_precision",
    "max_f1",
)
#: Those with a value for each class, that do not rank.
BY_CLASS: Mapping[str, Callable[[Responses, Labels], FloatArray]] = {
    "class_correlation": m.class_correlation_by_class,
    "d_prime": m.d_prime_by_class,
}
#: Statistics of one unit, from responses (stimulus, unit) and labels (stimulus,).
UNIT_METRICS: Mapping[str, Callable[[Responses, Labels], npt.NDArray[Any]]] = {
    "class_selectivity": m.class_selectivity,
    "preferred_class": m.preferred_class,
    "ccmas": m.ccmas,
    "mutual_information": m.mutual_information,
    "anova_f": m.anova_f,
    "eta_squared": m.eta_squared,
    "lifetime_sparseness": lambda responses, _: m.lifetime_sparseness(responses),
    "hoyer_sparseness": lambda responses, _: m.hoyer_sparseness(responses),
    "gini": lambda responses, _: m.gini(responses),
    "kurtosis": lambda responses, _: m.kurtosis(responses),
    "half_max_share": lambda responses, _: m.half_max_share(responses),
    "fraction_active": lambda responses, _: m.fraction_active(responses),
    "dead": lambda responses, _: m.dead(responses),
}
#: Statistics of one unit for each class, (class_name, unit).
TUNING: Mapping[str, Callable[[Responses, Labels, int], FloatArray]] = {
    "tuning_curve": m.class_means,
    "class_variance": m.class_variances,
    "class_fraction_active": m.class_fraction_active,
}
#: Statistics of one layer, from the eigenvalues of the covariance of its units.
LAYER_METRICS: Mapping[str, Callable[[FloatArray], float]] = {
    "participation_ratio": m.participation_ratio_from_spectrum,
    "effective_rank": m.effective_rank_from_spectrum,
    "components_90": lambda spectrum: m.components_from_spectrum(spectrum, 0.90),
    "components_95": lambda spectrum: m.components_from_spectrum(spectrum, 0.95),
}
#: Statistics of one layer, from the distances between the responses to its stimuli.
DISTANCE_METRICS: Mapping[str, Callable[[Responses], float]] = {
    "twonn_dimension": lambda responses: float(m.twonn_dimension(responses)),
    "mle_dimension": lambda responses: float(m.mle_dimension(responses)),
}
METRICS: tuple[str, ...] = (
    *dict.fromkeys((*CLASS_MEASURES, *UNIT_METRICS)),
    *TUNING,
    "population_sparseness",
    *LAYER_METRICS,
    *DISTANCE_METRICS,
)
#: Defined for responses that are not negative.
NON_NEGATIVE = frozenset(
    {
        "class_selectivity",
        "ccmas",
        "lifetime_sparseness",
        "hoyer_sparseness",
        "gini",
        "half_max_share",
        "population_sparseness",
    }
)
#: Measures whose null, or whose bootstrap, takes one sum over the responses for each resample.
QUICK_NULL = frozenset(
    {
        "class_selectivity",
        "ccmas",
        "roc_auc",
        "class_correlation",
        "d_prime",
        "anova_f",
        "eta_squared",
    }
)
QUICK_BOOTSTRAP = QUICK_NULL - {"roc_auc"}


def default_metrics(stimuli: int) -> list[str]:
    """Return the names of all statistics that can be computed from so many stimuli."""
    impossible = {
        "precision_at_k": 60,
        "twonn_dimension": 3,
        "mle_dimension": 22,
    }
    return [name for name in METRICS if stimuli >= impossible.get(name, 0)]


def with_inference(names: Sequence[str], asked: bool, quick: frozenset[str]) -> list[ClassMeasure]:
    """Return the measures that get a null or an interval: all that were asked for, or the quick."""
    return [name for name in CLASS_MEASURES if name in names and (asked or name in quick)]
