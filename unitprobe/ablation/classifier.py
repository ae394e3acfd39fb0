"""A network as a classifier: its logits, whatever its forward method returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from unitprobe.ablation.settings import Output
from unitprobe.errors import ModelError
from unitprobe.layers import CallWatcher, evaluating
from unitprobe.layers.operations import COPIES
from unitprobe.layers.outputs import named_tensors, suffix
from unitprobe.models import Network, describe_transform
from unitprobe.probe import explained

#: What the outputs for the classes are; see `Classifier`.
Kind = Literal[
    "logits",
    "probabilities",
    "log-probabilities",
    "independent probabilities",
    "one logit",
    "one probability",
]

_SOFTMAX = frozenset(("_softmax", "_safe_softmax"))
_LOG_SOFTMAX = frozenset(("_log_softmax",))
_SIGMOID = frozenset(("sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_"))
_COPIES = COPIES | {"_to_copy", "copy_"}


@dataclass
class Classifier(Network):
    """A network whose outputs are read as logits.

    Attributes
    ----------
    output : key, field, index or callable, optional
        Where the outputs for the classes are; see `find_output`.
    kind : str
        What they are. ``"logits"``, with the softmax cross-entropy as the loss;
        ``"probabilities"`` that sum to 1, where it is -log p; ``"log-probabilities"``, where it is
        their negative; ``"one logit"`` and ``"one probability"`` of the second of two classes, and
        ``"independent probabilities"``, one sigmoid for each class: there it is the binary
        cross-entropy, of several outputs their sum.
    """

    output: Output | None = None
    kind: Kind = field(default="logits")

    def logits(self, returned: Any) -> Tensor:
        """Return logits (stimulus, output) from what the network returned.

        Raises
        ------
        ModelError
            It has no such output.
        """
        found = find_output(returned, self.output, self.name)
        if found.ndim == 1 and self.kind.startswith("one "):
            found = found[:, None]
        return as_logits(found, self.kind)

    def loss(self, logits: Tensor, outputs: Tensor) -> Tensor:
        """Return the loss (target, stimulus) in nats.

        Parameters
        ----------
        logits : Tensor
            (target, stimulus, output), from `logits`.
        outputs : Tensor
            (stimulus,), the correct output.
        """
        wide = logits.double()
        chosen = wide.gather(2, outputs.expand(len(logits), -1)[:, :, None])[:, :, 0]
        if self.kind == "independent probabilities":
            return nn.functional.softplus(wide).sum(2) - chosen
        return wide.logsumexp(2) - chosen

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities (stimulus, output) that logits stand for."""
        wide = logits.double()
        return wide.sigmoid() if self.kind == "independent probabilities" else wide.softmax(1)

    @property
    def described_output(self) -> str:
        """Where the outputs are and what they are, the same in every process."""
        where = describe_transform(self.output) if callable(self.output) else repr(self.output)
        return f"{self.kind} of {where}"


def as_classifier(network: Network, images: Any, output: Output | None = None) -> Classifier:
    """Return a network with what its outputs are, told from two stimuli.

    Outputs are probabilities if they are not negative and sum to 1 on both stimuli, and
    log-probabilities if their exponentials sum to 1. One output, or several that do not sum to 1,
    are probabilities if the last operation that computed them is a sigmoid. Everything else is a
    logit.

    Parameters
    ----------
    network : Network
        The network, on its device.
    images : Tensor
        Two stimuli, as the network takes them.
    output : key, field, index or callable, optional
        Where the outputs are; see `find_output`.

    Raises
    ------
    ModelError
        The network does not run, has no such output, or ends in a softmax over another axis.
    """
    if isinstance(network, Classifier):
        return network
    producers = _Producers()
    alone = CallWatcher(network.module, lambda *_: None)
    with (
        evaluating(network.module),
        torch.no_grad(),
        alone.suspending_others(),
        explained(network, images),
        producers,
    ):
        found = find_output(network.module(images.clone()), output, network.name)
    kind = _kind(network.name, found, producers.of(found), len(images))
    own = {each.name: getattr(network, each.name) for each in fields(Network)}
    return Classifier(**own, output=output, kind=kind)


def find_output(returned: Any, output: Output | None, name: str) -> Tensor:
    """Return the tensor for the classes in what a network returns.

    By default it is the tensor itself, or of a mapping, dataclass or named tuple ``logits``,
    ``out``, or the only field that ends in ``logits``; else the first tensor.

    Parameters
    ----------
    returned : object
        What the network returned.
    output : str, int or callable, optional
        A key, a field, an index, or a function of `returned`.
    name : str
        Of the network.

    Raises
    ------
    ModelError
        There is none.
    """
    if callable(output):
        found = output(returned)
        if not isinstance(found, Tensor):
            raise ModelError(f"output= returned a {type(found).__name__}; a tensor is needed")
        return found
    if isinstance(returned, Tensor) and output is None:
        return returned
    tensors = dict(named_tensors(_as_mapping(returned)))
    if output is not None:
        path = next((p for p in tensors if p[:1] in ((output,), (str(output),))), None)
        if path is None and isinstance(output, int) and -len(tensors) <= output < len(tensors):
            path = list(tensors)[output]
        if path is None:
            have = ", ".join(repr(suffix(p)) for p in tensors) or type(returned).__name__
            raise ModelError(f"{name} returns no output {output!r}; it returns {have}")
        return tensors[path]
    ending = [path for path in tensors if path and str(path[-1]).endswith("logits")]
    for path in (("logits",), ("out",), *(ending if len(ending) == 1 else ())):
        if path in tensors:
            return tensors[path]
    first = next(iter(tensors.values()), None)
    if first is None:
        raise ModelError(f"{name} returns a {type(returned).__name__} that holds no tensor")
    return first


def as_logits(found: Tensor, kind: Kind) -> Tensor:
    """Return outputs of some kind as logits with the same predictions and loss.

    A probability of 0 counts as the smallest positive number of its type.

    Examples
    --------
    >>> as_logits(torch.tensor([[0.25, 0.75]]), "probabilities").exp()
    tensor([[0.2500, 0.7500]])
    >>> as_logits(torch.tensor([[2.0]]), "one logit")
    tensor([[0., 2.]])
    """
    if kind in ("logits", "log-probabilities"):
        return found
    if kind == "one logit":
        return torch.cat([torch.zeros_like(found), found], 1)
    least = torch.finfo(found.dtype).tiny
    if kind == "probabilities":
        return found.clamp_min(least).log()
    no, yes = (1 - found).clamp_min(least).log(), found.clamp_min(least).log()
    return torch.cat([no, yes], 1) if kind == "one probability" else yes - no


class LogitModule(nn.Module):
    """Runs a classifier and returns its logits, for a graph of both."""

    def __init__(self, classifier: Classifier, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._logits = classifier.logits
        self.training = module.training

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (stimulus, output)."""
        return self._logits(self.module(images))


def _as_mapping(returned: Any) -> Any:
    """Return named tuples, and objects that only have attributes, as mappings."""
    names = getattr(returned, "_fields", None)
    if isinstance(returned, tuple) and names:
        return dict(zip(names, returned, strict=True))
    if isinstance(returned, Tensor | Mapping | tuple | list):
        return returned
    return {**getattr(returned, "__dict__", {})}


def _kind(name: str, found: Tensor, producer: str, stimuli: int) -> Kind:
    single = found.shape == (stimuli,) or (found.ndim == 2 and found.shape[1] == 1)
    if single:
        return "one probability" if producer in _SIGMOID else "one logit"
    if found.ndim != 2 or not found.is_floating_point():
        return "logits"  # what is wrong with it is said later
    tolerance = max(1e-4, 8 * torch.finfo(found.dtype).eps)
    wide = found.double()

    def sums_to_one(values: Tensor) -> bool:
        return bool(((values.sum(1) - 1).abs() <= tolerance).all())

    positive = bool((wide >= 0).all())
    if positive and sums_to_one(wide):
        return "probabilities"
    if producer in _SOFTMAX:
        if bool((wide.sum(1) > 1 + tolerance).any()):
            sums = ", ".join(f"{value:.3g}" for value in wide.sum(1).tolist())
            raise ModelError(
                f"{name} ends in a softmax, but the outputs of two stimuli sum to {sums} instead "
                "of 1; its dim must be that of the outputs"
            )
        return "probabilities"
    if producer in _SIGMOID:
        return "independent probabilities"
    if producer in _LOG_SOFTMAX or (bool((wide <= 0).all()) and sums_to_one(wide.exp())):
        return "log-probabilities"
    return "logits"


class _Producers(TorchDispatchMode):  # type: ignore[no-untyped-call,unused-ignore]
    """Notes which operation computed the numbers in each piece of memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._by_memory: dict[int, str] = {}

    def of(self, tensor: Tensor) -> str:
        """Return the name of the operation that computed a tensor, views and copies aside."""
        return self._by_memory.get(_memory(tensor) or 0, "")

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            given = [_memory(each) for each in args if isinstance(each, Tensor)]
            memory = _memory(result)
            name = str(function.overloadpacket.__name__)
            source = given[-1] if name == "copy_" else (given or [None])[0]
            if memory is not None and name in _COPIES:
                self._by_memory[memory] = self._by_memory.get(source or 0, "")
            elif memory is not None and (memory not in given or function._schema.is_mutable):
                self._by_memory[memory] = name
        return result


def _memory(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse and the like
        return None
