"""Unit statistics as pure functions: arrays in, arrays out.

Responses are (stimulus, unit), labels (stimulus,) integers. Arrays may be of NumPy or of PyTorch
and the result is of the same library; a PyTorch result differentiates where the measure does.
"""

from unitprobe.metrics.dimensionality import (
    components_90,
    components_95,
    components_for,
    components_from_spectrum,
    covariance_spectrum,
    effective_rank,
    effective_rank_from_spectrum,
    participation_ratio,
    participation_ratio_from_spectrum,
)
from unitprobe.metrics.manifolds import ManifoldGeometry, manifold_geometry
from unitprobe.metrics.selectivity import (
    Weighting,
    ccmas,
    class_selectivity,
    preferred_class,
    selectivity_index,
)
from unitprobe.metrics.sign import SignPolicy, apply_sign_policy, count_negative
from unitprobe.metrics.similarity import linear_cka
from unitprobe.metrics.sparsity import (
    activity_ratio,
    dead,
    fraction_active,
    gini,
    hoyer_sparseness,
    kurtosis,
    lifetime_sparseness,
    population_sparseness,
)
from unitprobe.metrics.tuning import class_counts, class_means, class_sums

__all__ = [
    "ManifoldGeometry",
    "SignPolicy",
    "Weighting",
    "activity_ratio",
    "apply_sign_policy",
    "ccmas",
    "class_counts",
    "class_means",
    "class_selectivity",
    "class_sums",
    "components_90",
    "components_95",
    "components_for",
    "components_from_spectrum",
    "count_negative",
    "covariance_spectrum",
    "dead",
    "effective_rank",
    "effective_rank_from_spectrum",
    "fraction_active",
    "gini",
    "hoyer_sparseness",
    "kurtosis",
    "lifetime_sparseness",
    "linear_cka",
    "manifold_geometry",
    "participation_ratio",
    "participation_ratio_from_spectrum",
    "population_sparseness",
    "preferred_class",
    "selectivity_index",
]
