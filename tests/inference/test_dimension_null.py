"""The dimensionality of Gaussian noise of a layer's size, against its known values."""

from __future__ import annotations

import numpy as np
import pytest

from unitprobe import metrics
from unitprobe.errors import OptionError, ResponseError
from unitprobe.inference.dimension_null import gaussian_dimension_null


@pytest.mark.parametrize(("stimuli", "units"), [(400, 100), (100, 400), (200, 200)])
def test_isotropic_noise_has_the_participation_ratio_of_its_size(stimuli, units):
    null = gaussian_dimension_null(stimuli, units, metrics.participation_ratio, resamples=5, seed=0)
    assert null.shape == (5,)
    assert null.mean() == pytest.approx(stimuli * units / (stimuli + units), rel=0.03)


def test_units_of_given_variances_have_the_dimension_of_these():
    variances = np.array([4.0, 1.0, 1.0, 0.0])
    null = gaussian_dimension_null(
        20_000, 4, metrics.participation_ratio, resamples=3, seed=0, variances=variances
    )
    np.testing.assert_allclose(null, 36 / 18, rtol=0.02)


def test_noise_is_measured_to_have_fewer_dimensions_than_units_by_nearest_neighbours():
    null = gaussian_dimension_null(500, 100, metrics.twonn_dimension, resamples=3, seed=0)
    assert (null < 80).all()
    assert (null > 20).all()


def test_the_seed_decides_and_more_resamples_keep_the_first():
    few, many, other = (
        gaussian_dimension_null(30, 5, metrics.effective_rank, resamples=count, seed=seed)
        for count, seed in ((2, 0), (4, 0), (4, 1))
    )
    np.testing.assert_array_equal(many[:2], few)
    assert (many != other).all()
    assert len(set(many)) == 4


@pytest.mark.parametrize("name", ["stimuli", "units", "resamples"])
def test_numbers_below_one_are_refused(name):
    sizes = {"stimuli": 3, "units": 2, "resamples": 1} | {name: 0}
    with pytest.raises(OptionError, match=f"{name}=0"):
        gaussian_dimension_null(measure=metrics.effective_rank, seed=0, **sizes)


@pytest.mark.parametrize("variances", [[1.0], [1.0, -2.0], [1.0, np.nan], [[1.0, 1.0]]])
def test_invalid_variances_are_refused(variances):
    with pytest.raises(ResponseError, match="each of 2 units"):
        gaussian_dimension_null(
            3, 2, metrics.effective_rank, resamples=1, seed=0, variances=variances
        )
