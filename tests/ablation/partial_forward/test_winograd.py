"""Convolutions of small maps are convolutions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unitprobe.ablation.partial_forward.winograd import WinogradConvolution, transform_of

SIZES = (1, 2, 4, 8)


@pytest.mark.parametrize(("height", "width"), list(itertools.product(SIZES, SIZES)))
def test_equals_a_convolution(height, width):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 3, 3, generator=generator, dtype=torch.float64)
    maps = torch.randn(4, 3, height, width, generator=generator, dtype=torch.float64)
    ours = WinogradConvolution(weight, height, width)(maps.permute(2, 3, 0, 1).contiguous())
    expected = torch.nn.functional.conv2d(maps, weight, padding=1)
    torch.testing.assert_close(ours.permute(2, 3, 0, 1), expected, rtol=0, atol=1e-11)


@given(st.sampled_from(SIZES), st.integers(0, 2**31))
def test_one_axis_is_a_correlation_with_zeros_around(size, seed):
    generator = np.random.default_rng(seed)
    x, w = generator.normal(size=size), generator.normal(size=3)
    one = transform_of(size)
    kernel = np.repeat(one.filter @ w, one.tiles)
    found = one.synthesis @ (kernel * (one.analysis @ x))
    padded = np.pad(x, 1)
    expected = [padded[place : place + 3] @ w for place in range(size)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_takes_half_of_the_products_or_less():
    for size, products in ((1, 1), (2, 3), (4, 6), (8, 12)):
        assert len(transform_of(size).analysis) == products
    assert transform_of(3) is None


def test_suits_only_where_it_pays():
    def suits(shape, height, width, dtype=torch.float32):
        return WinogradConvolution.suits(torch.zeros(shape, dtype=dtype), height, width)

    assert suits((64, 64, 3, 3), 4, 2)
    assert suits((128, 128, 3, 3), 8, 8)
    assert not suits((64, 64, 3, 3), 8, 8), "few units in tiles"
    assert not suits((64, 64, 3, 3), 7, 7), "no transform"
    assert not suits((64, 64, 1, 1), 4, 4), "another kernel"
    assert not suits((16, 16, 3, 3), 4, 4), "few units"
    assert not suits((64, 64, 3, 3), 4, 4, torch.bfloat16), "rounding"


def test_single_precision_keeps_six_digits():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, 3, 3, generator=generator) / 24
    maps = torch.randn(16, 64, 4, 4, generator=generator)
    ours = WinogradConvolution(weight, 4, 4)(maps.permute(2, 3, 0, 1).contiguous())
    expected = torch.nn.functional.conv2d(maps.double(), weight.double(), padding=1)
    assert float((ours.permute(2, 3, 0, 1) - expected).abs().max()) < 1e-4
