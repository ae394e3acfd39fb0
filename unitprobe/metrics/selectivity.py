"""Class selectivity: how much more a unit responds to one class than to the others.

The index is that of Morcos, Barrett, Rabinowitz & Botvinick, "On the importance of single
directions for generalization" (ICLR 2018, arXiv:1803.06959), as used by Leavitt & Morcos,
"Selectivity considered harmful" (arXiv:2003.01262). What is measured and what is regularized are
the same function.
"""

from __future__ import annotations

from typing import Literal

from array_api_compat import array_namespace, device

from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.metrics._arrays import (
    as_array,
    as_labels,
    as_responses,
    centred,
    divide,
    replace,
    widen,
)
from unitprobe.metrics.tuning import class_counts, class_means
from unitprobe.typing import Array

#: What the mean over the other classes weights equally: every class, or every stimulus.
Weighting = Literal["class", "stimulus"]


def class_selectivity(
    responses: Array, labels: Array, *, weighting: Weighting = "class", eps: float = 0.0
) -> Array:
    """Class selectivity index of each unit.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; the index is meant for responses that are nowhere
        negative, such as those after a ReLU.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1. A class without stimuli is left
        out; at least two must have some.
    weighting : {"class", "stimulus"}
        Whether the mean response to the other classes is a mean over classes, or over stimuli
        (`ccmas`). They differ where classes have unequal numbers of stimuli.
    eps : float
        Added to the denominator. A loss uses 1e-7, and so gives a silent unit 0 and not NaN.

    Returns
    -------
    array
        (unit,), 0 (the same mean response to every class) to 1 (a response to one class alone)
        where no response is negative. NaN for a unit that responds to nothing, unless `eps` is
        given.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.

    See Also
    --------
    selectivity_index : The same from class means.
    apply_sign_policy : What to do about negative responses.

    Notes
    -----
    SI = (mu_max - mu_rest) / (mu_max + mu_rest), with mu_max the largest of the class means and
    mu_rest the mean of the others: Morcos et al. 2018; Leavitt & Morcos 2020. The formula is
    applied to signed responses as it stands, and is then unbounded and without meaning where the
    denominator nears 0.

    The maximum of noisy means exceeds their mean, so a unit without any selectivity has an index
    above 0, the more so the fewer stimuli a class has: 0.115 for rectified Gaussian noise and 10
    classes of 100 stimuli. See `unitprobe.inference` for the null and the interval.

    Examples
    --------
    A unit that responds to class 1 alone, one that responds to all alike, and a dead one:

    >>> import numpy as np
    >>> responses = np.array([[0.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    >>> class_selectivity(responses, np.array([0, 1, 2]))
    array([ 1.,  0., nan])
    """
    responses = as_responses(responses)
    labels = as_labels(labels, responses=responses)
    counts = class_counts(labels)
    xp = array_namespace(counts)
    if xp.sum(counts > 0) < 2:
        raise LabelError("selectivity needs stimuli of at least two classes, the labels hold one")
    means = class_means(responses, labels)
    return selectivity_index(means, counts, weighting=weighting, eps=eps)


def ccmas(responses: Array, labels: Array) -> Array:
    """Class-conditional mean activity selectivity of each unit.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real, finite and meant to be nowhere negative.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1.

    Returns
    -------
    array
        (unit,), as `class_selectivity`: 0 to 1 where no response is negative, or a little less
        than 0 where classes are unbalanced; NaN for a unit that responds to nothing.

    Raises
    ------
    ResponseError, LabelError
        As `class_selectivity`.

    Notes
    -----
    CCMAS = (mu_A - mu_notA) / (mu_A + mu_notA), with A the class of the highest mean response and
    mu_notA the mean response to all *stimuli* of other classes: Gale, Martin, Blything, Nguyen &
    Bowers, "Are there any 'object detectors' in the hidden layers of CNNs trained to identify
    objects or scenes?" (Vision Research 2020, arXiv:2007.01062). It equals
    `class_selectivity` where every class has the same number of stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[4.0], [2.0], [0.0], [0.0], [0.0]])
    >>> labels = np.array([0, 1, 2, 2, 2])
    >>> ccmas(responses, labels), class_selectivity(responses, labels)
    (array([0.77777778]), array([0.6]))
    """
    return class_selectivity(responses, labels, weighting="stimulus")


def preferred_class(responses: Array, labels: Array) -> Array:
    """Class of the highest mean response of each unit.

    Parameters
    ----------
    responses, labels
        See `unitprobe.metrics`.

    Returns
    -------
    array
        (unit,), integers: the class, the lowest of those that tie, or -1 for a unit whose
        response to every stimulus is 0.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[0.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    >>> preferred_class(responses, np.array([0, 1, 2]))
    array([ 1,  0, -1])
    """
    responses = as_responses(responses)
    # Rounding must not tell apart the means of a unit that responds alike to everything.
    means = class_means(centred(responses), labels)
    xp = array_namespace(means)
    best = xp.argmax(xp.where(xp.isnan(means), -xp.inf, means), axis=0)
    return xp.where(xp.all(responses == 0, axis=0), -1, best)


def selectivity_index(
    class_means: Array,
    counts: Array | None = None,
    *,
    weighting: Weighting = "class",
    eps: float = 0.0,
) -> Array:
    """Class selectivity index of each unit from its tuning curve.

    Parameters
    ----------
    class_means : array
        (..., class_name, unit), the mean response of each unit to each class, such as
        `unitprobe.metrics.class_means` gives, with any dimensions before, such as resamples.
        NaN for a class without stimuli. Values are trusted, not looked at, so that an
        accelerator does not wait.
    counts : array, optional
        (class_name,) or (..., class_name), the number of stimuli of each class; a class with 0
        is left out. Needed for ``weighting="stimulus"``.
    weighting, eps
        As `class_selectivity`.

    Returns
    -------
    array
        (..., unit), as `class_selectivity`; NaN too where fewer than two classes have stimuli.

    Raises
    ------
    ResponseError
        The class means have fewer than two dimensions.
    OptionError
        The weighting is unknown, or by stimulus without `counts`.

    Notes
    -----
    See `class_selectivity`. It differentiates in `class_means`, and absent classes and silent
    units give no NaN gradient.

    Examples
    --------
    A unit that responds equally to 3 of 10 classes has (10 - 3) / (10 + 3 - 2) = 7/11:

    >>> import numpy as np
    >>> tuning = np.zeros((10, 1))
    >>> tuning[:3] = 1.0
    >>> selectivity_index(tuning)
    array([0.63636364])
    """
    if weighting not in ("class", "stimulus"):
        raise OptionError(f"weighting={weighting!r} is not known; choose 'class' or 'stimulus'")
    if weighting == "stimulus" and counts is None:
        raise OptionError("weighting='stimulus' needs the number of stimuli of each class: counts")
    means = widen(as_array(class_means))
    if means.ndim < 2:
        raise ResponseError(
            f"class means must be (..., class_name, unit), got shape {tuple(means.shape)}"
        )
    xp = array_namespace(means)
    present = ~xp.isnan(means)
    weights = xp.astype(present, means.dtype)
    if counts is not None:
        counts = xp.asarray(counts, dtype=means.dtype, device=device(means))[..., None]
        present = present & (counts > 0)
        weights = xp.astype(present, means.dtype)
        if weighting == "stimulus":
            weights = weights * counts
    # Absent classes leave before the arithmetic: a NaN that is masked afterwards still makes a
    # NaN gradient.
    means = replace(means, ~present, 0.0)

    best = xp.argmax(replace(means, ~present, -xp.inf), axis=-2, keepdims=True)
    classes = xp.arange(means.shape[-2], device=device(means))[:, None]
    is_best = classes == best
    weights = replace(weights, is_best, 0.0)

    highest = xp.sum(replace(means, ~is_best, 0.0), axis=-2)
    rest = divide(xp.sum(weights * means, axis=-2), xp.sum(weights, axis=-2))
    return divide(highest - rest, highest + rest + eps)
