"""A report on a network whose ablation is a protocol's."""

import pytest
import torch

import unitprobe as up
from unitprobe import protocols
from unitprobe.report import write_report

MODEL = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
).eval()


@pytest.fixture(scope="module")
def digits():
    return up.load_stimuli("digits", limit=60)


@pytest.fixture(scope="module")
def analysis(digits):
    return up.analyze(MODEL, digits)


CALLS = {
    "zhou": lambda x: protocols.zhou_protocol(MODEL, x, n_directions=2, resamples=5),
    "morcos": lambda x: protocols.morcos_protocol(MODEL, x, n_orders=2, n_points=2, resamples=5),
    "bau": lambda x: protocols.bau_protocol(MODEL, x, n_random=1, sizes=[1]),
    "ranadive": lambda x: protocols.ranadive_protocol({0: MODEL}, x, n_random=1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_page_shows_the_figure_of_the_protocol(name, digits, analysis, tmp_path):
    tree = CALLS[name](digits)
    page = write_report(analysis, tmp_path / "r", ablation=tree).read_text()
    assert "plots/protocol.svg" in page
    assert (tmp_path / "r" / "plots" / "protocol.svg").stat().st_size > 1000
    # Only protocols that ablate every unit alone can be held against selectivity unit by unit.
    assert ("plots/ablation.svg" in page) == (name in ("zhou", "morcos"))


def test_a_report_without_a_protocol_takes_its_figure_away(digits, analysis, tmp_path):
    write_report(analysis, tmp_path / "r", ablation=CALLS["zhou"](digits))
    write_report(analysis, tmp_path / "r", overwrite=True)
    assert not (tmp_path / "r" / "plots" / "protocol.svg").exists()
