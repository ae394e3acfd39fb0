"""A network to which something is attached can be copied, saved and loaded."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import unitprobe as up


def saved(network):
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda network: pickle.loads(pickle.dumps(network)),
    "save": saved,
    "twice": lambda network: saved(copy.deepcopy(network)),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_computes_the_same_and_has_nothing_attached(name):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    images, labels = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2] * 2)
    with up.Probe(network) as probe, up.SelectivityRegularizer(network) as regularizer:
        first = COPIES[name](network)  # the regularizer does not know the layers yet
        probe(images)
        network(images)
        regularizer(labels)
        second = COPIES[name](network)
        for other in (first, second):
            torch.testing.assert_close(other(images), network(images))
        regularizer(labels)
        second(torch.rand(2, 1, 2, 2))
        with pytest.raises(up.errors.OptionError, match="has seen no batch"):
            regularizer(labels)
    assert list(up.record(second, up.Stimuli(images.numpy(), labels.numpy())).children) == ["2"]
