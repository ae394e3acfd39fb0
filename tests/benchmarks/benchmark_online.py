"""What one pass costs: beside recording and analyzing, beside a forward pass, and in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import networks
import numpy as np
import torch
from timing import Row, alternate

import unitprobe as up
from unitprobe import Stimuli
from unitprobe.analysis.running_sums import LayerOfSums, has_running_sums
from unitprobe.metrics.registry import measures

NAMES = [name for name in measures() if has_running_sums(name)]


def run(quick: bool) -> list[Row]:
    """Return the time of a one-pass analysis over that of recording and analyzing, and its parts.

    ResNet-20 at 32 px, all 19 ReLUs, 10 classes.
    """
    count, repeats = (1024, 2) if quick else (5000, 5)
    network = networks.ResNet20().eval()
    stimuli = make_stimuli(count)
    rows = []
    for n_permutations in (0, 100):
        with tempfile.TemporaryDirectory() as folder:

            def recorded(folder: str = folder, n_permutations: int = n_permutations) -> None:
                path = Path(folder) / "store.h5"
                tree = up.record(network, stimuli, path, overwrite=True, progress=False)
                up.analyze(tree, metrics=NAMES, n_permutations=n_permutations, progress=False)

            def streamed(n_permutations: int = n_permutations) -> None:
                up.analyze(
                    network,
                    stimuli,
                    memory=1,
                    metrics=NAMES,
                    n_permutations=n_permutations,
                    progress=False,
                )

            what = f"one pass / record and analyze, {count} stimuli, {n_permutations} permutations"
            rows.append(alternate(what, streamed, recorded, repeats=repeats))
    rows.append(update_against_forward(network, stimuli, repeats))
    return rows


def make_stimuli(count: int) -> Stimuli:
    """Return network-ready noise of 10 classes."""
    images = np.random.default_rng(0).normal(size=(count, 3, 32, 32)).astype(np.float32)
    return Stimuli(images, np.arange(count) % 10)


def update_against_forward(network: torch.nn.Module, stimuli: Stimuli, repeats: int) -> Row:
    """Time what a chunk of 1,024 stimuli costs in all layers beside its forward pass."""
    images = torch.stack([stimuli[index][0] for index in range(1024)])
    with up.Probe(network) as probe, torch.inference_mode():
        batches = [probe(batch) for batch in images.split(64)]
        labels, indices = stimuli.labels[:1024], np.arange(1024)
        joined = {layer: torch.cat([batch[layer] for batch in batches]) for layer in batches[0]}
        statistics = {layer: LayerOfSums(NAMES, 10, "allow", {}) for layer in joined}

    def update() -> None:
        for layer, responses in joined.items():
            statistics[layer].update(responses, labels, indices, {})

    def forward() -> None:
        with torch.inference_mode():
            for batch in images.split(64):
                network(batch)

    what = "updates of 19 layers with 1,024 stimuli against their forward pass"
    return alternate(what, update, forward, repeats=repeats)
