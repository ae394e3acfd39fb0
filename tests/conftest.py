import contextlib
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from pretend_device import pretend_device

from unitprobe import Stimuli

# The same examples in every run, wherever it runs.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


REAL_GPU = torch.cuda.is_available()

# The networks of the tests are so small that a second thread makes them slower, twice on 2 cores.
torch.set_num_threads(1)

# What `pytest` runs when neither a path nor `-m` says what to run. CI runs `-m "not zoo"`.
QUICK = "not (slow or process or recipe or zoo)"


def pytest_configure(config):
    if not config.option.markexpr:
        nothing_named = config.args_source is pytest.Config.ArgsSource.TESTPATHS
        config.option.markexpr = QUICK if nothing_named else "not zoo"


def pytest_itemcollected(item):
    if Path(__file__).parent / "recipes" in item.path.parents:
        item.add_marker("recipe")


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


@contextlib.contextmanager
def rounded_convolutions(rounded):
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = rounded
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def gpu():
    """A GPU, or what passes for one; convolutions in float32 are as exact as on the CPU."""
    pretended = contextlib.nullcontext() if REAL_GPU else pretend_device()
    with rounded_convolutions(False), pretended:
        yield torch.device("cuda")
