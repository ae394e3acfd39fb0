"""What a layer is: one output in the computation, with its address and its axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from unitprobe.layers.operations import KINDS, NONLINEARITIES, NONLINEARITY_CLASSES
from unitprobe.layers.outputs import Path


class StimulusAxis(NamedTuple):
    """The stimulus axis of a computed tensor, and what is merged into it.

    Windows of a map, heads or time steps may be merged into the stimuli. The axis then has the
    length ``outer * stimuli * inner``, in that order. For most layers it is the first axis, and
    nothing is merged.
    """

    number: int = 0
    outer: int = 1
    inner: int = 1

    @property
    def windows(self) -> int:
        """How many positions of the axis belong to one stimulus."""
        return self.outer * self.inner

    def to_front(self, computed: Tensor) -> Tensor:
        """Return a view (stimulus, ...) or, if anything is merged, (stimulus, window, ...).

        Examples
        --------
        >>> import torch
        >>> StimulusAxis(number=1).to_front(torch.zeros(7, 2, 5)).shape
        torch.Size([2, 7, 5])
        >>> StimulusAxis(inner=4).to_front(torch.zeros(8, 7, 5)).shape
        torch.Size([2, 4, 7, 5])
        """
        if self == FIRST:
            return computed
        axis = self.number
        sizes = (self.outer, -1, self.inner)
        apart = computed.reshape(*computed.shape[:axis], *sizes, *computed.shape[axis + 1 :])
        activation = apart.movedim((axis + 1, axis, axis + 2), (0, 1, 2)).flatten(1, 2)
        return activation if self.windows > 1 else activation.squeeze(1)

    def from_front(self, activation: Tensor) -> Tensor:
        """Return what `to_front` returned, with its axes as the network computes them."""
        if self == FIRST:
            return activation
        axis = self.number
        rest = activation.shape[1 + (self.windows > 1) :]
        apart = activation.reshape(activation.shape[0], self.outer, self.inner, *rest)
        return apart.movedim((0, 1, 2), (axis + 1, axis, axis + 2)).flatten(axis, axis + 2)


FIRST = StimulusAxis()


@dataclass(frozen=True)
class Layer:
    """One position in the computation whose output can be recorded.

    Attributes
    ----------
    name : str
        The address: the path of the module (``layer1.0.relu``), or the path of the module in which
        a functional operation runs and the operation's name. Later calls end in ``_1``, ``_2``.
        If a call returns several tensors, each is a layer, and its index, key or field follows in
        brackets: ``lstm[0]``, ``lstm[1][0]``, ``encoder_1[hidden]``. Names do not contain wrappers
        (``DataParallel``, ``torch.compile``) and parametrizations.
    kind : str
        ``"conv"``, ``"linear"``, ``"norm"``, ``"pool"``, the name of a nonlinearity (``"relu"``,
        ``"gelu"``), the name of another operation (``"add"``), or the class of a module that holds
        other modules (``"BasicBlock"``).
    shape : tuple of int
        Shape of the activation. The stimulus axis is the first one here, whatever the network
        computes. If windows, heads or time steps are merged into the stimuli, they have the second
        axis: (stimulus, window, token, unit).
    unit_axis : int or None
        The axis of the units in `shape`: -1 if it is the last one, else counted from the front.
        None if it cannot be determined; such a layer cannot be selected.
    units : int or None
        Number of units, the size of `unit_axis`.
    owner : str
        Path of the module that is called, or in which the operation runs.
    operation : str or None
        Name of the functional operation; None for the call of a module.
    call : int
        How many calls of the same module, or of the same operation in `owner`, come before.
    output : tuple of int or str
        Path of the tensor in what the call returns: ``()`` if it is the tensor itself, else
        indices, keys and fields. ``(1, 0)`` is the hidden state of an LSTM.
    stimuli : StimulusAxis
        The stimulus axis as the network computes the tensor.
    part_of : str or None
        Name of the nonlinearity that this layer is only an operation of, such as the gate
        ``sigmoid(1.702 * x)`` of ``x * sigmoid(1.702 * x)``. ``layers="activations"`` leaves it
        out. None if the layer is used by itself.

    Notes
    -----
    A nonlinearity may be made of operations on one tensor, each value by itself: ``x *
    sigmoid(x)``, tanh-GELU, ``relu(x) ** 2``. The layer is then the module that does nothing else,
    or the last of these operations, with the kind of the function (``"silu"``, ``"gelu"``,
    ``"relu2"``) or ``"nonlinearity"``. A product with another tensor is not a nonlinearity: of a
    gated unit ``silu(a) * b`` the layer is ``silu(a)``.

    The operations inside `nn.MultiheadAttention` have addresses too: ``attn.linear`` is its input
    projection, ``attn.scaled_dot_product_attention`` the values after attention (``attn.bmm_1`` if
    the weights are returned as well), ``attn.linear_1`` its output projection, ``attn[0]`` its
    output. An `nn.LSTM` with ``batch_first=False`` takes its first axis as time steps. If its input
    is (token, stimulus, unit), its layer ``lstm[0]`` is (stimulus, token, unit) nevertheless. If
    the stimuli come first, it mixes them, and the layer has no units.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> layer = up.list_layers(network, input_size=(3, 6, 6))[1]
    >>> layer.name, layer.shape, layer.unit_axis, layer.units
    ('1', (1, 8, 4, 4), 1, 8)
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    unit_axis: int | None
    units: int | None
    owner: str
    operation: str | None
    call: int
    output: Path = ()
    stimuli: StimulusAxis = FIRST
    part_of: str | None = None

    @property
    def position_dims(self) -> tuple[str, ...]:
        """Names of the axes that are neither stimulus nor unit, in order."""
        rank = len(self.shape) - 2
        if self.kind == "scaled_dot_product_attention" and rank == 2:
            return ("head", "token")
        if rank > 1 and self.stimuli.windows > 1:
            inner = (
                ("token",) if rank == 2 and self.unit_axis == -1 else ("z", "y", "x")[1 - rank :]
            )
            return ("window", *inner)
        if rank == 1 and self.unit_axis == -1:
            return ("token",)
        known = ("z", "y", "x")
        return known[-rank:] if 0 < rank <= 3 else tuple(f"axis_{i}" for i in range(rank))

    @property
    def position_shape(self) -> tuple[int, ...]:
        """Sizes of `position_dims`."""
        if self.unit_axis is None:
            return self.shape[1:]
        unit = self.unit_axis % len(self.shape)
        return tuple(n for axis, n in enumerate(self.shape) if axis not in (0, unit))


def kind_of_operation(operation: str) -> str:
    """Return the kind of a functional operation, for `Layer.kind`.

    Examples
    --------
    >>> kind_of_operation("conv2d"), kind_of_operation("relu"), kind_of_operation("add")
    ('conv', 'relu', 'add')
    """
    return KINDS.get(operation, operation)


def nonlinearity_of_class(class_name: str) -> str | None:
    """Return the nonlinearity of a module class by its name, or None.

    Examples
    --------
    >>> nonlinearity_of_class("LeakyReLU"), nonlinearity_of_class("Conv2d")
    ('leaky_relu', None)
    """
    name = class_name.lower()
    name = NONLINEARITY_CLASSES.get(name, name)
    return name if name in NONLINEARITIES else None
