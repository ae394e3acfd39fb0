"""Unit statistics as pure functions: arrays in, arrays out.

Responses are (stimulus, unit), labels (stimulus,) integers. Arrays may be of NumPy or of PyTorch
and the result is of the same library; a PyTorch result differentiates where the measure does.
"""

from unitprobe.metrics.canonical_correlation import canonical_correlations, pwcca, svcca
from unitprobe.metrics.classes import best_class, best_over_classes
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
from unitprobe.metrics.information import (
    bin_responses,
    mutual_information,
    mutual_information_from_bins,
)
from unitprobe.metrics.intrinsic_dimension import mle_dimension, twonn_dimension
from unitprobe.metrics.localist import (
    class_extremes,
    localist_selectivity,
    localist_selectivity_by_class,
    localist_selectivity_from_extremes,
)
from unitprobe.metrics.manifolds import ManifoldGeometry, manifold_geometry
from unitprobe.metrics.precision_recall import (
    average_precision,
    average_precision_by_class,
    max_f1,
    max_f1_by_class,
    recall_at_precision,
    recall_at_precision_by_class,
)
from unitprobe.metrics.ranking import RankingMeasure, ranking_measures
from unitprobe.metrics.ranks import RankedResponses, rank_responses
from unitprobe.metrics.roc import (
    max_informedness,
    max_informedness_by_class,
    max_informedness_threshold,
    max_informedness_threshold_by_class,
    roc_auc,
    roc_auc_by_class,
    roc_auc_from_mean_ranks,
)
from unitprobe.metrics.selectivity import (
    Weighting,
    ccmas,
    class_selectivity,
    preferred_class,
    selectivity_index,
)
from unitprobe.metrics.separation import (
    class_correlation,
    class_correlation_by_class,
    class_correlation_from_moments,
    d_prime,
    d_prime_by_class,
    d_prime_from_moments,
)
from unitprobe.metrics.sign import SignPolicy, apply_sign_policy, count_negative
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
from unitprobe.metrics.top_ranked import (
    precision_at_k,
    precision_at_k_by_class,
    top_class_selectivity,
    top_class_selectivity_by_class,
)
from unitprobe.metrics.tuning import (
    class_counts,
    class_fraction_active,
    class_means,
    class_sums,
    class_variances,
    top_stimuli,
)
from unitprobe.metrics.variance import (
    anova_f,
    anova_f_from_moments,
    eta_squared,
    eta_squared_from_moments,
)

__all__ = [
    "ManifoldGeometry",
    "RankedResponses",
    "RankingMeasure",
    "SignPolicy",
    "StimulusDistance",
    "Weighting",
    "activity_ratio",
    "anova_f",
    "anova_f_from_moments",
    "apply_sign_policy",
    "average_percentage_of_zeros",
    "average_precision",
    "average_precision_by_class",
    "best_class",
    "best_over_classes",
    "bin_responses",
    "canonical_correlations",
    "ccmas",
    "class_correlation",
    "class_correlation_by_class",
    "class_correlation_from_moments",
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
    "components_from_spectrum",
    "count_negative",
    "covariance_spectrum",
    "d_prime",
    "d_prime_by_class",
    "d_prime_from_moments",
    "dead",
    "effective_rank",
    "effective_rank_from_spectrum",
    "eta_squared",
    "eta_squared_from_moments",
    "fraction_active",
    "gini",
    "half_max_share",
    "hoyer_sparseness",
    "kurtosis",
    "lifetime_sparseness",
    "linear_cka",
    "localist_selectivity",
    "localist_selectivity_by_class",
    "localist_selectivity_from_extremes",
    "manifold_geometry",
    "max_f1",
    "max_f1_by_class",
    "max_informedness",
    "max_informedness_by_class",
    "max_informedness_threshold",
    "max_informedness_threshold_by_class",
    "mle_dimension",
    "mutual_information",
    "mutual_information_from_bins",
    "participation_ratio",
    "participation_ratio_from_spectrum",
    "population_sparseness",
    "precision_at_k",
    "precision_at_k_by_class",
    "preferred_class",
    "procrustes_similarity",
    "pwcca",
    "rank_responses",
    "ranking_measures",
    "recall_at_precision",
    "recall_at_precision_by_class",
    "representational_similarity",
    "roc_auc",
    "roc_auc_by_class",
    "roc_auc_from_mean_ranks",
    "selectivity_index",
    "svcca",
    "top_class_selectivity",
    "top_class_selectivity_by_class",
    "top_stimuli",
    "twonn_dimension",
]
