"""How to treat negative responses before a measure that assumes non-negative input."""

from __future__ import annotations

from typing import Literal, get_args

from array_api_compat import array_namespace

from unitprobe.errors import OptionError, ResponseError
from unitprobe.metrics._arrays import as_responses
from unitprobe.typing import Array

#: What is done about negative responses.
SignPolicy = Literal["allow", "rectify", "shift", "refuse"]
#: The same for many measures at once: "auto" leaves out those that assume non-negative input.
AutoSignPolicy = Literal["auto", "rectify", "shift", "allow", "refuse"]


def count_negative(responses: Array) -> int:
    """Count the negative responses.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.

    Returns
    -------
    int
        How many of the values are below 0.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Examples
    --------
    >>> import numpy as np
    >>> count_negative(np.array([[-1.0, 2.0], [0.0, -3.0]]))
    2
    """
    responses = as_responses(responses)
    return int(array_namespace(responses).sum(responses < 0))


def apply_sign_policy(responses: Array, signed: SignPolicy) -> Array:
    """Do with negative responses as asked.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    signed : {"allow", "rectify", "shift", "refuse"}
        Leave them as they are; set them to 0; subtract from each unit the lowest of its
        responses, so that this becomes 0 (a unit without a negative response is left as it is);
        or raise.

    Returns
    -------
    array
        (stimulus, unit), in full precision; nowhere negative unless allowed.

    Raises
    ------
    ResponseError
        Some are negative and they are refused, or the responses are not a (stimulus, unit) matrix
        of finite numbers.
    OptionError
        The policy is unknown.

    Notes
    -----
    Class selectivity and sparseness are defined for responses that are nowhere negative. To
    rectify asks how selective the positive part of the response is; to shift takes the lowest
    response seen for silence, and so depends on a single stimulus.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[-1.0, 2.0], [0.0, 3.0]])
    >>> apply_sign_policy(responses, "rectify")
    array([[0., 2.],
           [0., 3.]])
    >>> apply_sign_policy(responses, "shift")
    array([[0., 2.],
           [1., 3.]])
    """
    if signed not in get_args(SignPolicy):
        known = ", ".join(get_args(SignPolicy))
        raise OptionError(f"signed={signed!r} is not known; choose one of {known}")
    responses = as_responses(responses)
    xp = array_namespace(responses)
    if signed == "rectify":
        return xp.where(responses < 0, 0.0, responses)
    if signed == "shift":
        lowest = xp.min(responses, axis=0, keepdims=True)
        return responses - xp.where(lowest < 0, lowest, 0.0)
    negative = int(xp.sum(responses < 0))
    if signed == "refuse" and negative:
        size = responses.shape[0] * responses.shape[1]
        raise ResponseError(
            f"{negative} of {size} responses are negative, but this measure assumes non-negative "
            "input; choose signed='rectify', 'shift' or 'allow' (--signed)"
        )
    return responses
