"""The regularizer: it records responses while a network trains and returns the loss term."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from unitprobe.errors import LayerNotFoundError, OptionError, nearest
from unitprobe.layers import CallWatcher, Layer, Selection, find_layers, select_layers
from unitprobe.layers.calls import Hook
from unitprobe.means import mean_over_positions
from unitprobe.models import Network, as_network
from unitprobe.probe import watch_layers
from unitprobe.regularizer.checks import (
    check_arguments,
    check_labels,
    warn_if_detached,
    warn_if_signed,
)
from unitprobe.regularizer.measures import (
    BatchSums,
    RegularizedMeasure,
    batch_sums,
    measure_units,
    sum_over_processes,
)
from unitprobe.regularizer.pooling import activation_and_mean

_NEEDS_EXAMPLE = (
    "the layers of a compiled network cannot be found while it runs: give the regularizer some "
    "stimuli, example=images"
)


class SelectivityRegularizer:
    """Add ``-alpha * SI`` to a loss: promote selectivity (alpha > 0) or suppress it (alpha < 0).

    SI is the class selectivity of `unitprobe.metrics.class_selectivity`, with the class means of
    the batch, averaged over the units of a layer and then over layers. A context manager; or call
    `attach` and `detach`.

    Parameters
    ----------
    model : Network or nn.Module
        The network that is trained. It may be wrapped by ``torch.compile``,
        ``DistributedDataParallel`` or ``DataParallel``.
    layers : str, module, class, Layer, callable, or a list of these
        Which layers; see `unitprobe.layers.select_layers`. Never include the logits.
    alpha : float
        Weight and sign. Some published code has the opposite sign. It can be changed at any time,
        for example with `alpha_schedule`.
    measure : {"class_selectivity", "class_selectivity_corrected", "d_prime"}
        What is used as SI: the SI itself; the SI minus that of the same batch with permuted
        labels, so that the noise of a small batch of many classes is not regularized; or the
        largest d-prime over classes.
    weights : mapping of str to float, optional
        Weight of layers in the mean over layers, by name or glob; 1 for all others.
    leave_out_dead : bool
        Whether the mean over units leaves out those without any response in the batch. A dead unit
        has an SI of 0, so otherwise killing units reduces the loss when selectivity is suppressed.
    accumulation : int
        The number of batches whose gradients are added before a step of the optimizer. The SI is
        then that of this number of last batches together; see Notes.
    class_count : int, optional
        The number of classes. Without it, each call reads the highest label, which makes an
        accelerator wait.
    example : Tensor, optional
        Stimuli (stimulus, channel, y, x) for finding the layers in `attach`. Without them, the
        layers are found in the first batch, which is not possible in a compiled network.

    Attributes
    ----------
    selectivity : Tensor or None
        The measure of the last batch, a scalar without gradient. The SI is in 0..1.
    layer_selectivity : dict of str to Tensor
        The same of each layer.

    Raises
    ------
    OptionError
        `alpha` is not a finite number, or another argument is invalid.
    LayerNotFoundError
        The selection, or a name in `weights`, matches no layer. Raised when the layers are found.

    Notes
    -----
    ``loss = cross_entropy - alpha * SI``: Leavitt and Morcos 2020, "Selectivity considered
    harmful", equation 2. A batch has few images of a class, and noise alone gives a selectivity
    (0.28 for 10 classes at batch size 128): the batch size is part of the method.

    Under ``torch.distributed``, class sums and counts are summed over all processes before the
    ratio is computed. After averaging over processes, as in ``DistributedDataParallel``, the
    gradient is that of the whole batch.

    With ``accumulation=K`` the class sums of the last K - 1 batches are added, without their
    graphs, so the SI is that of the last K batches together (of fewer, h, until K have run). The
    gradient flows through the present batch only and is multiplied by h. With a loss divided by K,
    as is usual, the sum over K batches approximates the gradient of the large batch. It is not that
    gradient, because each batch is added to the K - 1 batches before it, not to the others of its
    own step. An audit measured its relative error with fixed weights, new images in every batch and
    K = 4: 0.2 to 0.5 in a trained network, 0.6 to 1.1 in an untrained one. Where the exact
    gradient matters, use one large batch.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> images, labels = torch.rand(12, 4), torch.arange(12) % 3
    >>> with up.SelectivityRegularizer(network, alpha=-1.0) as regularizer:
    ...     loss = torch.nn.functional.cross_entropy(network(images), labels)
    ...     (loss + regularizer(labels)).backward()
    >>> 0 < float(regularizer.selectivity) < 1
    True
    """

    def __init__(
        self,
        model: Network | nn.Module,
        layers: Selection = "activations",
        alpha: float = -1.0,
        *,
        measure: RegularizedMeasure = "class_selectivity",
        weights: Mapping[str, float] | None = None,
        leave_out_dead: bool = False,
        accumulation: int = 1,
        class_count: int | None = None,
        example: Tensor | None = None,
    ) -> None:
        check_arguments(measure, weights, accumulation, class_count)
        self.alpha = alpha
        self.selectivity: Tensor | None = None
        self.layer_selectivity: dict[str, Tensor] = {}
        given = as_network(model).module
        self._module = _inside(given)
        if example is None and self._module is not given and _is_compiled(given):
            raise OptionError(_NEEDS_EXAMPLE)
        self._selection = layers
        self._measure = measure
        self._weights = dict(weights or {})
        self._leave_out_dead = leave_out_dead
        self._earlier: deque[BatchSums] = deque(maxlen=accumulation - 1)
        self._accumulation = accumulation
        self._class_count = class_count
        self._example = example
        # Cached for the layers that the last batch reached, so that a batch need not wait for them.
        self._layer_of_unit: dict[tuple[int, ...], Tensor] = {}
        self._share_of_layer: dict[tuple[object, ...], Tensor] = {}
        self._responses: dict[str, Tensor] = {}
        self._watcher: CallWatcher | None = None
        self._first: torch.utils.hooks.RemovableHandle | None = None

    @property
    def alpha(self) -> float:
        """Weight and sign of the term."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        if not math.isfinite(value):
            raise OptionError(f"alpha={value} is not a finite number; -1 suppresses selectivity")
        self._alpha = value

    def attach(self) -> SelectivityRegularizer:
        """Add the hooks; they stay until `detach`."""
        self.detach()
        if self._example is not None:
            self._find_layers((self._example,), {})
        else:
            watch = Hook(self._watch)
            self._first = self._module.register_forward_pre_hook(watch, with_kwargs=True)
        return self

    def detach(self) -> None:
        """Remove the hooks; may be called twice."""
        if self._first is not None:
            self._first.remove()
            self._first = None
        if self._watcher is not None:
            self._watcher.detach()
            self._watcher = None
        self._responses = {}
        self._earlier.clear()

    def __enter__(self) -> SelectivityRegularizer:
        return self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __call__(self, labels: Tensor) -> Tensor:
        """Return ``-alpha * SI`` of the batch that last went through the network.

        Parameters
        ----------
        labels : Tensor
            Class of each stimulus of that batch, (stimulus,), integers 0..C-1.

        Raises
        ------
        OptionError
            No batch has run through the network since the last call.
        LabelError
            The number of labels is not that of the stimuli, or a label is not a class. On an
            accelerator a label outside of `class_count` raises PyTorch's own error, because
            reading labels would make it wait.
        """
        responses, self._responses = self._responses, {}
        if not responses:
            raise OptionError(
                "the regularizer has seen no batch: attach it (if the network is compiled, with "
                "example=images and before the first batch), run the network, then call it once"
            )
        warn_if_detached(self._module, responses)
        # The device of the responses, because labels may be on the CPU.
        device = next(iter(responses.values())).device
        with torch.autocast(device.type, enabled=False):
            return self._term(responses, labels)

    def _term(self, responses: dict[str, Tensor], labels: Tensor) -> Tensor:
        layers = list(responses.values())
        device = layers[0].device
        together = torch.cat([layer.to(device) for layer in layers], dim=1)
        if self._measure == "d_prime" and device.type != "mps":
            together = together.double()  # its variances are differences of large numbers
        classes = check_labels(labels, len(together), self._class_count)
        own = batch_sums(together, labels.to(device), classes, self._measure)
        held = len(self._earlier) + 1
        sums = self._with_earlier(sum_over_processes(own))
        units = measure_units(sums, self._measure)
        of_layers = self._mean_by_layer(responses, units, sums.size)
        selectivity = of_layers @ self._shares(responses, of_layers)
        self.layer_selectivity = dict(zip(responses, of_layers.detach(), strict=True))
        self.selectivity = selectivity.detach()
        if not self.alpha:
            return torch.zeros_like(self.selectivity)  # without a backward pass
        if self._accumulation > 1:
            # The gradient by the sums of one of h batches is 1/h of that by the batch alone.
            scaled = held * selectivity
            selectivity = scaled + (selectivity - scaled).detach()
        return -self.alpha * selectivity

    def _mean_by_layer(self, responses: dict[str, Tensor], units: Tensor, size: Tensor) -> Tensor:
        """Return the mean over the units of each layer, (layer,)."""
        widths = tuple(response.shape[1] for response in responses.values())
        if widths not in self._layer_of_unit:
            self._layer_of_unit = {
                widths: torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
            }
        layer = self._layer_of_unit[widths] = self._layer_of_unit[widths].to(units.device)
        live = (size > 0).to(units.dtype) if self._leave_out_dead else torch.ones_like(units)
        totals = units.new_zeros(2, len(widths))
        totals = totals.index_add(1, layer, torch.stack([units * live, live]))
        return totals[0] / totals[1].clamp(min=1)

    def _shares(self, responses: dict[str, Tensor], like: Tensor) -> Tensor:
        """Return the weight of each layer in the mean over layers, (layer,)."""
        key = (*responses, like.dtype)
        if key not in self._share_of_layer:
            weights = [self._weight(name) for name in responses]
            largest = max(weights) or 1.0  # the sum of huge weights would be infinite
            scaled = torch.tensor([weight / largest for weight in weights], dtype=torch.float64)
            # Converted before it is moved: some devices have no float64.
            self._share_of_layer = {key: (scaled / scaled.sum().clamp(min=1)).to(like.dtype)}
        share = self._share_of_layer[key] = self._share_of_layer[key].to(like.device)
        return share

    def _with_earlier(self, sums: BatchSums) -> BatchSums:
        """Return the sums of this batch and the earlier ones, and keep those of this batch."""
        if self._accumulation == 1:
            return sums
        total = sums.packed()
        for earlier in self._earlier:
            if earlier.sums.shape != sums.sums.shape:
                raise OptionError(
                    f"accumulation={self._accumulation}: batches of {tuple(sums.sums.shape)} and "
                    f"{tuple(earlier.sums.shape)} (class_name, unit) cannot be added; give "
                    "class_count="
                )
            total = total + earlier.packed()
        self._earlier.append(sums.unpacked(sums.packed().detach()))
        return sums.unpacked(total)

    def _weight(self, name: str) -> float:
        matching = (value for glob, value in self._weights.items() if _matches(name, glob))
        return next(matching, 1.0)

    def _watch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if CallWatcher.is_any_suspending():
            return  # a pass that only inspects the network
        if torch.compiler.is_compiling():
            raise OptionError(_NEEDS_EXAMPLE)
        find: Callable[..., None] = self._find_layers
        if "torch._dynamo" in sys.modules:  # which takes a second to load
            find = torch.compiler.disable(find)  # type: ignore[no-untyped-call]
        find(args, kwargs)
        # PyTorch has collected the hooks of this pass already, so the new one does not run.
        assert self._watcher is not None
        self._watcher.begin()

    def _find_layers(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._first is not None:
            self._first.remove()
            self._first = None
        listed = find_layers(self._module, args, kwargs).layers
        chosen = select_layers(self._module, listed, self._selection)
        self._check_weights([layer.name for layer in chosen])
        if self._measure != "d_prime":
            warn_if_signed(chosen)
        self._watcher = watch_layers(self._module, chosen, self._keep, on_begin=self._forget)
        self._watcher.attach()

    def _check_weights(self, names: list[str]) -> None:
        for glob in self._weights:
            if not any(_matches(name, glob) for name in names):
                near = ", ".join(nearest(glob, names))
                raise LayerNotFoundError(
                    f"weights: {glob!r} matches none of the {len(names)} layers; nearest: {near}"
                )
        if not sum(map(self._weight, names)):
            raise OptionError(
                f"weights: all {len(names)} layers have weight 0; give a positive weight to one"
            )

    def _forget(self) -> None:
        self._responses.clear()

    def _keep(self, layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> Tensor | None:
        assert layer.unit_axis is not None
        if torch.compiler.is_compiling() or not activation.requires_grad:
            # A compiler merges the passes over memory.
            self._responses[layer.name] = mean_over_positions(activation, layer.unit_axis)
            return None
        passed_on, mean = activation_and_mean(activation, layer.unit_axis)
        self._responses[layer.name] = mean
        return passed_on


def _inside(module: nn.Module) -> nn.Module:
    """Return the network inside the wrappers that run it."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return _inside(inner)
    compiled = getattr(module, "_orig_mod", None)
    return _inside(compiled) if isinstance(compiled, nn.Module) else module


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, torch._dynamo.OptimizedModule)


def _matches(name: str, glob: str) -> bool:
    return name == glob or fnmatchcase(name, glob)
