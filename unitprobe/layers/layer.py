"""What a layer is: one place in the computation, with its address and its axes."""

from __future__ import annotations

from dataclasses import dataclass

#: Operations that count as a nonlinearity, by the name PyTorch gives the function. Softmax is left
#: out: it normalises over an axis, mostly of attention weights, which have no units.
NONLINEARITIES = frozenset(
    {
        *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold"),
        *("elu", "celu", "selu", "softplus", "gelu", "silu", "mish", "glu"),
        *("sigmoid", "hardsigmoid", "logsigmoid", "hardswish", "hardtanh"),
        *("tanh", "tanhshrink", "softsign"),
    }
)

_CLASS_NAMES = {
    "geglu": "glu",
    "gelutanh": "gelu",
    "leakyrelu": "leaky_relu",
    "hardmish": "mish",
    "hardswishme": "hardswish",
    "quickgelu": "gelu",
    "swish": "silu",
    "swishme": "silu",
}

_KINDS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "conv"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "conv"),
    **dict.fromkeys(("linear", "bilinear"), "linear"),
    **dict.fromkeys(
        ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"), "norm"
    ),
    "local_response_norm": "norm",
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "lp_pool2d"), "pool"),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), "pool"),
}


@dataclass(frozen=True)
class Layer:
    """One place in the computation whose output can be recorded.

    Attributes
    ----------
    name : str
        The address: the path of the module (``layer1.0.relu``), or the path of the module in which
        a functional operation runs and the operation's name. Later calls end in ``_1``, ``_2``.
    kind : str
        ``"conv"``, ``"linear"``, ``"norm"``, ``"pool"``, the name of a nonlinearity (``"relu"``,
        ``"gelu"``), the name of another operation (``"add"``), or the class of a module that holds
        other modules (``"BasicBlock"``).
    shape : tuple of int
        Shape of the activation, the stimulus axis included.
    unit_axis : int or None
        The axis of the units: -1 if it is the last one, else counted from the front. None if it
        cannot be told from what produced the tensor; such a layer cannot be selected.
    units : int or None
        Number of units, the size of `unit_axis`.
    owner : str
        Path of the module that is called, or in which the operation runs.
    operation : str or None
        Name of the functional operation; None for the call of a module.
    call : int
        How many calls of the same module, or of the same operation in `owner`, come before.

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

    @property
    def position_dims(self) -> tuple[str, ...]:
        """Names of the axes that are neither stimulus nor unit, in order."""
        rank = len(self.shape) - 2
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
    """Return the kind of a functional operation: what it does, not how it is called.

    Examples
    --------
    >>> kind_of_operation("conv2d"), kind_of_operation("relu"), kind_of_operation("add")
    ('conv', 'relu', 'add')
    """
    return _KINDS.get(operation, operation)


def nonlinearity_of_class(class_name: str) -> str | None:
    """Return which nonlinearity a module class is by its name, or None.

    Examples
    --------
    >>> nonlinearity_of_class("LeakyReLU"), nonlinearity_of_class("Conv2d")
    ('leaky_relu', None)
    """
    name = class_name.lower()
    name = _CLASS_NAMES.get(name, name)
    return name if name in NONLINEARITIES else None
