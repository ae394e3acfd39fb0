"""Selectivity, class correlation and activity of units, which protocols compare ablation with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from unitprobe import metrics
from unitprobe.ablation.classifier import as_classifier
from unitprobe.ablation.forward_passes import check_logits, class_outputs
from unitprobe.batches import batches_of_two_or_more, load_these_batches, prepare
from unitprobe.errors import LayerError, OptionError, ResponseError
from unitprobe.layers import Selection, as_input
from unitprobe.metrics import SignPolicy
from unitprobe.models import Network
from unitprobe.online import ClassMoments
from unitprobe.probe import Probe
from unitprobe.progress import progress_bar
from unitprobe.protocols.common import RunOptions
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray

#: "shift" is missing, because it needs the lowest response before the pass.
_SIGNED = ("refuse", "rectify", "allow")


@dataclass(frozen=True)
class Measured:
    """Properties of the units, or of directions, of some layers.

    Attributes
    ----------
    layers : dict of str to Dataset
        By layer, ``class_selectivity``, ``class_correlation`` and ``activity``, each along one
        dimension, ``unit`` or ``direction``.
    example : Tensor
        One stimulus as the network takes it, (1, channel, y, x).
    """

    layers: dict[str, xr.Dataset]
    example: Tensor


def measure_units(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection,
    signed: SignPolicy = "refuse",
    directions: Mapping[str, FloatArray] | None = None,
    run: RunOptions,
) -> Measured:
    """Measure the responses of units, or along directions, in one pass over the stimuli.

    Parameters
    ----------
    model, stimuli, layers
        As `unitprobe.ablate`.
    signed : {"refuse", "rectify", "allow"}
        How class selectivity treats negative responses; see `unitprobe.analyze`.
    directions : mapping of str to array (direction, unit), optional
        By layer, rows of length 1 that replace the unit axes.
    run : RunOptions
        How the network is run.

    Returns
    -------
    Measured
        ``class_selectivity``, as `unitprobe.metrics.class_selectivity`; ``class_correlation``,
        Pearson's r of the response and the probability that the network gives a class, the
        largest over classes (Zhou et al. 2018, section 4); ``activity``, the mean absolute
        response. Responses are means over positions.

    Raises
    ------
    ModelError
        The network is not a classifier.
    ResponseError
        Responses are NaN, infinite, or negative and refused.
    OptionError
        `signed` is unknown.
    LayerError
        A stimulus does not reach a layer.
    LabelError
        The network's outputs cannot be matched to the classes of the stimuli.
    """
    if signed not in _SIGNED:
        raise OptionError(
            f"signed={signed!r} is impossible in one pass over the stimuli; choose one of "
            f"{', '.join(_SIGNED)}"
        )
    classes = len(stimuli.class_names)
    batch_size = run.get("batch_size", 64)
    sums: dict[str, _Sums] = {}
    example = outputs = torch.empty(0)
    with (
        prepare(model, stimuli, batch_size=batch_size, device=run.get("device")) as (net, images),
        Probe(net, layers, return_output=True) as probe,
        progress_bar(
            "measuring", len(images), "stimuli", enabled=run.get("progress", True)
        ) as advance,
    ):
        batches = batches_of_two_or_more(len(images), batch_size)
        for batch, labels in load_these_batches(images, batches, workers=run.get("workers", 0)):
            first = batch[:1].clone()  # the network may change the batch in place
            responses, output = probe(batch)
            for layer, count in probe.unreached.items():
                if count:
                    raise LayerError(
                        f"{net.name} did not reach layer {layer!r} with every stimulus, because "
                        "its path depends on the data; leave the layer out"
                    )
            if not sums:
                # The first stimulus twice, because one alone may lose its axis.
                two = as_input(net.module, torch.cat([first, first]))
                classifier = as_classifier(net, two, run.get("output"))
            logits = check_logits(classifier, classifier.logits(output))
            if not sums:
                example, outputs = (
                    first,
                    class_outputs(classifier, stimuli, logits).to(logits.device),
                )
            probabilities = classifier.probabilities(logits)[:, outputs]
            for layer, response in responses.items():
                if directions is not None:
                    rows = torch.from_numpy(directions[layer]).to(response.device)
                    response = response.double() @ rows.T
                found = sums.setdefault(layer, _Sums(layer, classes, signed))
                found.add(response, labels, probabilities)
            advance(len(batch))
    dim = "unit" if directions is None else "direction"
    return Measured({layer: found.dataset(dim) for layer, found in sums.items()}, example)


class _Sums:
    """Running sums over the responses of one layer."""

    def __init__(self, layer: str, classes: int, signed: SignPolicy) -> None:
        self._layer = layer
        self._signed = signed
        self._moments = ClassMoments(classes)
        self._correlation = RunningCorrelation()
        self._size: Tensor | None = None
        self._stimuli = 0

    def add(self, responses: Tensor, labels: Tensor, probabilities: Tensor) -> None:
        """Add the responses (stimulus, unit) of a batch."""
        if self._signed == "refuse" and bool((responses < 0).any()):
            raise ResponseError(
                f"layer {self._layer!r} has negative responses, but class selectivity assumes "
                "non-negative ones; choose signed='rectify' or 'allow' (--signed), or layers after "
                "a ReLU"
            )
        try:
            allowed = metrics.apply_sign_policy(responses, self._signed)
        except ResponseError as error:
            raise ResponseError(f"layer {self._layer!r}: {error}") from error
        self._moments.update(allowed, labels.to(responses.device))
        self._correlation.add(responses, probabilities)
        size = responses.double().abs().sum(0)
        self._size = size if self._size is None else self._size + size
        self._stimuli += len(responses)

    def dataset(self, dim: str) -> xr.Dataset:
        """Return the measures of all batches."""
        assert self._size is not None
        correlation = self._correlation.compute()
        return xr.Dataset(
            {
                "class_selectivity": (dim, self._moments.class_selectivity()),
                "class_correlation": (dim, metrics.best_over_classes(correlation.T)),
                "activity": (dim, (self._size / self._stimuli).cpu().numpy()),
            },
            coords={dim: np.arange(len(correlation))},
        )


class RunningCorrelation:
    """Pearson's r of every column of one matrix with every column of another, batch by batch.

    Examples
    --------
    >>> running = RunningCorrelation()
    >>> running.add(torch.tensor([[1.0, 5.0], [2.0, 5.0]]), torch.tensor([[1.0], [0.0]]))
    >>> running.add(torch.tensor([[3.0, 5.0]]), torch.tensor([[-1.0]]))
    >>> running.compute()
    array([[-1.],
           [nan]])
    """

    def __init__(self) -> None:
        self._shift: tuple[Tensor, Tensor] | None = None
        self._count = 0
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows of both matrices."""
        x, y = x.double(), y.double()
        if self._shift is None:
            # The first row, so that a constant column becomes exactly 0.
            self._shift = (x[0].clone(), y[0].clone())
        x, y = x - self._shift[0], y - self._shift[1]
        sums = [x.sum(0), y.sum(0), (x**2).sum(0), (y**2).sum(0), x.T @ y]
        pairs = zip(self._sums, sums, strict=True)
        self._sums = [old + new for old, new in pairs] if self._sums else sums
        self._count += len(x)

    def compute(self) -> FloatArray:
        """Return r (column of x, column of y); NaN where either is constant."""
        x, y, xx, yy, xy = (part.cpu().numpy() for part in self._sums)
        covariance = xy - np.outer(x, y) / self._count
        squares = [s - total**2 / self._count for s, total in ((xx, x), (yy, y))]
        # A remainder this small is rounding, not variance.
        vary = [s > 1e-12 * whole for s, whole in zip(squares, (xx, yy), strict=True)]
        size = np.sqrt(np.outer(*[np.where(v, s, 1.0) for v, s in zip(vary, squares, strict=True)]))
        r: FloatArray = np.where(np.outer(*vary), covariance / size, np.nan)
        return r
