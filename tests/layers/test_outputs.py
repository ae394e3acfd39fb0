"""Calls that return several tensors, and what runs inside attention and recurrent modules."""

from dataclasses import dataclass
from typing import NamedTuple

import networks
import pytest
import torch
from torch import nn

from unitprobe import Probe, list_layers
from unitprobe.errors import LayerError
from unitprobe.layers import select_layers, tensor_at, with_tensor_at


def by_name(model, **options):
    return {layer.name: layer for layer in list_layers(model, **options)}


@dataclass(frozen=True)
class Fields:
    hidden: torch.Tensor
    cell: torch.Tensor


class Named(NamedTuple):
    hidden: torch.Tensor
    cell: torch.Tensor


FORMS = {
    "tuple": ((lambda a, b: (a, b)), "[0]"),
    "list": ((lambda a, b: [a, b]), "[0]"),
    "dict": ((lambda a, b: {"hidden": a, "cell": b}), "[hidden]"),
    "dataclass": (Fields, "[hidden]"),
    "named tuple": (Named, "[0]"),
    "nested": ((lambda a, b: {"a/b": (a, b)}), "[a_b][0]"),
}


class Branch(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.form(x.relu(), x.tanh())


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_of_an_output_has_an_address(form):
    make, first = FORMS[form]
    model = nn.Sequential()
    model.add_module("branch", Branch(make))
    images = torch.randn(2, 3, 6, 6)
    layers = {n: la for n, la in by_name(model, example=images).items() if n.startswith("branch[")}
    assert len(layers) == 2
    assert layers[f"branch{first}"].units == 5
    with Probe(model, [f"branch{first}", "branch.relu"], pool="none") as probe:
        seen = probe(images)
    assert torch.equal(seen[f"branch{first}"], seen["branch.relu"])


@pytest.mark.parametrize("form", FORMS)
def test_one_tensor_of_an_output_is_replaced_and_the_output_keeps_its_form(form):
    make, _ = FORMS[form]
    one, two = torch.zeros(2, 1), torch.ones(2, 1)
    output = make(one, one)
    path = by_path(output)[0]
    changed = with_tensor_at(output, path, two)
    assert type(changed) is type(output)
    assert tensor_at(changed, path) is two
    assert tensor_at(changed, by_path(output)[1]) is one
    assert tensor_at(output, path) is one


def by_path(output):
    from unitprobe.layers.outputs import named_tensors

    return [path for path, _ in named_tensors(output)]


def test_a_missing_path_holds_nothing():
    assert tensor_at((torch.zeros(1),), (3,)) is None
    assert tensor_at(None, ("hidden",)) is None


def test_names_with_brackets_are_chosen_as_they_are_and_by_globs():
    model = networks.Recurrent()
    layers = list_layers(model)

    def names(selection):
        return [layer.name for layer in select_layers(model, layers, selection)]

    assert names("lstm[0]") == ["lstm[0]"]
    assert names("l*[0]") == ["lstm[0]", "lstm[1][0]"]
    assert names("lstm*") == ["lstm[0]", "lstm[1][0]", "lstm[1][1]"]
    assert names("cell_[12]") == ["cell_1", "cell_2"]


class TestRecurrentNetworks:
    @pytest.mark.parametrize("batch_first", [True, False])
    def test_a_sequence_has_stimuli_first_and_units_last(self, batch_first):
        model = networks.Recurrent(batch_first).eval()
        layers = by_name(model)
        sequence = layers["lstm[0]"]
        assert (sequence.kind, sequence.shape, sequence.unit_axis) == ("lstm", (1, 8, 10), -1)
        assert sequence.position_dims == ("token",)
        state = layers["lstm[1][0]"]  # (stimulus, layer and direction, unit)
        assert (state.shape, state.unit_axis, state.stimuli.number) == ((1, 4, 5), -1, 1)
        images = torch.randn(3, 3, 8, 8)
        rows = images.permute(0, 2, 1, 3).flatten(2)
        with torch.no_grad():
            expected, _ = model.lstm(rows if batch_first else rows.transpose(0, 1))
        if not batch_first:
            expected = expected.transpose(0, 1)
        with Probe(model, "lstm[0]", pool="none") as probe:
            assert torch.equal(probe(images)["lstm[0]"], expected)

    def test_every_time_step_of_a_loop_has_its_address(self):
        model = networks.Recurrent().eval()
        images = torch.randn(3, 3, 8, 8)
        with Probe(model, ["lstm[0]", "cell*"], pool="none") as probe:
            seen = probe(images)
        state = torch.zeros(3, 7)
        for step, name in enumerate(["cell", "cell_1", "cell_2"]):
            with torch.no_grad():
                state = model.cell(seen["lstm[0]"][:, step], state)
            torch.testing.assert_close(seen[name], state, rtol=0, atol=1e-6)

    def test_a_cell_with_two_states_has_two_layers_a_step(self):
        class Loop(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.LSTMCell(3, 4)

            def forward(self, x):
                state = None
                for _ in range(2):
                    state = self.cell(x, state)
                return state[0]

        names = [layer.name for layer in list_layers(Loop(), example=torch.randn(2, 3))]
        assert names == ["cell[0]", "cell[1]", "cell_1[0]", "cell_1[1]"]

    def test_stimuli_taken_for_time_steps_are_not_stimuli(self):
        class Mistaken(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 5)

            def forward(self, x):
                return self.lstm(x.mean(1))[0]

        model = Mistaken()
        layers = list_layers(model, input_size=(3, 8, 8))
        with pytest.raises(
            LayerError, match="batch_first=False its first axis is that of time steps"
        ):
            select_layers(model, layers, "lstm[0]")


class Attending(nn.Module):
    """nn.MultiheadAttention on the patches of a map."""

    input_size = (3, 8, 8)

    def __init__(self, batch_first=True, need_weights=False):
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=batch_first)
        self.need_weights = need_weights

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        out, _ = self.attention(x, x, x, need_weights=self.need_weights)
        return out if self.attention.batch_first else out.transpose(0, 1)


class TestAttention:
    def test_what_runs_inside_has_addresses(self):
        layers = by_name(Attending())
        names = [n for n, la in layers.items() if n.startswith("attention") and la.units]
        wanted = ["attention.linear", "attention.scaled_dot_product_attention"]
        assert [n for n in names if n in wanted] == wanted
        assert layers["attention.linear"].units == 36
        values = layers["attention.scaled_dot_product_attention"]
        assert (values.shape, values.position_dims) == ((1, 3, 4, 4), ("head", "token"))
        assert layers["attention.linear_1"].units == 12  # the output projection
        assert (layers["attention[0]"].shape, layers["attention[0]"].unit_axis) == ((1, 4, 12), -1)

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_values_are_those_computed_by_hand(self, batch_first):
        model = Attending(batch_first).eval()
        images = torch.randn(3, 3, 8, 8)
        names = ["attention.linear", "attention.scaled*", "attention.linear_1", "attention[0]"]
        with Probe(model, names, pool="none") as probe:
            seen = probe(images)
        attention = model.attention
        with torch.no_grad():
            tokens = model.patch(images).flatten(2).transpose(1, 2)
            projected = tokens @ attention.in_proj_weight.T + attention.in_proj_bias
            q, k, v = (p.unflatten(-1, (3, 4)).transpose(1, 2) for p in projected.chunk(3, -1))
            values = ((q @ k.mT) / 2).softmax(-1) @ v  # (stimulus, head, token, unit)
            out = attention.out_proj(values.transpose(1, 2).flatten(2))
        expected = [projected, values.permute(0, 3, 1, 2), out, out]
        for (name, activation), value in zip(seen.items(), expected, strict=True):
            torch.testing.assert_close(activation, value, rtol=0, atol=1e-6, msg=name)

    def test_asking_for_the_weights_as_well_gives_the_same_values(self):
        fused, written_out = Attending().eval(), Attending(need_weights=True).eval()
        written_out.load_state_dict(fused.state_dict())
        images = torch.randn(3, 3, 8, 8)
        with Probe(fused, "attention.scaled*", pool="none") as probe:
            (expected,) = probe(images).values()
        with Probe(written_out, "attention.bmm_1", pool="none") as probe:
            (values,) = probe(images).values()  # (stimulus, unit, head, token)
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
        weights = by_name(written_out)["attention[1]"]
        assert (weights.shape, weights.unit_axis) == ((1, 4, 4), None)

    def test_looking_inside_does_not_change_what_the_network_computes(self):
        model = Attending().eval()
        images = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            expected = model(images)
        outputs = []
        handle = model.register_forward_hook(lambda _m, _a, output: outputs.append(output))
        list_layers(model, example=images)
        handle.remove()
        torch.testing.assert_close(outputs[0], expected, rtol=0, atol=1e-6)
