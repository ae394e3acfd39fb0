import os
import sys
from pathlib import Path

import pytest
import torch

# At the end, so that an installed unitprobe comes before that of the checkout.
ROOT = str(Path(__file__).parents[2])
sys.path.append(ROOT)
# For the processes that tests start.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), ROOT]))


@pytest.fixture(scope="module")
def one_thread():
    """Networks so small gain nothing from a second thread, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def digits(cache):
    from recipes.selectivity_regularization.images import load_splits

    return load_splits("digits", cache)


@pytest.fixture(scope="session")
def brief():
    """Three epochs, seconds for the digits."""
    from recipes.selectivity_regularization.settings import Preset

    return Preset(epochs=3, schedule="one_cycle", learning_rate=0.2, padding=1, flip=False)


@pytest.fixture(scope="session")
def settings_for(brief):
    """Return the settings of a run on some images, with changes."""
    import dataclasses

    from recipes.selectivity_regularization.settings import Settings

    def make(splits, **changes):
        settings = Settings(
            model="resnet8",
            data="digits",
            preset="short",
            data_fingerprint=splits.fingerprint,
            image_size=splits.image_size,
            mean=splits.mean,
            std=splits.std,
            alpha="0",
            training=brief,
        )
        return dataclasses.replace(settings, **changes)

    return make
