"""Intrinsic dimension beside scikit-dimension, the covariance spectrum beside its bare product."""

from __future__ import annotations

from typing import Any

import numpy as np
from timing import Row, alternate

from unitprobe import metrics


def run(quick: bool) -> list[Row]:
    """Return the time of each measure over that of its reference."""
    rng = np.random.default_rng(0)
    stimuli, units = (2000, 64) if quick else (20_000, 512)
    white = rng.standard_normal((stimuli, units))
    # Variances that fall as 1/rank, along directions that mix units, as in networks.
    turn, _ = np.linalg.qr(rng.standard_normal((units, units)))
    falling = (rng.standard_normal((stimuli, units)) / np.sqrt(np.arange(1, units + 1))) @ turn
    size = f"{stimuli:,} stimuli x {units} units"
    rows = _intrinsic(np.maximum(white, 0), f"rectified white noise, {size}")
    rows += _intrinsic(np.maximum(falling, 0), f"rectified noise of falling spectrum, {size}")
    stimuli, units = (2000, 256) if quick else (50_000, 2048)
    wide = rng.standard_normal((stimuli, units))

    def bare() -> Any:
        return np.linalg.eigvalsh(wide.T @ wide)

    what = f"covariance_spectrum, {stimuli:,} stimuli x {units} units, beside product and eigvalsh"
    return [*rows, alternate(what, lambda: metrics.covariance_spectrum(wide), bare, repeats=2)]


def _intrinsic(points: Any, size: str) -> list[Row]:
    try:
        import skdim.id as reference
    except ImportError:
        return [{"what": "intrinsic dimension", "skipped": "scikit-dimension is not installed"}]
    return [
        alternate(
            f"twonn_dimension, {size}, beside scikit-dimension",
            lambda: metrics.twonn_dimension(points),
            lambda: reference.TwoNN().fit(points).dimension_,
            repeats=2,
        ),
        alternate(
            f"mle_dimension, {size}, beside scikit-dimension",
            lambda: metrics.mle_dimension(points),
            lambda: reference.MLE().fit(points, n_neighbors=20).dimension_,
            repeats=2,
        ),
    ]
