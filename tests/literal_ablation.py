"""Small networks in which any unit can be replaced by hand, and what is then lost, spelt out."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unitprobe import Value


def with_value(mode, value):
    """The mode, where "value" stands for this value."""
    return Value(value) if mode == "value" else mode


class Convolutional(nn.Module):
    """A convolution under batch norm whose ReLU is functional and works in place."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 6, 3)
        self.head = nn.Linear(6, 4)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(0, 2)
            self.head.weight *= 20

    def first(self, x):
        return functional.relu(self.norm(self.conv(x)), inplace=True)

    def rest(self, x):
        return self.head(torch.tanh(self.second(x)).mean((2, 3)))

    def forward(self, x):
        return self.rest(self.first(x))


class Tokens(nn.Module):
    """Patches through a token-wise layer: (stimulus, token, unit)."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, 4)
        self.mlp = nn.Linear(6, 5)
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, 4)
        with torch.no_grad():
            self.head.weight *= 20

    def first(self, x):
        return functional.relu(self.mlp(self.patch(x).flatten(2).transpose(1, 2)))

    def rest(self, x):
        return self.head(torch.tanh(self.mix(x)).mean(1))

    def forward(self, x):
        return self.rest(self.first(x))


NETWORKS = {"convolutional": (Convolutional, "relu", 1), "tokens": (Tokens, "relu", 2)}


def images_of(stimuli):
    return torch.stack([stimuli[i][0] for i in range(len(stimuli))])


def lost(intact, ablated, labels, classes=4):
    """Every quantity of the result, one stimulus after another."""
    intact, ablated = (x.detach().double().numpy() for x in (intact, ablated))
    before, after = intact.argmax(1), ablated.argmax(1)
    drop, balanced = [], []
    for c in range(classes):
        mine = labels == c
        drop.append(np.mean(before[mine] == c) - np.mean(after[mine] == c))
        balanced.append(
            (np.mean(before[mine] == c) + np.mean(before[~mine] != c)) / 2
            - (np.mean(after[mine] == c) + np.mean(after[~mine] != c)) / 2
        )
    return {
        "accuracy_drop": np.mean(before == labels) - np.mean(after == labels),
        "class_accuracy_drop": drop,
        "max_class_accuracy_drop": max(drop),
        "balanced_accuracy_drop": balanced,
        "loss_increase": np.mean(losses(ablated, labels)) - np.mean(losses(intact, labels)),
        "changed_predictions": np.sum(before != after),
    }


def losses(logits, labels):
    logits = np.asarray(logits, dtype=np.float64)
    return [
        np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)
    ]


def assert_is(node, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(node[name].values, value, atol=2e-6, err_msg=name)
