"""A GPU that is not there: tensors that claim to lie on one, and compute on the CPU.

Where there is no GPU nothing shows that a tensor stayed on the CPU, or went to NumPy from a GPU: on
one device every mistake with devices works. Within `pretend_device` a tensor made on the device, or
moved there, is a `Pretender`: it says that it lies there, its numbers lie in a CPU tensor inside
it, every operation computes on these, and what the device would refuse is refused:

- operations between devices, but for those that CUDA allows (numbers, copies, indices);
- NumPy, for what is not on the CPU;
- float64 on "mps".

Streams are as late as they may be: what is copied to pinned memory without waiting arrives when the
stream is waited for, and not before; until then it holds NaN, and what arrives is whatever then
stands in its source. Under autocast products of matrices and convolutions are rounded to half
precision, though they stay float32.
The device has a random state of its own, which `torch.manual_seed` seeds.

The capture of a CUDA graph computes nothing, and refuses whatever makes the processor wait or
copies between it and the device. A replay does all that was captured, in the same memory.

It cannot show what the kernels of a GPU compute (TensorFloat-32, other orders of summation, values
that differ from run to run), what `torch.compile` and NCCL do there, how memory and time go, or
whether anything waits on the right one of several GPUs. Its tests run on a real one, if any.
"""

from __future__ import annotations

import contextlib
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.export
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

_aten = torch.ops.aten
_CPU, _META = torch.device("cpu"), torch.device("meta")
_MOVING = {_aten._to_copy.default, _aten.copy_.default}
# A processor's indices may choose from what lies on a GPU.
_CHOOSING = {_aten.index.Tensor, _aten._unsafe_index.Tensor, _aten.index_put.default}
_CHOOSING |= {_aten.index_put_.default, _aten._index_put_impl_.default}
# Elementwise operations take one number from the CPU; these do not.
_STRICT = ("stack", "cat", "mm", "gather", "scatter", "index_select", "index_add", "searchsorted")
_HALVED = {_aten.convolution.default, _aten.mm.default, _aten.addmm.default}
_HALVED |= {_aten.bmm.default, _aten.baddbmm.default}
# In inference mode these arrive whole.
_HALVED |= {_aten.conv2d.default, _aten.linear.default, _aten.matmul.default}
# For the result of these the processor waits.
_WAITING = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.equal.default}


class Pretender(Tensor):
    """A tensor that claims to lie on the pretended device; its numbers are in `inner`.

    To PyTorch's own code it lies on "meta", where nothing asks for a driver.
    """

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=_META,
        )

    def __init__(self, inner):
        self.inner = inner
        self._streams = {_gpu.current}

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})

    def __repr__(self):
        return f"{self.inner!r} claimed to be on {self.device}"

    @property
    def device(self):
        return _gpu.device

    @property
    def is_cuda(self):
        return self.device.type == "cuda"

    @property
    def is_meta(self):
        return False

    def get_device(self):
        return self.device.index

    # PyTorch makes an index of a list where it thinks that the tensor lies, and "meta" keeps none.
    def __getitem__(self, key):
        return super().__getitem__(_indices(key))

    def __setitem__(self, key, value):
        super().__setitem__(_indices(key), value)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            made = Pretender(self.inner.detach().clone()).requires_grad_(self.requires_grad)
            made.__dict__ |= {"_is_param": True} if isinstance(self, torch.nn.Parameter) else {}
            memo[id(self)] = made
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().__reduce_ex__(protocol)

    def record_stream(self, stream):
        self._streams.add(stream)

    def data_ptr(self):
        return self.inner.data_ptr()

    def to(self, *args, **kwargs):
        moved = super().to(*args, **kwargs)
        places = [*args, kwargs.get("device")]
        asked = [torch.device(place) for place in places if isinstance(place, str | torch.device)]
        same = all(_numbered(device) == self.device for device in asked)
        # PyTorch copies it there: "meta" is another device.
        alike = moved.dtype == self.dtype and moved.stride() == self.stride()
        return self if same and alike and not kwargs.get("copy") else moved

    def tolist(self):
        return self.detach().cpu().tolist()

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy; use .cpu()")


class _Everywhere(TorchDispatchMode):
    """Sees what is made on, or moved to, the device, in which no tensor of it takes part."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


class Generator(torch.Generator):
    """A generator of random numbers that may claim to be of the device."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made._claimed = _numbered(torch.device(device))
        _gpu.generators.append(made)
        return made

    def __init__(self, device="cpu"):
        super().__init__()

    @property
    def device(self):
        return self._claimed


class Stream:
    """Does what is queued on it when it is waited for, and not before."""

    def __init__(self, device=None, priority=0):
        self._queue: list[Callable[[], None]] = []

    def queue(self, work):
        self._queue.append(work)

    def synchronize(self):
        while self._queue:
            self._queue.pop(0)()

    def wait_stream(self, stream):
        if stream is not self:
            stream.synchronize()

    def query(self):
        self.synchronize()
        return True


class Graph:
    """Operations that were captured, which nothing has done yet, and `replay` does.

    As with CUDA, a capture changes no number, and every replay reads and writes the same memory.
    """

    def __init__(self):
        self.operations: list[tuple[Callable[[], Any], Any]] = []

    def replay(self):
        for operation, kept in self.operations:
            for new, old in zip(tree_leaves(operation()), tree_leaves(kept), strict=True):
                if isinstance(old, Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def _capture(graph, pool=None, stream=None, capture_error_mode="global"):
    _gpu.capturing = graph
    try:
        yield
    finally:
        _gpu.capturing = None


class _Gpu:
    """The state of the one device that there would be: its streams and random numbers."""

    def __init__(self, device):
        self.device = device
        self.default = self.current = Stream()
        self.pinned: list[Tensor] = []
        self.random = torch.get_rng_state()
        self.generators: list[Generator] = []
        self.autocast = False
        self.capturing: Graph | None = None

    def is_of(self, generator, device):
        """Tell whether a generator, of which PyTorch hands on another wrapper, is of a device."""
        state = generator.get_state()
        return any(
            torch.equal(made.get_state(), state) and made.device == device
            for made in self.generators
        )

    def is_pinned(self, tensor):
        place = tensor.untyped_storage().data_ptr()
        return any(place == pinned.untyped_storage().data_ptr() for pinned in self.pinned)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def seed(self, seed):
        self.random = torch._C.Generator().manual_seed(seed).get_state()

    def set_rng_state(self, state, device="cuda"):
        self.random = state.clone()

    @contextlib.contextmanager
    def drawing(self):
        """Let the device's random state be the default one."""
        before = torch.get_rng_state()
        torch.set_rng_state(self.random)
        try:
            yield
        finally:
            self.random = torch.get_rng_state()
            torch.set_rng_state(before)


_gpu = _Gpu(torch.device("cuda", 0))


def _pin(tensor, device=None):
    _gpu.pinned.append(tensor.clone())
    return _gpu.pinned[-1]


def _set_autocast_enabled(device, enabled):
    if device == _gpu.device.type:
        _gpu.autocast = enabled
    _enable_autocast(device, enabled)


_enable_autocast = torch.set_autocast_enabled


def _export(module, args, **options):
    """Capture a network on the CPU, and put what was captured on the device."""
    place = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.device, args)
    if place[0] == _CPU:
        return _real_export(module, args, **options)
    module.to(_CPU)
    try:
        with _disable_current_modes():
            inputs = tree_map(_inside, args)
            program = _real_export(module, inputs, **options).run_decompositions({})
    finally:
        module.to(_gpu.device)
    for node in program.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = node.kwargs | {"device": _gpu.device}
    moved = types.SimpleNamespace(
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict={name: value.to(_gpu.device) for name, value in program.state_dict.items()},
        constants={name: value.to(_gpu.device) for name, value in program.constants.items()},
    )
    moved.run_decompositions = lambda table: moved
    return moved


_real_export = torch.export.export


def _numbered(device: torch.device) -> torch.device:
    bare = device.type != "cpu" and device.index is None
    return torch.device(device.type, 0) if bare else device


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU as if its tensors lay where they claim to."""
    leaves = tree_leaves((args, kwargs))
    there = any(isinstance(leaf, Pretender) for leaf in leaves)
    asked = kwargs.get("device")
    if there:
        _check_devices(func, args, kwargs)
    if asked is not None:
        there = torch.device(asked).type in (_gpu.device.type, "meta")
    target = _gpu.device if there else _CPU
    generator = kwargs.get("generator")
    if generator is not None and not _gpu.is_of(generator, target):
        raise RuntimeError(f"Expected a {target} device type for generator, found another")
    replaced = {"device": _CPU} if asked is not None else {}
    replaced |= {"pin_memory": False} if kwargs.get("pin_memory") else {}

    if func is _aten.copy_.default and there and not isinstance(args[0], Pretender):
        return _copy_to_cpu(args[0], args[1], bool(sum(args[2:])) or kwargs.get("non_blocking"))
    own = there and generator is None and torch.Tag.nondeterministic_seeded in func.tags
    inner_args, inner_kwargs = tree_map(_inside, (args, kwargs | replaced))
    half = there and _gpu.autocast

    def operation() -> Any:
        with _gpu.drawing() if own else contextlib.nullcontext():
            return _rounded(func, func(*inner_args, **inner_kwargs), half)

    if there and _gpu.capturing is not None:
        out = _captured(operation, func, args, kwargs)
    else:
        out = operation()
    if not there:
        if kwargs.get("pin_memory"):
            _gpu.pinned.append(out)
        return out
    return _claim_results(func, args, kwargs, out)


def _captured(operation: Callable[[], Any], func: Any, args: Any, kwargs: Any) -> Any:
    """Capture an operation, and return what it will write to."""
    assert _gpu.capturing is not None
    leaves = tree_leaves((args, kwargs))
    choosing = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dtype == torch.bool]
    here = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Pretender)]
    moving = func in _MOVING and (here or torch.device(kwargs.get("device") or "meta") == _CPU)
    # `torch.where` moves a number to the device first; other operations take it as it is.
    if (
        moving
        or func in _WAITING
        or (func in _CHOOSING and choosing)
        or (func is _aten.where.self and here)
        or kwargs.get("generator") is not None
    ):
        raise RuntimeError(f"{func.name()}: operation not permitted when stream is capturing")
    written = [_inside(leaf) for leaf in tree_leaves(_written(func, args, kwargs))]
    before = [tensor.clone() for tensor in written if isinstance(tensor, Tensor)]
    out = operation()
    for tensor, value in zip(written, before, strict=True):
        tensor.copy_(value)
    _gpu.capturing.operations.append((operation, out))
    return out


def _claim_results(func: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """Return the results as tensors of the device; what was written to in place is itself."""
    originals = {id(_inside(leaf)): leaf for leaf in tree_leaves(_written(func, args, kwargs))}
    return tree_map(
        lambda leaf: originals[id(leaf)] if id(leaf) in originals else _claim(leaf), out
    )


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """Return the arguments that an operation writes to."""
    return [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ] + [
        kwargs[argument.name]
        for argument in func._schema.arguments
        if argument.name in kwargs and argument.is_out
    ]


def _copy_to_cpu(target: Tensor, source: Pretender, non_blocking: bool | None) -> Tensor:
    if not non_blocking or not _gpu.is_pinned(target):
        return target.copy_(source.inner)
    if target.is_floating_point():
        target.fill_(torch.nan)
    stream, inner, streams, alive = _gpu.current, source.inner, source._streams, weakref.ref(source)

    def arrive() -> None:
        if alive() is None and stream not in streams:
            raise RuntimeError("memory was given back while another stream read it")
        target.copy_(inner)

    stream.queue(arrive)
    return target


def _check_devices(func: Any, args: Any, kwargs: Any) -> None:
    if func in _MOVING:
        return
    schema = {argument.name: argument for argument in func._schema.arguments}
    for name, value in (dict(zip(schema, args, strict=False)) | kwargs).items():
        written = schema[name].alias_info is not None and schema[name].alias_info.is_write
        for leaf in tree_leaves(value):
            if not isinstance(leaf, Tensor) or isinstance(leaf, Pretender):
                continue
            if func in _CHOOSING and name == "indices":
                continue
            if leaf.ndim or written or any(word in func.name() for word in _STRICT):
                raise RuntimeError(
                    f"{func.name()}: Expected all tensors to be on the same device, but {name} "
                    f"{tuple(leaf.shape)} is on cpu, another on {_gpu.device}"
                )


def _rounded(func: Any, out: Any, half: bool) -> Any:
    """Return what autocast computes, in its precision if not in its type."""
    if func not in _HALVED or not half or out.dtype != torch.float32:
        return out
    return out.to(torch.get_autocast_dtype(_gpu.device.type)).float()


def _indices(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(_indices, key))
    return torch.tensor(key, device=_gpu.device) if isinstance(key, list | np.ndarray) else key


def _inside(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, Pretender) else leaf


def _claim(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or isinstance(leaf, Pretender):
        return leaf
    if _gpu.device.type == "mps" and leaf.dtype in (torch.float64, torch.complex128):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype, which it does not support")
    return Pretender(leaf)


@contextlib.contextmanager
def pretend_device(kind: str = "cuda") -> Iterator[torch.device]:
    """Pretend that there is one GPU, "cuda" or "mps", for this thread."""
    _gpu.__init__(torch.device(kind, 0))
    of_cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "a pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: types.SimpleNamespace(
            name="a pretended GPU", total_memory=2**34
        ),
        "manual_seed": _gpu.seed,
        "manual_seed_all": _gpu.seed,
        "get_rng_state": lambda device="cuda": _gpu.random.clone(),
        "set_rng_state": _gpu.set_rng_state,
        "synchronize": lambda device=None: _gpu.default.synchronize(),
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": _capture,
        "stream": _gpu.stream,
        "current_stream": lambda device=None: _gpu.current,
    }
    torch._C._ensureCUDADeviceGuardSet()  # one that does nothing, where there is no driver
    lifting = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        if kind == "cuda":
            stack.enter_context(mock.patch.multiple(torch.cuda, **of_cuda))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", _pin))
        stack.enter_context(mock.patch.object(torch.export, "export", _export))
        stack.enter_context(mock.patch.object(torch, "set_autocast_enabled", _set_autocast_enabled))
        # Attention in operations that every device has.
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(_Everywhere())
        # Numbers are made on the CPU, and then moved where the mode sees it.
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            yield _gpu.device
        finally:
            torch._C._set_only_lift_cpu_tensors(lifting)
