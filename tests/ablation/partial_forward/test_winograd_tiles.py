"""Convolutions in tiles are convolutions, with what follows them."""

import pytest
import torch
from torch.nn.functional import conv2d

from unitprobe.ablation.partial_forward import winograd_tiles
from unitprobe.ablation.partial_forward.winograd_tiles import TiledConvolution
from unitprobe.errors import UnitprobeWarning

pytest.importorskip("numba")


def make(shape, stimuli=3, variants=4, units=(16, 32)):
    """Return a weight, and intact and varied maps."""
    generator = torch.Generator().manual_seed(0)
    into, out = units
    weight = torch.randn(out, into, 3, 3, generator=generator) / (3 * into**0.5)
    intact = torch.randn(stimuli, into, *shape, generator=generator)
    maps = intact.repeat(variants, 1, 1, 1) + torch.randn(
        variants * stimuli, into, *shape, generator=generator
    )
    return weight, intact, maps


def stimuli_of(maps, intact):
    return torch.arange(len(maps)) % len(intact)


def convolve(maps, weight):
    return conv2d(maps.double(), weight.double(), padding=1)


@pytest.mark.parametrize("shape", [(8, 8), (16, 4), (7, 14), (5, 6), (1, 2)], ids=str)
def test_equals_a_convolution(shape):
    weight, intact, maps = make(shape)
    found = TiledConvolution(weight)(
        maps, intact, convolve(intact, weight).float(), stimuli_of(maps, intact)
    )
    torch.testing.assert_close(found.double(), convolve(maps, weight), rtol=0, atol=2e-5)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_adds_a_shortcut_and_applies_a_relu(added, relu):
    weight, intact, maps = make((8, 8))
    expected = convolve(maps, weight)
    shortcut = torch.randn(expected.shape) if added else None
    if added:
        expected += shortcut
    if relu:
        expected = expected.relu()
    base = convolve(intact, weight).float()
    found = TiledConvolution(weight)(
        maps, intact, base, stimuli_of(maps, intact), shortcut, relu=relu
    )
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


def test_tiles_taken_at_a_time_change_nothing(monkeypatch):
    weight, intact, maps = make((8, 8), stimuli=5, variants=4)
    base = convolve(intact, weight).float()
    whole = TiledConvolution(weight)(maps, intact, base, stimuli_of(maps, intact))
    monkeypatch.setattr(winograd_tiles, "_TILES", 6)
    in_sixes = TiledConvolution(weight)(maps, intact, base, stimuli_of(maps, intact))
    assert torch.equal(in_sixes, whole)


def test_what_did_not_change_stays_exactly_as_it_was():
    weight, intact, _ = make((8, 8))
    base = convolve(intact, weight).float()
    same = intact.repeat(2, 1, 1, 1)
    found = TiledConvolution(weight)(same, intact, base, stimuli_of(same, intact))
    assert torch.equal(found, base.repeat(2, 1, 1, 1))


def test_takes_any_stimuli_in_any_order():
    weight, intact, maps = make((8, 8), stimuli=3, variants=4)
    base = convolve(intact, weight).float()
    stimulus_of = torch.tensor([2, 2, 0, 1, 0])
    found = TiledConvolution(weight)(maps[:5], intact, base, stimulus_of)
    torch.testing.assert_close(found.double(), convolve(maps[:5], weight), rtol=0, atol=2e-5)


def test_suits_only_where_it_pays(monkeypatch):
    def suits(shape, height, width, dtype=torch.float32):
        return TiledConvolution.suits(torch.zeros(shape, dtype=dtype), height, width)

    assert suits((32, 32, 3, 3), 8, 8)
    assert suits((64, 64, 3, 3), 7, 7)
    assert suits((16, 16, 3, 3), 32, 32)
    assert not suits((64, 64, 3, 3), 5, 5), "mostly padding"
    assert not suits((64, 64, 3, 3), 4, 4), "a small map"
    assert not suits((64, 64, 5, 5), 8, 8), "another kernel"
    assert not suits((16, 3, 3, 3), 8, 8), "few units"
    assert not suits((24, 64, 3, 3), 8, 8), "units that fill no vector"
    assert not suits((64, 64, 3, 3), 8, 8, torch.float64), "another type"
    monkeypatch.setattr(winograd_tiles, "_loop", lambda: None)
    assert not suits((64, 64, 3, 3), 8, 8), "no compiler"


def test_numbers_that_are_not_finite_stay_in_their_map():
    weight, intact, maps = make((8, 8))
    base = convolve(intact, weight).float()
    stimulus_of = stimuli_of(maps, intact)
    expected = TiledConvolution(weight)(maps, intact, base, stimulus_of)
    maps[4, 2, 3, 3] = torch.nan
    found = TiledConvolution(weight)(maps, intact, base, stimulus_of, relu=True)
    assert found[4, :, 3, 3].isnan().all()
    others = torch.arange(len(maps)) != 4
    assert torch.equal(found[others], expected[others].relu())


@pytest.mark.parametrize("how", ["does not compile", "is wrong"])
def test_a_loop_that_does_not_work_here_is_not_taken(how, monkeypatch):
    def broken(*arguments):
        if how == "does not compile":
            raise TypeError("no such intrinsic\nand a long story")
        arguments[-4][...] = 0.0  # the result

    monkeypatch.setattr(winograd_tiles, "_loop", lambda: broken)
    winograd_tiles._works.cache_clear()
    try:
        weight = make((8, 8))[0]
        why = {"does not compile": "TypeError: no such intrinsic", "is wrong": "numbers are wrong"}
        with pytest.warns(UnitprobeWarning, match=why[how]):
            assert not TiledConvolution.suits(weight, 8, 8)
    finally:
        winograd_tiles._works.cache_clear()
