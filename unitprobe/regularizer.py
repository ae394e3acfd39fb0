"""Class selectivity as a differentiable loss term."""

from __future__ import annotations

import math
import warnings
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from unitprobe.errors import LabelError, OptionError, UnitprobeWarning
from unitprobe.layers import CallWatcher, Layer, Selection, list_layers_of_call, select_layers
from unitprobe.metrics import class_counts, class_sums, selectivity_index
from unitprobe.models import Network, as_network
from unitprobe.probe import watch_layers
from unitprobe.responses import pool_activation

#: Keeps a unit without any response at selectivity 0 and its gradient finite.
EPSILON = 1e-7


class SelectivityRegularizer:
    """Add ``-alpha * SI`` to a loss: promote selectivity (alpha > 0) or suppress it (alpha < 0).

    SI is the class selectivity of `unitprobe.metrics.class_selectivity`, with the class means of
    the batch, averaged over the units of a layer and then over layers. A context manager; or call
    `attach` and `detach`.

    Parameters
    ----------
    model : Network or nn.Module
        The network that is trained.
    layers : str, sequence of str or callable
        Which layers; see `unitprobe.layers.select_layers`. Never include the logits.
    alpha : float
        Weight and sign. Note that some published code has the opposite sign.

    Attributes
    ----------
    selectivity : Tensor or None
        The SI of the last batch, a scalar in 0..1 without gradient.
    layer_selectivity : dict of str to Tensor
        The SI of each layer, likewise.

    Raises
    ------
    OptionError
        `alpha` is not a finite number.
    LayerNotFoundError
        The selection matches no layer; raised by the first forward pass, which finds the layers.

    Notes
    -----
    ``loss = cross_entropy - alpha * SI``: Leavitt and Morcos 2020, "Selectivity considered
    harmful", equation 2. A batch has few images of a class, and noise alone gives a selectivity
    (0.28 for 10 classes at batch size 128): the batch size is part of the method.

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
    ) -> None:
        if not math.isfinite(alpha):
            raise OptionError(f"alpha={alpha} is not a finite number; -1 suppresses selectivity")
        self.alpha = alpha
        self.selectivity: Tensor | None = None
        self.layer_selectivity: dict[str, Tensor] = {}
        self._network = as_network(model)
        self._selection = layers
        self._responses: dict[str, Tensor] = {}
        self._watcher: CallWatcher | None = None
        self._first: torch.utils.hooks.RemovableHandle | None = None

    def attach(self) -> SelectivityRegularizer:
        """Put the hooks in place; they stay until `detach`."""
        self.detach()
        self._first = self._network.module.register_forward_pre_hook(self._watch, with_kwargs=True)
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
            Class of each stimulus of that batch, (stimulus,).

        Raises
        ------
        OptionError
            No batch has gone through the network since the last call.
        LabelError
            There is not one label for each stimulus.
        """
        responses, self._responses = self._responses, {}
        if not responses:
            raise OptionError(
                "the regularizer has seen no batch: attach it, run the network, then call it once"
            )
        count = len(next(iter(responses.values())))
        if labels.shape != (count,):
            raise LabelError(
                f"labels have shape {tuple(labels.shape)}, the batch has {count} stimuli; "
                f"give shape ({count},)"
            )
        _warn_if_detached(self._network.module, responses)
        counts = class_counts(labels)
        by_layer = {
            name: _mean_selectivity(response, labels, counts)
            for name, response in responses.items()
        }
        selectivity = torch.stack(list(by_layer.values())).mean()
        self.layer_selectivity = {name: value.detach() for name, value in by_layer.items()}
        self.selectivity = selectivity.detach()
        return -self.alpha * selectivity

    def _watch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if CallWatcher.someone_is_alone():
            return  # a pass that only looks at the network
        if self._first is not None:
            self._first.remove()
            self._first = None
        listed = list_layers_of_call(module, args, kwargs)
        chosen = select_layers(module, listed, self._selection)
        self._watcher = watch_layers(
            module, chosen, self._keep, on_begin=lambda: self._responses.clear()
        )
        self._watcher.attach()
        # PyTorch has collected the hooks of this pass already, so the watcher is told of it.
        self._watcher.begin()

    def _keep(self, layer: Layer, activation: Tensor) -> None:
        assert layer.unit_axis is not None
        self._responses[layer.name] = pool_activation(activation, layer.unit_axis, "mean")


def _warn_if_detached(module: nn.Module, responses: dict[str, Tensor]) -> None:
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
    if trained and not any(response.requires_grad for response in responses.values()):
        warnings.warn(
            "the selectivity of this batch has no gradient: the network ran without gradients, or "
            "in a checkpoint with use_reentrant=True, where use_reentrant=False is needed",
            UnitprobeWarning,
            stacklevel=3,
        )


def _mean_selectivity(response: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return the class selectivity of a layer, mean over its units, without looking at values."""
    labels, counts = labels.to(response.device), counts.to(response.device)
    sums: Tensor = class_sums(response, labels, len(counts))
    if int((counts > 0).sum()) < 2:
        return 0.0 * sums.sum()  # one class alone has no selectivity, and pulls nowhere
    means = sums / counts[:, None].clamp(min=1)
    selectivity: Tensor = selectivity_index(means, counts, eps=EPSILON).mean()
    return selectivity
