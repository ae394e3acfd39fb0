"""The base class of all accumulators: responses in, state that merges, results out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitprobe.errors import OptionError, ResponseError
from unitprobe.metrics._arrays import as_labels, as_responses
from unitprobe.typing import Array

Results = NDArray[Any]


class Accumulator(ABC):
    """Running sums that see each stimulus once.

    ``update`` adds some stimuli. ``merge`` adds the state of an accumulator that saw other stimuli.
    A method with the name of a metric returns its value on all stimuli. How the stimuli are split,
    and the order of the parts, never changes a count or an extreme; it changes other results only
    by rounding.

    Responses may be NumPy arrays or PyTorch tensors; the state is in float64 on the device of the
    first (on the CPU where the device has no float64), and results are NumPy arrays.

    Attributes
    ----------
    stimuli : int
        How many stimuli were seen.
    units : int or None
        How many units they have; None before the first update.
    """

    def __init__(self) -> None:
        self.stimuli = 0
        self.units: int | None = None

    @abstractmethod
    def _begin(self, units: int, device: torch.device) -> None:
        """Set the state to that of no stimuli, when the number of units is known."""

    @abstractmethod
    def _add(self, other: Self) -> None:
        """Add the state of another, on the same device; `stimuli` is still the earlier number."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Return the settings that two accumulators must share to be merged, by name."""

    def merge(self, other: Self) -> Self:
        """Add what another accumulator of the same kind has seen, and return this one.

        Raises
        ------
        OptionError
            The two are of different kinds or settings.
        ResponseError
            They have seen layers of different numbers of units.
        """
        mine, others = self._describe(), other._describe()
        if mine != others:
            raise OptionError(f"{others} cannot be merged into {mine}")
        if other.units is None:
            return self
        if self.units is None:
            self.__dict__.update(copy.deepcopy(other.__dict__))
            return self
        if self.units != other.units:
            raise ResponseError(
                f"a layer of {other.units} units cannot be merged into one of {self.units}"
            )
        self._absorb(other.to(self._device))
        return self

    def to(self, device: torch.device | str) -> Self:
        """Return a copy with its state on a device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Accumulator):
                setattr(moved, name, value.to(device))
        return moved

    @property
    def _device(self) -> torch.device:
        return next(value.device for value in vars(self).values() if isinstance(value, Tensor))

    def _absorb(self, part: Self) -> None:
        self._add(part)
        self.stimuli += part.stimuli

    def _describe(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self._settings().items())
        return f"{type(self).__name__}({settings})"

    def _take(self, responses: Array) -> Tensor:
        """Return responses in double precision, after checking the number of units."""
        values = as_tensor(responses)
        if self.units is None:
            self.units = values.shape[1]
            self._begin(self.units, values.device)
        if values.shape[1] != self.units:
            raise ResponseError(
                f"responses of {values.shape[1]} units came after responses of {self.units}"
            )
        return values.to(self._device)

    def _check_begun(self) -> int:
        """Return the number of stimuli, or raise if there are none."""
        if not self.stimuli:
            raise ResponseError(f"{type(self).__name__} has seen no stimuli; update it first")
        return self.stimuli


def as_tensor(responses: Array) -> Tensor:
    """Return (stimulus, unit) responses as a float64 tensor, on their device if it can hold that.

    Raises
    ------
    ResponseError
        They are not a non-empty matrix of finite real numbers.
    """
    if isinstance(responses, Tensor):
        responses = responses.detach()
        responses = responses.cpu() if responses.device.type == "mps" else responses
    values = as_responses(responses)
    if not isinstance(values, Tensor):
        values = torch.from_numpy(np.require(values, requirements="W"))
    return values


def as_label_tensor(labels: Array, class_count: int, responses: Tensor) -> Tensor:
    """Return labels as a tensor on the device of `responses`.

    Raises
    ------
    LabelError
        They are not one integer in 0..`class_count`-1 for each stimulus.
    """
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
    return torch.as_tensor(
        np.array(as_labels(np.asarray(labels), class_count, np.empty((len(responses), 0)))),
        device=responses.device,
    )


def check_class_count(class_count: int) -> int:
    """Return `class_count` if it is positive.

    Raises
    ------
    OptionError
        It is not.
    """
    if class_count < 1:
        raise OptionError(f"class_count={class_count} must be at least 1")
    return class_count


def results(values: Tensor) -> Results:
    """Return a tensor as a NumPy array."""
    array: Results = values.cpu().numpy()
    return array
