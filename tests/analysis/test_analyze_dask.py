"""An analysis under dask, on threads and on processes, is the analysis of the file."""

import networks
import numpy as np
import pytest
import trees
from conftest import make_stimuli

import unitprobe as up
from unitprobe.analysis import read_responses

pytest.importorskip("dask")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["mean", "none"])
def store(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("dask") / f"{request.param}.h5"
    up.record(networks.build_tiny(), make_stimuli(90), path, pool=request.param)
    return path


@pytest.fixture(scope="module")
def expected(store):
    return up.analyze(up.open_store(store), n_permutations=10)


def test_threads_give_the_same_numbers(store, expected):
    lazy = up.open_store(store, chunks="auto")
    assert lazy["relu"].to_dataset().chunks
    trees.assert_allclose(up.analyze(lazy, n_permutations=10), expected, rtol=1e-12)


@pytest.mark.process
def test_a_cluster_of_processes_gives_the_same_numbers(store, expected):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        lazy = up.open_store(store, chunks="auto")
        trees.assert_allclose(up.analyze(lazy, n_permutations=10), expected, rtol=1e-12)


def test_activations_are_averaged_a_few_stimuli_at_a_time(store):
    tree = up.open_store(store)
    for layer in tree.children:
        parts, whole = read_responses(tree, layer, block_bytes=5_000), read_responses(tree, layer)
        np.testing.assert_allclose(parts, whole, rtol=1e-12)
