import networks
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from unitprobe import Stimuli

# The same examples in every run, wherever it runs.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def reused():
    return networks.ReusedInPlace().eval()


@pytest.fixture
def stimuli():
    """Twenty-six network-ready stimuli (3, 8, 8) of four classes, unequal in number."""
    return make_stimuli(26)


def make_stimuli(count, size=(3, 8, 8), classes=4, seed=0):
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, *size)).astype(np.float32)
    labels = np.arange(count) % classes
    names = [f"class {i}" for i in range(classes)]
    return Stimuli(images, labels, class_names=names, name="noise")
