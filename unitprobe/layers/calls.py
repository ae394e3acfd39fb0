"""Watch a network run: report every call of a module and every functional operation.

The network is not changed, traced or copied. Forward hooks report module calls. A
`TorchFunctionMode`, active only while the network runs, reports the operations between them
(``F.relu(x)``, ``x + y``, ``torch.cat``). So this also works for networks whose path depends on
the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from types import FunctionType, TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unitprobe.layers.layer import nonlinearity_of_class
from unitprobe.layers.operations import COMPOSITES, REFLECTED
from unitprobe.layers.running import evaluating
from unitprobe.layers.structure import class_name, named_children, named_modules

_FOLLOWED_PROPERTIES = frozenset(("T", "mT", "H", "mH", "data", "real"))


class Call(NamedTuple):
    """The address of one call within one forward pass.

    `owner` is the path of the called module, or of the module in which `operation` runs; `number`
    counts the earlier calls of the same module or of the same operation in the same module.
    """

    owner: str
    operation: str | None
    number: int


#: Receives the address, the function or module, its arguments and its output. If it returns a
#: value other than None, this replaces the output.
Report = Callable[[Call, Any, tuple[Any, ...], Mapping[str, Any], Any], Any]


def _operation_name(function: Callable[..., Any]) -> str | None:
    name: str = getattr(function, "__name__", "")
    if name in ("__get__", "__set__", "__delete__"):
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        return attribute if name == "__get__" and attribute in _FOLLOWED_PROPERTIES else None
    name = name.partition(".")[0].strip("_")  # ``aten.relu.default`` of an exported program
    return REFLECTED.get(name, name) or None


# The compiler calls the function while it traces, instead of tracing it, which fails in some
# versions. This is what `torch.compiler.assume_constant_result` does, but that loads the compiler,
# which takes a second.
_operation_name._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=4096)
def operation_name(function: Callable[..., Any]) -> str | None:
    """Return the name of a function as used in names of layers, None if it computes no tensor.

    In-place and reflected forms have the name of the plain one: ``relu_`` is ``relu``.
    """
    return _operation_name(function)


def is_leaf(module: nn.Module) -> bool:
    """Tell whether the operations inside a module belong to the layer of the module itself.

    True for a module without children that runs PyTorch's own ``forward`` (``nn.Conv2d``) or has
    the class name of a nonlinearity (timm's ``Swish``). A subclass that overrides ``forward`` may
    do anything in it, so its operations are layers of their own.
    """
    if any(True for _ in named_children(module)):
        return False
    own_forward = type(module).forward.__module__.startswith("torch.nn.")
    return own_forward or nonlinearity_of_class(class_name(module)) is not None


@lru_cache
def _opened(function: FunctionType) -> FunctionType:
    """Return a composite function that runs its operations where they can be intercepted.

    PyTorch's own version first checks whether the whole function is intercepted, which would lead
    here again.
    """
    names = {**function.__globals__, "has_torch_function": lambda _: False}
    opened = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


class Hook:
    """A hook that copies and files of a network do not have: theirs does nothing.

    They hold a method of the standard library instead, so the file opens without unitprobe.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self._call(*args)

    def __reduce__(self) -> Any:
        return getattr, (nullcontext(), "__exit__")


# The watcher that suspends all others; see `CallWatcher.suspending_others`.
_INSPECTOR: ContextVar[CallWatcher | None] = ContextVar("_INSPECTOR", default=None)


class CallWatcher:
    """Report the calls made while a module runs, from `attach` to `detach`.

    Parameters
    ----------
    module : nn.Module
        The network.
    report : callable
        See `Report`. The operations that it runs itself are not reported.
    modules : collection of str, optional
        Paths of the modules whose calls are reported, as in `named_modules`. By default all but
        the root.
    operations : collection of (str, str), optional
        The (owner, operation) pairs that are reported, by default all. If it is empty, nothing is
        intercepted and the network runs at its own speed.
    on_begin : callable, optional
        Called before each forward pass.
    """

    def __init__(
        self,
        module: nn.Module,
        report: Report,
        *,
        modules: Collection[str] | None = None,
        operations: Collection[tuple[str, str]] | None = None,
        on_begin: Callable[[], None] | None = None,
    ) -> None:
        self._module = module
        self._report = report
        self._modules = modules
        self._operations = operations
        self._operation_names = None if operations is None else {name for _, name in operations}
        self._on_begin = on_begin
        self._counts: Counter[tuple[str, str | None]] = Counter()
        self._path: list[str] = [""]
        #: Path of the leaf module that is running; only set while every operation is watched.
        self.leaf: str | None = None
        self._running = False
        self._reporting = False
        self._mode: _OperationMode | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self) -> None:
        """Add the hooks."""
        try:
            self._handles.append(self._module.register_forward_pre_hook(Hook(self._before)))
            end = Hook(self._end)
            self._handles.append(self._module.register_forward_hook(end, always_call=True))
            intercept = self._operations is None or bool(self._operations)
            for path, module in named_modules(self._module):
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # takes no hooks
                if path and is_leaf(module):
                    self._hook_leaf(path, module)
                elif path:
                    self._hook(path, module, enter=intercept)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Remove every hook; may be called twice."""
        self._running = False
        self._leave_mode()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> CallWatcher:
        self.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _hook(self, path: str, module: nn.Module, *, enter: bool) -> None:
        wanted = self._modules is None or path in self._modules

        def before(_module: nn.Module, _args: Any) -> None:
            self._path.append(path)

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
            if enter:
                self._path.pop()
            return self.called((path, None), module, args, kwargs, output) if wanted else None

        if enter:
            self._handles.append(module.register_forward_pre_hook(Hook(before)))
        if enter or wanted:
            self._handles.append(module.register_forward_hook(Hook(after), with_kwargs=True))

    def _hook_leaf(self, path: str, module: nn.Module) -> None:
        # The operations inside a leaf count for the module around it, so only the wanted leaves
        # need a hook.
        every_leaf = self._operations is None

        def before(_module: nn.Module, _args: Any) -> None:
            self.leaf = path

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
            self.leaf = None
            return self.called((path, None), module, args, kwargs, output)

        if every_leaf:
            self._handles.append(module.register_forward_pre_hook(Hook(before)))
        if every_leaf or self._modules is None or path in self._modules:
            self._handles.append(module.register_forward_hook(Hook(after), with_kwargs=True))

    @contextmanager
    def suspending_others(self) -> Iterator[None]:
        """Suspend all other watchers during a pass that only inspects the network."""
        token = _INSPECTOR.set(self)
        try:
            yield
        finally:
            _INSPECTOR.reset(token)
            # PyTorch does not call the hook for this on exceptions such as `KeyboardInterrupt`.
            self._running = False
            self._leave_mode()

    @staticmethod
    def is_any_suspending() -> bool:
        """Tell whether the current pass only inspects the network; see `suspending_others`."""
        return _INSPECTOR.get() is not None

    def _is_suspended(self) -> bool:
        # The compiler of torch 2.11 cannot trace context variables. No pass that it compiles
        # only inspects the network.
        if torch.compiler.is_compiling():
            return False
        return _INSPECTOR.get() not in (None, self)

    def _before(self, _module: nn.Module, _args: tuple[Any, ...]) -> None:
        if not self._is_suspended():
            self.begin()

    def begin(self) -> None:
        """Begin a forward pass; for a watcher that is attached when it is about to run."""
        self._leave_mode()
        self._running = True
        self._counts.clear()
        self._path[:] = [""]
        self.leaf = None
        if self._on_begin is not None:
            self._on_begin()
        if self._operations is None or self._operations:
            self._mode = _OperationMode(self)
            self._mode.__enter__()  # type: ignore[no-untyped-call]

    def _end(self, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        if not self._is_suspended():
            self._running = False
            self._leave_mode()

    def _leave_mode(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._mode = None

    def operated(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one intercepted function and report it."""
        # The compiler looks through a cache, and warns of it.
        compiling = torch.compiler.is_compiling()
        operation = _operation_name(function) if compiling else operation_name(function)
        composite = operation in COMPOSITES
        # Most functions end here, so every microsecond counts in a small network.
        unwanted = self._operation_names is not None and operation not in self._operation_names
        if (unwanted and not composite) or self._reporting or self._is_suspended():
            return function(*args, **kwargs)
        if composite and not compiling and self._mode is not None:
            with self._mode:
                output = _opened(function)(*args, **kwargs)
        else:
            output = function(*args, **kwargs)
        if operation is None:
            return output
        key = (self._path[-1], operation)
        if self._operations is not None and key not in self._operations:
            return output
        replacement = self.called(key, function, args, kwargs, output)
        return output if replacement is None else replacement

    def called(
        self,
        key: tuple[str, str | None],
        what: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> Any:
        """Count and report one call; return what replaces its output, or None."""
        if not self._running or self._is_suspended():
            return None
        call = Call(*key, self._counts[key])
        self._counts[key] += 1
        self._reporting = True
        try:
            replacement = self._report(call, what, args, kwargs, output)
        finally:
            self._reporting = False
        if replacement is None:
            return None
        overwritten = bool(args) and args[0] is output and isinstance(output, torch.Tensor)
        if overwritten and _works_in_place(what, args, kwargs):
            if _same_memory(replacement, output):
                return replacement
            # All other references to the overwritten tensor must see the replacement too.
            return output.copy_(replacement)
        return replacement


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    try:
        return one.data_ptr() == other.data_ptr()
    except RuntimeError:
        return one is other  # tensors have no memory while a graph is captured


def _works_in_place(what: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if isinstance(what, nn.Module):
        return bool(getattr(what, "inplace", False))
    name: str = getattr(what, "__name__", "")
    named_so = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
    return named_so or bool(kwargs.get("inplace")) or any(argument is True for argument in args)


@contextmanager
def inspecting(module: nn.Module, watcher: CallWatcher, stimuli: torch.Tensor) -> Iterator[None]:
    """Prepare a pass that only inspects a network, and that changes nothing about it.

    The network is in evaluation mode, without gradients. All other watchers are suspended, and
    the random state is restored afterwards.
    """
    devices = [stimuli.device] if stimuli.device.type == "cuda" else []
    with (
        evaluating(module),
        torch.random.fork_rng(devices),
        torch.no_grad(),
        watcher,
        watcher.suspending_others(),
    ):
        yield


class _OperationMode(TorchFunctionMode):
    """Passes every function that PyTorch can intercept to the watcher."""

    def __init__(self, watcher: CallWatcher) -> None:
        super().__init__()
        self._watcher = watcher

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._watcher.operated(func, args, kwargs or {})
