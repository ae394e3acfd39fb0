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
    "TopClasses": (
        lambda labels: online.TopClasses(CLASSES, k=2),
        lambda a, x, y, i, r: a.update(x, y),
        {"precision_at_k": lambda a: a.precision_at_k()},
    ),
    "TopRun": (
        lambda labels: online.TopRun(CLASSES),
        lambda a, x, y, i, r: a.update(x, y),
        {"top_class_selectivity": lambda a: a.top_class_selectivity()},
    ),
    "ResampledClassSums": (
        lambda labels: online.ResampledClassSums(4, np.bincount(labels, minlength=CLASSES)),
        lambda a, x, y, i, r: a.update(x, r.membership(i)),
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
