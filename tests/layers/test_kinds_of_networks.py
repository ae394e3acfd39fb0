"""Networks that PyTorch's own tools have made from others."""

import pytest
import torch
from torch import fx, nn

import unitprobe as up
from unitprobe.errors import ModelError


def small():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def test_a_graph_that_refuses_evaluation_mode_is_listed_in_it():
    def refuse():
        raise NotImplementedError("Calling eval() is not supported yet.")

    graph = fx.symbolic_trace(nn.Sequential(small(), nn.Dropout(0.5))).train()
    graph.eval = refuse
    assert [layer.kind for layer in up.list_layers(graph, example=torch.rand(1, 4))][:2] == [
        "linear",
        "relu",
    ]
    assert graph.training


class Exported(nn.Module):
    """Calls operations as the graph of an exported program does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return torch.ops.aten.relu_.default(torch.ops.aten.linear.default(x, self.weight))


def test_operations_of_an_exported_program_have_their_plain_names():
    layers = up.list_layers(Exported(), example=torch.rand(1, 4))
    assert [(la.name, la.kind, la.units) for la in layers] == [
        ("linear", "linear", 6),
        ("relu", "relu", 6),
    ]


def test_a_quantized_network_is_refused_in_one_line():
    quantized = torch.ao.quantization.quantize_dynamic(small(), {nn.Linear})
    with pytest.raises(
        ModelError, match=r"^quantized networks cannot be recorded: '0' is a Linear"
    ):
        up.list_layers(quantized, example=torch.rand(1, 4))


@pytest.mark.slow
def test_an_exported_program_is_recorded():
    program = torch.export.export(small(), (torch.rand(2, 4),)).module()
    with up.Probe(program) as probe:
        assert {name: len(found) for name, found in probe(torch.rand(2, 4)).items()} == {"relu": 2}
