"""Measures of units and layers as pure functions: arrays in, arrays out.

Arrays may be of NumPy or of PyTorch, and the result is of the same library. A PyTorch result
differentiates where the measure does. `unitprobe.metrics.registry` holds a record of every measure
that `unitprobe.analyze` knows.

The functions share these parameters:

responses : array
    (stimulus, unit), real and finite.
labels : array
    (stimulus,), the class of each stimulus, integers 0..C-1. The value of the best class needs at
    least two classes. A class without stimuli is left out.
class_count : int, optional
    The number of classes C. By default the highest label and one.
reduce : {"best", None}
    "best" gives the largest value over classes, (unit,); None gives those of all classes,
    (class_name, unit), with NaN in the row of a class without stimuli, or with all of them. The
    largest of several noisy values is biased upwards, so it needs its permutation null:
    `unitprobe.inference`.

They raise a ResponseError if the responses are not a (stimulus, unit) matrix of finite numbers, a
LabelError if the labels are not integers 0..C-1, one for each stimulus, or hold fewer than two
classes where two are needed, and an OptionError for an unknown `reduce`.
"""

from unitprobe.metrics.canonical_correlation import canonical_correlations, pwcca, svcca
from unitprobe.metrics.classes import Reduction, best_class, best_over_classes
from unitprobe.metrics.dimensionality import (
    components_90,
    components_95,
    components_for,
    covariance_spectrum,
    effective_rank,
    participation_ratio,
)
from unitprobe.metrics.information import mutual_information
from unitprobe.metrics.intrinsic_dimension import mle_dimension, twonn_dimension
from unitprobe.metrics.localist import class_extremes, localist_selectivity
from unitprobe.metrics.manifolds import ManifoldGeometry, manifold_geometry
from unitprobe.metrics.ranking import (
    average_precision,
    max_f1,
    max_informedness,
    max_informedness_threshold,
    precision_at_k,
    recall_at_precision,
    roc_auc,
    top_class_selectivity,
)
from unitprobe.metrics.selectivity import (
    Weighting,
    ccmas,
    class_selectivity,
    preferred_class,
    selectivity_index,
)
from unitprobe.metrics.separation import anova_f, class_correlation, d_prime, eta_squared
from unitprobe.metrics.sign import (
    AutoSignPolicy,
    SignPolicy,
    apply_sign_policy,
    count_negative,
)
from unitprobe.metrics.similarity import (
    StimulusDistance,
    linear_cka,
    procrustes_similarity,
    representational_similarity,
)
from unitprobe.metrics.sparsity import (
    activity_ratio,
    average_percentage_of_zeros,
    dead,
    fraction_active,
    gini,
    half_max_share,
    hoyer_sparseness,
    kurtosis,
    lifetime_sparseness,
    population_sparseness,
)
from unitprobe.metrics.tuning import (
    class_counts,
    class_fraction_active,
    class_means,
    class_sums,
    class_variances,
    top_stimuli,
)

__all__ = [
    "AutoSignPolicy",
    "ManifoldGeometry",
    "Reduction",
    "SignPolicy",
    "StimulusDistance",
    "Weighting",
    "activity_ratio",
    "anova_f",
    "apply_sign_policy",
    "average_percentage_of_zeros",
    "average_precision",
    "best_class",
    "best_over_classes",
    "canonical_correlations",
    "ccmas",
    "class_correlation",
    "class_counts",
    "class_extremes",
    "class_fraction_active",
    "class_means",
    "class_selectivity",
    "class_sums",
    "class_variances",
    "components_90",
    "components_95",
    "components_for",
    "count_negative",
    "covariance_spectrum",
    "d_prime",
    "dead",
    "effective_rank",
    "eta_squared",
    "fraction_active",
    "gini",
    "half_max_share",
    "hoyer_sparseness",
    "kurtosis",
    "lifetime_sparseness",
    "linear_cka",
    "localist_selectivity",
    "manifold_geometry",
    "max_f1",
    "max_informedness",
    "max_informedness_threshold",
    "mle_dimension",
    "mutual_information",
    "participation_ratio",
    "population_sparseness",
    "precision_at_k",
    "preferred_class",
    "procrustes_similarity",
    "pwcca",
    "recall_at_precision",
    "representational_similarity",
    "roc_auc",
    "selectivity_index",
    "svcca",
    "top_class_selectivity",
    "top_stimuli",
    "twonn_dimension",
]
