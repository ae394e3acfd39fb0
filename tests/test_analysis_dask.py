"""An analysis under dask, on threads and on processes, is the analysis of the file."""

import sys

import networks
import pytest
import xarray as xr
from conftest import make_stimuli

import unitprobe as up

pytest.importorskip("dask")


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
    xr.testing.assert_allclose(up.analyze(lazy, n_permutations=10), expected, rtol=1e-12)


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
        xr.testing.assert_allclose(up.analyze(lazy, n_permutations=10), expected, rtol=1e-12)


def test_activations_are_averaged_a_few_stimuli_at_a_time(store, expected, monkeypatch):
    monkeypatch.setattr(sys.modules["unitprobe.analysis.analyze"], "_BLOCK_BYTES", 5_000)
    xr.testing.assert_allclose(
        up.analyze(up.open_store(store), n_permutations=10), expected, rtol=1e-12
    )
