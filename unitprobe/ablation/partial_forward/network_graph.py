"""A network as a graph of operations, in which the activations of its layers have labels.

The graph comes from `torch.export`, for any number of stimuli. While it is captured, the layers
are watched as everywhere else (`probe.watch_layers`), and each activation is handed on through an
operation of our own, ``unitprobe::layer_output``. So a layer has its label in the graph exactly
where the full sweep replaces its activation, in-place operations and modules called twice included.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from unitprobe.ablation.classifier import Classifier, LogitModule
from unitprobe.errors import ModelError
from unitprobe.layers import Layer, evaluating, inside
from unitprobe.layers.operations import COPIES, DROPOUTS
from unitprobe.models import Network
from unitprobe.probe import watch_layers

#: A `torch.fx.Node`, whose arguments are typed as all that they may be.
Node: TypeAlias = Any

aten = torch.ops.aten

# Operations that hand on what they get, in evaluation mode and on one device.
_IDENTITIES = frozenset(
    getattr(aten, name).default
    for name in COPIES | DROPOUTS | {"alias", "lift_fresh_copy"}
    if "default" in getattr(getattr(aten, name, None), "overloads", list)()
)
_VIEWS = frozenset((aten.view.default, aten._unsafe_view.default))
_BATCH_NORM = aten._native_batch_norm_legit_no_training.default


@dataclass(frozen=True)
class Batched:
    """Where the stimuli lie in a value: along `axis`, each `times` times in a row."""

    axis: int
    times: int


@dataclass(frozen=True)
class NetworkGraph:
    """A captured network.

    Attributes
    ----------
    nodes : list of Node
        Operations in the order of execution; those that no output needs are left out.
    images, output : Node
        The stimuli, and the logits.
    layer_outputs : dict of str to Node
        By name of the layer, the node that hands on its activation.
    constants : dict of Node to Tensor
        Parameters and other tensors that do not depend on the stimuli.
    batched : dict of Node to Batched
        Nodes with a value that depends on the number of stimuli, and where they lie in it.
    sizes : dict of Node to int
        Of each number that is a multiple of the number of stimuli, how many for each.
    """

    nodes: list[Node]
    images: Node
    output: Node
    layer_outputs: dict[str, Node]
    constants: dict[Node, Tensor]
    batched: dict[Node, Batched]
    sizes: dict[Node, int]

    @cached_property
    def last_use(self) -> dict[Node, list[Node]]:
        """Values other than the logits that no later node needs, by the node that is last."""
        users = {source: node for node in self.nodes for source in node.all_input_nodes}
        last_use: dict[Node, list[Node]] = {}
        for source, user in users.items():
            if source is not self.output:
                last_use.setdefault(user, []).append(source)
        return last_use

    def bytes_of_stimulus(self, node: Node) -> int:
        """Return the size of a node's value for one stimulus; 0 if it does not depend on them."""
        batched = self.batched.get(node)
        if batched is None:
            return 0
        value = node.meta["val"]
        others = [size for axis, size in enumerate(value.shape) if axis != batched.axis]
        return int(math.prod(others)) * batched.times * int(value.element_size())


def capture_graph(network: Network, layers: Sequence[Layer], example: Tensor) -> NetworkGraph:
    """Capture a network.

    Parameters
    ----------
    network : Network
        A network that is in evaluation mode. Of a `Classifier` the graph ends in its logits.
    layers : sequence of Layer
        Layers to label.
    example : Tensor
        Two stimuli or more, (stimulus, channel, y, x), on the network's device.

    Raises
    ------
    ModelError
        It cannot be captured: its path depends on the data, or on the number of stimuli.
    """
    mark_output = _label_operation()
    numbers = {layer.name: number for number, layer in enumerate(layers)}

    def label(layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> Tensor:
        marked: Tensor = mark_output(activation, numbers[layer.name])
        return marked

    module = inside(network.module)
    # On CUDA the choice of a kernel for a batch norm depends on whether there are more.
    stimuli = torch.export.Dim("stimuli", min=2, max=2**16 - 1)
    try:
        with (
            warnings.catch_warnings(),
            evaluating(module),
            torch.no_grad(),
            watch_layers(module, layers, label) as watcher,
            watcher.suspending_others(),
        ):
            warnings.simplefilter("ignore")
            program = torch.export.export(
                LogitModule(network, module) if isinstance(network, Classifier) else module,
                (example,),
                dynamic_shapes=({0: stimuli},),
                strict=False,
            ).run_decompositions({})
    except Exception as error:  # whatever the network does may fail in any way
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        if "specialized" in str(error):
            reason = "it makes a constant of the number of stimuli, as len(x) does for x.shape[0]"
        raise ModelError(f"{network.name} cannot be captured as a graph: {reason}") from error
    return _read(network, program, layers)


@cache
def _label_operation() -> Any:
    """Register the operation that labels an activation; once, when the first graph is captured."""

    @torch.library.custom_op("unitprobe::layer_output", mutates_args=())
    def layer_output(activation: Tensor, number: int) -> Tensor:
        return activation.clone()

    @layer_output.register_fake
    def _(activation: Tensor, number: int) -> Tensor:
        return torch.empty_like(activation)

    return layer_output


def is_layer_output(node: Node) -> bool:
    """Tell whether a node hands on the activation of a layer."""
    return node.target is torch.ops.unitprobe.layer_output.default


def _read(
    network: Network, program: torch.export.ExportedProgram, layers: Sequence[Layer]
) -> NetworkGraph:
    graph = program.graph
    signature = program.graph_signature
    tensors: dict[str, Any] = {**program.state_dict, **program.constants}
    names: Mapping[str, str] = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    constants = {
        node: tensors[names[node.name]].detach() for node in placeholders if node.name in names
    }
    images = next(node for node in placeholders if node not in constants)
    _drop_identities(graph)
    for node in graph.nodes:
        if node.target in _VIEWS:
            node.target = aten.reshape.default  # values may lie otherwise in memory here
    graph.eliminate_dead_code()
    if all(tensor.dtype != torch.bfloat16 for tensor in constants.values()):
        _fold_batch_norms(graph, constants)
    (output,) = graph.output_node().args[0]
    needed = _ancestors(output)
    nodes = [node for node in graph.nodes if node.op == "call_function" and node in needed]
    outputs = {layers[node.args[1]].name: node for node in nodes if is_layer_output(node)}
    missed = [layer.name for layer in layers if layer.name not in outputs]
    if missed:
        raise ModelError(
            f"{network.name}: the logits do not depend on layer {missed[0]!r} alone, as far as its "
            "graph tells"
        )
    batched, sizes = _follow_stimuli(network, images, nodes)
    return NetworkGraph(nodes, images, output, outputs, constants, batched, sizes)


def _follow_stimuli(
    network: Network, images: Node, nodes: Sequence[Node]
) -> tuple[dict[Node, Batched], dict[Node, int]]:
    symbol = images.meta["val"].shape[0].node.expr
    batched = {images: Batched(0, 1)}
    sizes = {}
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            sizes[node] = value.node.expr / symbol
            continue
        if not isinstance(value, Tensor):
            continue
        shape: Any = value.shape
        axes = [n for n, size in enumerate(shape) if isinstance(size, torch.SymInt)]
        if not axes:
            continue
        times = [shape[axis].node.expr / symbol for axis in axes]
        if len(axes) > 1 or not times[0].is_Integer:
            raise ModelError(
                f"{network.name} spreads the stimuli over the axes of {node.name} in a way that "
                "cannot be followed"
            )
        batched[node] = Batched(axes[0], int(times[0]))
    wrong = [node for node, times in sizes.items() if not times.is_Integer]
    if wrong:
        raise ModelError(
            f"{network.name} computes {wrong[0].name} from the number of stimuli in a way that "
            "cannot be followed"
        )
    return batched, {node: int(times) for node, times in sizes.items()}


def _ancestors(node: Node) -> set[Node]:
    found, waiting = {node}, [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _drop_identities(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if node.target is aten.copy.default:
            source = node.args[1]
        elif node.target not in _IDENTITIES:
            continue
        before, after = (getattr(n, "meta", {}).get("val") for n in (source, node))
        if not isinstance(before, Tensor) or not isinstance(after, Tensor):
            continue
        if before.shape == after.shape and before.dtype == after.dtype:
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _fold_batch_norms(graph: fx.Graph, constants: dict[Node, Tensor]) -> None:
    """Make each batch norm part of the convolution before it, or one product and sum."""
    for norm in [node for node in graph.nodes if node.target is _BATCH_NORM]:
        source, *parameters = norm.args[:5]
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in norm.users):
            continue
        given = [None if node is None else constants.get(node) for node in parameters]
        mean, variance = given[2], given[3]
        if mean is None or variance is None:
            continue
        scale = (variance.double() + norm.args[6]).rsqrt()
        if given[0] is not None:
            scale = scale * given[0].double()
        shift = -mean.double() * scale
        if given[1] is not None:
            shift = shift + given[1].double()
        convolution = _convolution_of(source, constants)
        with graph.inserting_before(norm):
            if convolution is None:
                add = _constants(graph, constants, (scale, shift), mean.dtype)
                folded = graph.call_function(scale_and_shift, (source, *add))
            else:
                weight, bias = convolution
                shift = shift if bias is None else shift + bias.double() * scale
                wide = weight.double() * scale.view(-1, *(1,) * (weight.ndim - 1))
                add = _constants(graph, constants, (wide, shift), weight.dtype)
                rest = source.args[3:]
                folded = graph.call_function(source.target, (source.args[0], *add, *rest))
        folded.meta["val"] = source.meta["val"]
        for user in list(norm.users):
            user.replace_all_uses_with(folded)
            graph.erase_node(user)
        graph.erase_node(norm)


def _convolution_of(
    node: Node, constants: Mapping[Node, Tensor]
) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of a convolution that only the batch norm after it reads."""
    if node.target is not aten.conv2d.default or len(node.users) > 1 or node.kwargs:
        return None
    weight = constants.get(node.args[1])
    bias = node.args[2] if len(node.args) > 2 else None
    if weight is None or (bias is not None and bias not in constants):
        return None
    return weight, None if bias is None else constants[bias]


def _constants(
    graph: fx.Graph,
    constants: dict[Node, Tensor],
    values: Sequence[Tensor],
    dtype: torch.dtype,
) -> list[Node]:
    added = []
    for value in values:
        node = graph.create_node("get_attr", f"folded_{len(constants)}")
        constants[node] = value.to(dtype)
        added.append(node)
    return added


def scale_and_shift(activation: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return a batch norm in evaluation mode: units of axis 1 times `scale`, plus `shift`."""
    shape = (-1, *(1,) * (activation.ndim - 2))
    return torch.addcmul(shift.view(shape), activation, scale.view(shape))
