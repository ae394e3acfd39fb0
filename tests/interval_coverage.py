"""The table of docs/coverage.md on rank correlations, from simulations.

Run as ``python tests/interval_coverage.py`` it prints the table, in about two minutes on one core.
"""

import numpy as np

from unitprobe.inference import rank_correlation

#: Units of each layer.
LAYERS = {
    "1 of 16": [16],
    "1 of 64": [64],
    "19 of 16 to 64 (ResNet-20)": [16] * 7 + [32] * 6 + [64] * 6,
    "20 of 8": [8] * 20,
    "40 of 4": [4] * 40,
}


def coverage(sizes, correlation, *, shared=0.0, clustered=False, sets=200, seed=0):
    """Return the share of 95% intervals that hold the true rank correlation, and their mean width.

    Units are bivariate normal with Pearson's `correlation`. Of the variance of both values,
    `shared` is the same in all layers for units of one index.
    """
    random = np.random.default_rng(seed)
    true = 6 / np.pi * np.arcsin(correlation / 2)
    layer = np.repeat(np.arange(len(sizes)), sizes)
    channel = np.concatenate([np.arange(size) for size in sizes])
    held, width = 0, 0.0

    def normal():
        of_channel = random.normal(size=max(sizes))[channel]
        return np.sqrt(shared) * of_channel + np.sqrt(1 - shared) * random.normal(size=len(layer))

    for _ in range(sets):
        x = normal()
        y = correlation * x + np.sqrt(1 - correlation**2) * normal()
        found = rank_correlation(x, y, layer, clusters=channel if clustered else None, resamples=1)
        held += found.low <= true <= found.high
        width += found.high - found.low
    return held / sets, width / sets


def table():
    """Return the lines of the table."""
    lines = [f"{'layers, Pearson correlation':34}  0     0.5   0.8   0.95"]
    rows = [(name, sizes, {}) for name, sizes in LAYERS.items()]
    rows += [
        (f"9 of 32, shared 0.8{words}", [32] * 9, {"shared": 0.8, "clustered": clustered})
        for words, clustered in (("", False), (", clusters", True))
    ]
    for name, sizes, options in rows:
        held = [coverage(sizes, rho, **options)[0] for rho in (0, 0.5, 0.8, 0.95)]
        lines.append(f"{name:34}  {'  '.join(f'{share:.2f}' for share in held)}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
