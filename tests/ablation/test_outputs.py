"""What a network returns: probabilities, one output, and logits inside something else."""

import collections
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import unitprobe as up
from unitprobe.errors import LabelError, ModelError, OptionError
from unitprobe.protocols import PROTOCOLS

Named = collections.namedtuple("Named", ["features", "logits"])


@dataclasses.dataclass
class Returned:
    hidden: torch.Tensor
    logits: torch.Tensor


def stimuli(classes=3):
    images = np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)
    return up.Stimuli(images, np.arange(12) % classes)


class Net(nn.Module):
    """A small network, and what is done with its logits at the end."""

    def __init__(self, end, outputs=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, outputs)
        self.end = end
        self.eval()

    def logits(self, x, silent=None):
        x = self.relu(self.conv(x))
        if silent is not None:
            x = x * (torch.arange(4) != silent)[:, None, None]
        return self.head(x.mean((2, 3)))

    def forward(self, x):
        return self.end(self.logits(x))


def ablated(end, classes=3, outputs=3, **options):
    return up.ablate(Net(end, outputs), stimuli(classes), layers=["relu"], **options)


def literal(loss, outputs, classes):
    """The loss without each unit minus the intact loss, one network after another."""
    model, shown = Net(None, outputs), stimuli(classes)
    images = torch.stack([image for image, _ in shown])
    labels = torch.from_numpy(shown.labels)
    with torch.no_grad():
        losses = [float(loss(model.logits(images, unit), labels)) for unit in (None, *range(4))]
    return np.array(losses[1:]) - losses[0]


@pytest.mark.parametrize("method", ["full", "partial_forward"])
@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (nn.Identity(), "logits"),
        (nn.Softmax(1), "probabilities"),
        (lambda x: x.exp() / x.exp().sum(1, keepdim=True), "probabilities"),
        (lambda x: x.softmax(1).double().clone(), "probabilities"),
        (nn.LogSoftmax(1), "log-probabilities"),
        (lambda x: {"probabilities": x.softmax(1)}, "probabilities"),
    ],
)
def test_the_loss_is_minus_log_p_whatever_the_last_step(end, kind, method):
    tree = ablated(end, method=method)
    expected = literal(nn.functional.cross_entropy, 3, 3)
    np.testing.assert_allclose(tree["relu"]["loss_increase"], expected, atol=1e-6)
    assert tree.attrs["output_kind"] == kind


@pytest.mark.parametrize("method", ["full", "partial_forward"])
@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (nn.Identity(), "one logit"),
        (lambda x: x.squeeze(1), "one logit"),
        (nn.Sigmoid(), "one probability"),
        (lambda x: torch.sigmoid(x)[:, 0], "one probability"),
    ],
)
def test_one_output_tells_two_classes_apart(end, kind, method):
    def loss(logits, labels):
        return binary_cross_entropy_with_logits(logits[:, 0], labels.float())

    tree = ablated(end, classes=2, outputs=1, method=method)
    np.testing.assert_allclose(tree["relu"]["loss_increase"], literal(loss, 1, 2), atol=1e-6)
    assert tree.attrs["output_kind"] == kind


def test_one_sigmoid_for_each_class_has_the_binary_cross_entropy():
    def loss(logits, labels):
        each = nn.functional.one_hot(labels, 3).float()
        return binary_cross_entropy_with_logits(logits, each, reduction="sum") / 12

    tree = ablated(nn.Sigmoid())
    np.testing.assert_allclose(tree["relu"]["loss_increase"], literal(loss, 3, 3), atol=1e-5)
    assert tree.attrs["output_kind"] == "independent probabilities"


def test_a_sigmoid_in_the_middle_makes_no_probabilities():
    assert ablated(lambda x: x.sigmoid() * 3 - 1).attrs["output_kind"] == "logits"


@pytest.mark.parametrize(
    "end",
    [
        lambda x: {"features": x[:, :2], "logits": x},
        lambda x: {"out": x, "aux": x * 2},
        lambda x: {"boxes": x[:, :2], "class_logits": x},
        lambda x: (x, x[:, :2]),
        lambda x: [x],
        lambda x: Named(x[:, :2], x),
        lambda x: Returned(x[:, :2], x),
    ],
)
def test_logits_inside_something_else(end):
    expected = literal(nn.functional.cross_entropy, 3, 3)
    tree = ablated(end)
    np.testing.assert_allclose(tree["relu"]["loss_increase"], expected, atol=1e-6)


@pytest.mark.parametrize("output", ["scores", 1, lambda returned: returned["scores"]])
def test_the_output_can_be_named(output):
    def end(x):
        return {"features": x * 2, "scores": x}

    expected = literal(nn.functional.cross_entropy, 3, 3)
    tree = ablated(end, output=output)
    np.testing.assert_allclose(tree["relu"]["loss_increase"], expected, atol=1e-6)


def test_attribution_agrees_with_the_exact_effect_of_probabilities():
    options = {"layers": ["relu"], "check_units": 0}
    plain, soft = (
        up.attribute(Net(end), stimuli(), **options) for end in (nn.Identity(), nn.Softmax(1))
    )
    one, other = plain["relu"]["class_loss_increase"], soft["relu"]["class_loss_increase"]
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert soft.attrs["output_kind"] == "probabilities"


def test_a_protocol_reads_the_same_outputs():
    one, other = (
        PROTOCOLS["zhou"].run(Net(end), stimuli(), layers=["relu"], progress=False)
        for end in (lambda x: x, lambda x: {"logits": x.softmax(1)})
    )
    assert other.attrs["output_kind"] == "probabilities"
    for name in one["relu"].data_vars:
        np.testing.assert_allclose(one["relu"][name], other["relu"][name], atol=1e-5)


def test_a_softmax_over_the_stimuli_is_refused():
    with pytest.raises(ModelError, match=r"ends in a softmax, but the outputs .* sum to"):
        ablated(nn.Softmax(0))


def test_an_unknown_output_lists_those_that_there_are():
    with pytest.raises(ModelError, match=r"no output 'scores'; it returns '\[logits\]'"):
        ablated(lambda x: {"logits": x}, output="scores")


def test_an_output_of_the_wrong_type_is_refused():
    with pytest.raises(OptionError, match=r"output=1\.5"):
        ablated(nn.Identity(), output=1.5)


def test_one_output_for_three_classes_is_refused():
    with pytest.raises(LabelError, match="one output, which tells two classes apart"):
        ablated(nn.Identity(), outputs=1)
