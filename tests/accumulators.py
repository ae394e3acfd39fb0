"""Every accumulator, how it is fed and what it computes, for tests that hold for all."""

import numpy as np

from unitprobe import online
from unitprobe.inference.resampling import draw_layouts, redraw

CLASSES = 5


def layer(stimuli, units, seed=0, signed=False):
    """Zeros, ties, a dead and a constant unit; unequal classes, one of them absent."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 3, 4], size=stimuli, p=[0.4, 0.3, 0.2, 0.1])
    responses = rng.normal(size=(CLASSES, units))[labels] + rng.normal(size=(stimuli, units))
    if not signed:
        responses = np.maximum(responses, 0)
    responses = np.round(responses, 1)
    responses[:, 0] = 0.0
    if units > 1:
        responses[:, 1] = 0.1
    return responses, labels


def resamples(labels, seed=3):
    counts = np.bincount(labels, minlength=CLASSES)
    return online.Resamples(draw_layouts(redraw, labels, counts, 4, seed), counts)


def bounded(both):
    return np.stack([both.value, both.error])


#: name -> (make(labels), feed(accumulator, responses, labels, indices, resamples), compute by name)
ACCUMULATORS = {
    "ClassMoments": (
        lambda labels: online.ClassMoments(CLASSES),
        lambda a, x, y, i, r: a.update(x, y),
        {
            "class_means": lambda a: a.class_means(),
            "class_variances": lambda a: a.class_variances(),
            "class_selectivity": lambda a: a.class_selectivity(),
            "ccmas": lambda a: a.ccmas(),
            "preferred_class": lambda a: a.preferred_class(),
            "localist_selectivity_by_class": lambda a: a.localist_selectivity_by_class(),
        },
    ),
    "ResponseMoments": (
        lambda labels: online.ResponseMoments(),
        lambda a, x, y, i, r: a.update(x),
        {
            "activity_ratio": lambda a: a.activity_ratio(),
            "lifetime_sparseness": lambda a: a.lifetime_sparseness(),
            "hoyer_sparseness": lambda a: a.hoyer_sparseness(),
            "kurtosis": lambda a: a.kurtosis(),
        },
    ),
    "ActivityCounts": (
        lambda labels: online.ActivityCounts(CLASSES),
        lambda a, x, y, i, r: a.update(x, y),
        {
            "fraction_active": lambda a: a.fraction_active(),
            "class_fraction_active": lambda a: a.class_fraction_active(),
            "dead": lambda a: a.dead(),
            "zeros": lambda a: a.zeros(),
            "negatives": lambda a: a.negatives(),
        },
    ),
    "Covariance": (
        lambda labels: online.Covariance(),
        lambda a, x, y, i, r: a.update(x),
        {
            "covariance": lambda a: a.covariance(),
            "spectrum": lambda a: a.spectrum(),
            "participation_ratio": lambda a: a.participation_ratio(),
        },
    ),
    "LinearCKA": (
        lambda labels: online.LinearCKA(),
        lambda a, x, y, i, r: a.update(x, abs(x[:, ::2])),
        {"linear_cka": lambda a: a.linear_cka()},
    ),
    "TopStimuli": (
        lambda labels: online.TopStimuli(3),
        lambda a, x, y, i, r: a.update(x, i),
        {
            "top_stimuli": lambda a: a.top_stimuli(),
            "responses": lambda a: a.responses(),
        },
    ),
    "PopulationSparseness": (
        lambda labels: online.PopulationSparseness(),
        lambda a, x, y, i, r: a.update(x, i),
        {"population_sparseness": lambda a: a.population_sparseness()},
    ),
    "ResponseHistogram": (
        lambda labels: online.ResponseHistogram(CLASSES, relative_error=0.05, bins=16),
        lambda a, x, y, i, r: a.update(x, y),
        {
            "roc_auc": lambda a: bounded(a.roc_auc()),
            "gini": lambda a: bounded(a.gini()),
            "median": lambda a: bounded(a.quantile(0.5)),
            "half_max_share": lambda a: bounded(a.half_max_share()),
            "average_precision": lambda a: bounded(a.average_precision_by_class()),
            "max_informedness": lambda a: bounded(a.max_informedness_by_class()),
            "threshold": lambda a: a.max_informedness_threshold_by_class(),
            "max_f1": lambda a: bounded(a.max_f1_by_class()),
            "recall_at_precision": lambda a: bounded(a.recall_at_precision_by_class()),
            "mutual_information": lambda a: bounded(a.mutual_information()),
        },
    ),
    "KeptResponses": (
        lambda labels: online.KeptResponses(CLASSES),
        lambda a, x, y, i, r: a.update(x, y),
        {
            "average_precision": lambda a: bounded(a.average_precision_by_class()),
            "threshold": lambda a: a.max_informedness_threshold_by_class(),
            "mutual_information": lambda a: bounded(a.mutual_information()),
        },
    ),
    "TopClasses": (
        lambda labels: online.TopClasses(CLASSES, k=2),
        lambda a, x, y, i, r: a.update(x, y),
        {"precision_at_k_by_class": lambda a: a.precision_at_k_by_class()},
    ),
    "TopRun": (
        lambda labels: online.TopRun(CLASSES),
        lambda a, x, y, i, r: a.update(x, y),
        {"top_class_selectivity_by_class": lambda a: a.top_class_selectivity_by_class()},
    ),
    "ResampledClassSums": (
        lambda labels: online.ResampledClassSums(4, np.bincount(labels, minlength=CLASSES)),
        lambda a, x, y, i, r: a.update(x, r.bags(i)),
        {"class_means": lambda a: np.concatenate(list(a.class_means()))},
    ),
}


def accumulate(name, responses, labels, parts):
    """Feed an accumulator the stimuli of each part (a list of indices) in turn."""
    make, feed, _ = ACCUMULATORS[name]
    accumulator, drawn = make(labels), resamples(labels)
    for part in parts:
        if len(part):
            feed(accumulator, responses[part], labels[part], np.asarray(part), drawn)
    return accumulator


def compute(name, accumulator):
    return {what: measure(accumulator) for what, measure in ACCUMULATORS[name][2].items()}
