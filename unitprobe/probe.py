"""Attach to a network to read or change what its layers compute while it runs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, overload

import torch
from torch import Tensor, nn

from unitprobe.errors import (
    LayerError,
    ModelError,
    OptionError,
    UnitprobeError,
    UnitprobeWarning,
)
from unitprobe.layers import (
    CallWatcher,
    Layer,
    Selection,
    as_input,
    evaluating,
    find_layers,
    inside,
    select_layers,
    tensor_at,
    with_tensor_at,
)
from unitprobe.layers.calls import Call
from unitprobe.models import Network, as_network
from unitprobe.responses import check_pool, pool_activation, warn_if_mixed

#: Receives a layer, its activation and the positional arguments of the call that computed it. A
#: tensor that it returns replaces the activation.
Visitor = Callable[[Layer, Tensor, tuple[Any, ...]], Tensor | None]

#: Responses (stimulus, unit), or activations, by layer name.
Responses: TypeAlias = dict[str, Tensor]
#: What a call of a `Probe` returns: responses, or (responses, output of the network).
Returned = TypeVar("Returned", Responses, tuple[Responses, Any])

_NOWHERE: Mapping[str, Tensor] = MappingProxyType({})


def watch_layers(
    module: nn.Module,
    layers: Sequence[Layer],
    visit: Visitor,
    *,
    on_begin: Callable[[], None] | None = None,
) -> CallWatcher:
    """Return a context manager that shows `visit` the activation of each layer, in order.

    Parameters
    ----------
    module : nn.Module
        The network. It may run any number of times, in training or evaluation mode.
    layers : sequence of Layer
        Layers of this network.
    visit : callable
        See `Visitor`; called the moment the activation is computed, with the stimuli first,
        as `Layer.shape` has it.
    on_begin : callable, optional
        Called before each forward pass.
    """
    wanted: dict[Call, list[Layer]] = {}
    for layer in layers:
        wanted.setdefault(Call(layer.owner, layer.operation, layer.call), []).append(layer)

    def report(
        call: Call, what: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        changed = None
        for layer in wanted.get(call, ()):
            computed = tensor_at(output, layer.output)
            if computed is None:
                continue  # on these data the call returns something else
            replacement = visit(layer, layer.stimuli.to_front(computed), args)
            if replacement is not None:
                tensor = layer.stimuli.from_front(replacement)
                changed = output = with_tensor_at(output, layer.output, tensor)
        return changed

    return CallWatcher(
        module,
        report,
        modules={layer.owner for layer in layers if layer.operation is None},
        operations={(la.owner, la.operation) for la in layers if la.operation is not None},
        on_begin=on_begin,
    )


@contextmanager
def explained(network: Network, stimuli: Tensor) -> Iterator[None]:
    """Say of any error that the network does not run on these stimuli.

    Raises
    ------
    ModelError
        Something else than an error of our own was raised in the context.
    """
    try:
        yield
    except UnitprobeError:
        raise
    except (RuntimeError, AssertionError, LookupError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"{network.name} does not run on stimuli of shape {tuple(stimuli.shape)} "
            f"(stimulus, channel, y, x): {reason}"
        ) from error


class Probe(Generic[Returned]):
    """Read the responses of chosen layers while a network runs. A context manager.

    The network is in evaluation mode and computes no gradients inside a call; its training flags
    and hooks are as before afterwards, whatever happens. It runs no further than the last of the
    chosen layers, unless its output is asked for. Of a network wrapped by ``DataParallel`` or
    ``torch.compile``, the network inside runs, on one device and uncompiled.

    If the path of the network depends on the data (``if x.mean() > 0:``, ``x[mask]``), it is shown
    the stimuli one by one, so that what a stimulus gives does not depend on the others; where it
    did not reach a layer, its responses are NaN, and on leaving the context a warning says so.

    The first call also looks whether a stimulus gives the same alone and beside another, and warns
    if the network mixes the stimuli of a batch.

    Parameters
    ----------
    model : Network or nn.Module
        The network.
    layers : str, module, class, Layer, callable, or a list of these
        Which layers; see `unitprobe.layers.select_layers`.
    pool : {"mean", "max", "center", "cls", "none"}
        How positions are pooled; see `unitprobe.responses.pool_activation`.
    rectify : bool
        Set negative values of an activation to 0 before they are pooled. Otherwise positions with
        negative values can cancel those with strong responses.
    return_output : bool
        Return ``(responses, output)`` from each call, with the output as the network gives it.

    Attributes
    ----------
    layers : list of Layer
        The chosen layers in execution order; known after the first call, or after `resolve`.
    stimulus_count : int
        How many stimuli the network was shown.
    unreached : Counter
        How many of them did not reach a layer, by its name. May be cleared, as may the count.

    Raises
    ------
    LayerNotFoundError
        The selection matches no layer; raised by the first call.
    OptionError
        The pooling is not known, or the probe is called outside ``with``.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> with up.Probe(network, layers="kind:relu") as probe:
    ...     responses = probe(torch.ones(5, 4))
    >>> {name: tuple(response.shape) for name, response in responses.items()}
    {'1': (5, 3)}
    >>> with up.Probe(network, layers="kind:relu", return_output=True) as probe:
    ...     responses, output = probe(torch.ones(5, 4))
    >>> output.shape
    torch.Size([5, 3])
    """

    @overload
    def __init__(
        self: Probe[Responses],
        model: Network | nn.Module,
        layers: Selection = "activations",
        pool: str = "mean",
        *,
        rectify: bool = False,
        return_output: Literal[False] = False,
    ) -> None: ...

    @overload
    def __init__(
        self: Probe[tuple[Responses, Any]],
        model: Network | nn.Module,
        layers: Selection = "activations",
        pool: str = "mean",
        *,
        rectify: bool = False,
        return_output: Literal[True],
    ) -> None: ...

    def __init__(
        self,
        model: Network | nn.Module,
        layers: Selection = "activations",
        pool: str = "mean",
        *,
        rectify: bool = False,
        return_output: bool = False,
    ) -> None:
        self._network = as_network(model)
        self._selection = layers
        self._pool = pool
        self._rectify = rectify
        self._return_output = return_output
        self._output: Any = None
        self._watcher: CallWatcher | None = None
        self._module = inside(self._network.module)
        # None outside of a call of the probe: the user runs the network, who must get its output.
        self._responses: Responses | None = None
        self._into = _NOWHERE
        self._one_by_one = False
        self._open = False
        self.stimulus_count = 0
        self.unreached: Counter[str] = Counter()
        self.layers: list[Layer] = []
        check_pool(pool, [])

    def __enter__(self) -> Probe[Returned]:
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        if self._watcher is not None:
            self._watcher.detach()
            self._watcher = None
        if kind is None:
            self._warn_of_unreached()

    def resolve(self, example: Tensor) -> list[Layer]:
        """Choose the layers, by running the network on stimuli, and attach to them; only once.

        If the path of the network depends on the data, layers are those that any of these stimuli
        reaches.
        """
        if self._watcher is None:
            found = find_layers(self._module, (example,), {})
            self._one_by_one = found.depend_on_data
            for warning in found.warnings:
                warnings.warn(f"{self._network.name} {warning}", UnitprobeWarning, stacklevel=3)
            self.layers = select_layers(self._module, found.layers, self._selection)
            check_pool(self._pool, self.layers)
            self._watcher = watch_layers(self._module, self.layers, self._keep)
            self._watcher.attach()
            if self._open and not (found.warnings or self._one_by_one):
                self._look_whether_stimuli_mix(example)
        return self.layers

    def _look_whether_stimuli_mix(self, stimuli: Tensor) -> None:
        if len(stimuli) < 2:
            return
        before = self.stimulus_count, self.unreached.copy()
        # Some networks cannot run on one stimulus: then there is nothing to compare.
        with suppress(ModelError):
            # Copies: a network may write over its input.
            stimuli = as_input(self._module, stimuli)
            alone, beside = (self._responses_to(stimuli[:n].clone(), _NOWHERE) for n in (1, 2))
            warn_if_mixed(self._network.name, alone, beside)
        self.stimulus_count, self.unreached = before

    def __call__(self, stimuli: Tensor, into: Mapping[str, Tensor] | None = None) -> Returned:
        """Run the network on stimuli (stimulus, channel, y, x) and return its responses.

        Parameters
        ----------
        stimuli : Tensor
            (stimulus, channel, y, x).
        into : mapping of str to Tensor, optional
            By layer name, where its responses may be put, which spares a copy: a tensor of another
            shape than theirs is not used.

        Returns
        -------
        dict of str to Tensor
            Responses (stimulus, unit) by layer name, in execution order, or activations with
            ``pool="none"``, on the network's device. NaN where a stimulus did not reach a layer.
            With ``return_output=True`` a pair of these and the output of the network.

        Raises
        ------
        LayerError
            A layer has another shape for one stimulus than for another.
        ModelError
            The network does not run on these stimuli; or its output is asked for, is not a tensor,
            and the stimuli have to be shown one by one.
        """
        if not self._open:
            raise OptionError("a Probe reads only inside its context: with Probe(model) as probe:")
        self.resolve(stimuli)
        responses = self._responses_to(as_input(self._module, stimuli), into or _NOWHERE)
        output, self._output = self._output, None
        return cast(Returned, (responses, output) if self._return_output else responses)

    def _responses_to(self, stimuli: Tensor, into: Mapping[str, Tensor]) -> Responses:
        """Run the network on all of the stimuli, together if it can take them so."""
        self.stimulus_count += len(stimuli)
        if not self._one_by_one:
            responses = self._run_together(stimuli, into)
            if len(responses) == len(self.layers):
                return {layer.name: responses[layer.name] for layer in self.layers}
        alone, outputs = [], []
        for stimulus in stimuli[:, None]:
            alone.append(self._run(stimulus))
            outputs.append(self._output)
        if self._return_output:
            self._output = self._joined_outputs(outputs)
        return {layer.name: self._joined(layer, alone, stimuli) for layer in self.layers}

    def _run_together(self, stimuli: Tensor, into: Mapping[str, Tensor]) -> Responses:
        """Return the responses of a network whose path is the same for all stimuli."""
        if len(stimuli) > 1:
            return self._run(stimuli, into)
        try:
            responses = self._run(stimuli.clone(), into)  # it may be written over
        except ModelError:
            responses = {}
        if len(responses) == len(self.layers):
            return responses
        # ``x.squeeze()`` takes the axis of the stimuli away where there is only one: two are shown.
        responses = self._run(torch.cat([stimuli] * 2))
        if isinstance(self._output, Tensor):
            self._output = self._output[:1]
        return {name: found[:1] for name, found in responses.items()}

    def _run(self, stimuli: Tensor, into: Mapping[str, Tensor] = _NOWHERE) -> Responses:
        """Return the responses of the layers that all of these stimuli reached."""
        watcher = self._watcher
        assert watcher is not None
        self._into = into
        responses = self._responses = {}
        with evaluating(self._module), torch.no_grad(), watcher.suspending_others():
            try:
                with explained(self._network, stimuli):
                    self._output = self._module(stimuli)
            except _AllSeen:
                pass
            finally:
                self._responses = None
                self._into = _NOWHERE
        return {name: found for name, found in responses.items() if len(found) == len(stimuli)}

    def _keep(self, layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> None:
        if self._responses is None:
            return
        assert layer.unit_axis is not None
        self._responses[layer.name] = pool_activation(
            activation,
            layer.unit_axis,
            self._pool,
            self._into.get(layer.name),
            rectify=self._rectify,
        )
        if len(self._responses) == len(self.layers) and not self._return_output:
            raise _AllSeen

    def _joined_outputs(self, outputs: Sequence[Any]) -> Tensor:
        """Return the outputs for stimuli that were shown one by one as one tensor."""
        if not all(isinstance(output, Tensor) for output in outputs):
            raise ModelError(
                f"the path of {self._network.name} depends on the data, so it is shown one "
                f"stimulus at a time, and its outputs ({type(outputs[0]).__name__}) cannot be "
                "joined; wrap it in a module that returns one tensor"
            )
        return torch.cat(list(outputs))

    def _joined(self, layer: Layer, alone: list[Responses], like: Tensor) -> Tensor:
        """Return the responses of a layer to stimuli that were shown one by one."""
        reached = [responses[layer.name] for responses in alone if layer.name in responses]
        self.unreached[layer.name] += len(alone) - len(reached)
        if reached:
            nothing = torch.full_like(reached[0], torch.nan)
        else:
            assert layer.unit_axis is not None
            empty = like.new_full((1, *layer.shape[1:]), torch.nan)
            nothing = pool_activation(empty, layer.unit_axis, self._pool)
        shapes = {tuple(response.shape[1:]) for response in reached}
        if len(shapes) > 1:
            raise LayerError(
                f"layer {layer.name!r} has the shapes {sorted(shapes)} for different stimuli; "
                "pool its positions, or leave it out"
            )
        return torch.cat([responses.get(layer.name, nothing) for responses in alone])

    def _warn_of_unreached(self) -> None:
        missed = {name: count for name, count in self.unreached.items() if count}
        if not missed:
            return
        first, count = next(iter(missed.items()))
        others = f" (and {len(missed) - 1} more not by all)" if len(missed) > 1 else ""
        warnings.warn(
            f"the path of {self._network.name} depends on the data: layer {first!r} was not "
            f"reached by {count} of {self.stimulus_count} stimuli{others}; their responses are NaN",
            UnitprobeWarning,
            stacklevel=3,
        )


class _AllSeen(BaseException):
    """Every chosen layer has been seen, so the rest of the network need not run.

    No `Exception`, for a network may catch those.
    """
