import pytest
import xarray as xr

from unitprobe.demo import run_demo, training
from unitprobe.errors import StoreExistsError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "demo"
    return out, list(run_demo(out, progress=False))


def test_it_leaves_three_stores_a_table_plots_and_a_page(shown):
    out, lines = shown
    for name in ("suppressed", "plain", "promoted"):
        with xr.open_datatree(out / f"{name}.h5", engine="h5netcdf") as tree:
            assert len(tree.children) == 9
            assert len(tree["stimulus"]) == 364
        assert (out / name / "index.html").exists()
    assert (out / "index.html").exists()
    assert (out / "comparison.csv").read_text().count("\n") == 4
    assert any(str(out / "index.html") in line for line in lines)


def test_the_regularizer_moves_selectivity_both_ways_at_little_cost(shown):
    out, _ = shown
    values, accuracy = {}, {}
    for name in ("suppressed", "plain", "promoted"):
        with xr.open_datatree(out / f"{name}-analysis.h5", engine="h5netcdf") as analysis:
            values[name] = float(analysis["class_selectivity"].mean())
        with xr.open_datatree(out / f"{name}-ablation.h5", engine="h5netcdf") as ablation:
            accuracy[name] = float(ablation["accuracy"])
    assert values["suppressed"] < values["plain"] / 2 < values["promoted"] / 4
    assert min(accuracy.values()) > 0.95


def test_it_never_writes_over_what_is_there(shown):
    out, _ = shown
    with pytest.raises(StoreExistsError, match="--overwrite"):
        next(run_demo(out, progress=False))


def test_the_same_seed_trains_the_same_network():
    import torch

    from unitprobe import load_stimuli
    from unitprobe.demo.small_network import make_network

    digits = load_stimuli("digits", split="train", limit=256)
    states = []
    for _ in range(2):
        network = make_network("plain", seed=1)
        training.train(network, digits, alpha=-1.0, seed=1, progress=False)
        states.append(network.module.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
