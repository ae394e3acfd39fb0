"""One table of operation names: what it names exists, and nothing else lists names."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import unitprobe as up
from unitprobe.ablation.partial_forward.unit_change import UnitChange, apply_rule
from unitprobe.layers import operations

PACKAGE = Path(up.__file__).parent
LISTS = {name: value for name, value in vars(operations).items() if isinstance(value, frozenset)}
NAMES = frozenset().union(*LISTS.values())
# Special methods and names inside of PyTorch.
INTERNAL = {"array", "bool", "concat", "getitem", "index", *operations.COMPOSED_KINDS}
OWNERS = (torch.Tensor, functional, torch, torch.linalg, torch._C._nn)


@pytest.mark.parametrize("name", sorted(NAMES - INTERNAL))
def test_every_name_is_one_of_pytorch(name):
    forms = (name, f"_{name}", f"__{name}__")
    assert any(hasattr(owner, form) for owner in OWNERS for form in forms)


def docstrings(tree):
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, scopes) and node.body]
    return {body[0].value for body in bodies if isinstance(body[0], ast.Expr)}


def named_in(node):
    """Return the operations that one literal lists."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value.split()
        return NAMES.intersection(words) if NAMES.issuperset(words) else set()
    if isinstance(node, ast.List | ast.Set | ast.Tuple):
        return {w for item in node.elts if isinstance(item, ast.Constant) for w in named_in(item)}
    return set()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_no_other_module_lists_names_of_operations(path):
    if path.name == "operations.py":
        return
    tree = ast.parse(path.read_text())
    prose = docstrings(tree)
    lists = [named_in(node) for node in ast.walk(tree) if node not in prose]
    # Two names are a choice in the code, three a list of the same kind as those of `operations`.
    assert [names for names in lists if len(names) > 2] == []


class Between(nn.Module):
    """A convolution, one operation, a linear layer."""

    def __init__(self, operation):
        super().__init__()
        self.conv, self.fc, self.operation = nn.Conv2d(3, 4, 1), nn.Linear(4, 2), operation

    def forward(self, x):
        return self.fc(self.operation(self.conv(x)).mean((2, 3)))


# Further arguments, and which form of the operation in a captured graph takes them.
ARGUMENTS = {
    **dict.fromkeys(("clamp", "clip"), ("default", -1, 1)),
    **dict.fromkeys(("clamp_min", "clamp_max"), ("default", 0)),
    **dict.fromkeys(("add", "sub", "mul", "div"), ("Tensor", 2.0)),
    "rsub": ("Scalar", 2.0),
    "pow": ("Tensor_Scalar", 2),
    "threshold": ("default", 0.1, 0.0),
}
# Several operations, or one of another name, in a captured graph.
DECOMPOSED = ("logsigmoid", "tanhshrink", "softsign")


@pytest.mark.parametrize("name", sorted(operations.POINTWISE))
def test_a_pointwise_operation_is_known_to_layers_weights_and_ablation(name):
    owner = next(owner for owner in (functional, torch, torch._C._nn) if hasattr(owner, name))
    function = getattr(owner, name)
    form, *arguments = ARGUMENTS.get(name, ("default",))
    network = Between(lambda x: function(x, *arguments))
    image = torch.rand(2, 3, 5, 5)
    layer = next(la for la in up.list_layers(network, example=image) if la.operation)
    assert (layer.unit_axis, layer.units) == (1, 4)
    norms = up.weight_norms(network, layers=layer.name, example=image)[layer.name]
    made, read = (w.detach().double().abs() for w in (network.conv.weight, network.fc.weight))
    np.testing.assert_allclose(norms.incoming_l1, made.sum((1, 2, 3)))
    np.testing.assert_allclose(norms.outgoing_l1, read.sum(0))
    if name not in DECOMPOSED:
        operation = getattr(getattr(torch.ops.aten, name), form)
        intact, values = torch.rand(2, 4, 5, 5), torch.rand(2, 2, 5, 5)
        narrow = UnitChange(values, 1, torch.tensor([3, 0]), intact)
        result = apply_rule(operation, (narrow, *arguments), {}, operation(intact, *arguments))
        torch.testing.assert_close(result.values, operation(values, *arguments))
