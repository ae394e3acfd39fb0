"""What the counts of a sweep depend on, and the folder that keeps them under a name of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unitprobe.ablation.checkpoint import Checkpoint, describe_targets
from unitprobe.ablation.classifier import Classifier
from unitprobe.ablation.forward_passes import intact_logits, load_two
from unitprobe.ablation.settings import SweepOptions, format_mode
from unitprobe.ablation.targets import Targets
from unitprobe.layers import evaluating
from unitprobe.models import describe_transform
from unitprobe.stimuli import Stimuli
from unitprobe.store import writing


def identify_sweep(
    network: Classifier, stimuli: Stimuli, swept: Sequence[Targets], options: SweepOptions
) -> tuple[dict[str, str], NDArray[np.float64]]:
    """Return what the counts of a sweep depend on, and the intact logits of the first stimulus."""
    two = load_two(network, stimuli)
    with evaluating(network.module), torch.no_grad():
        logits = intact_logits(network, two.images)[0].cpu().double().numpy()
    contents = {
        "weights_fingerprint": network.fingerprint,
        "preprocessing": describe_transform(stimuli.transform),
        "stimuli_fingerprint": stimuli.fingerprint,
        "layers": ", ".join(targets.layer.name for targets in swept),
        "targets": describe_targets(swept),
        "mode": format_mode(options.mode),
        "seed": str(options.seed),
        "output": network.described_output,
        "method": options.method,
        "batch_size": str(options.batch_size),
        "memory": str(options.memory),
    }
    return contents, logits


@contextmanager
def kept_in(
    folder: str | os.PathLike[str] | None,
    network: Classifier,
    stimuli: Stimuli,
    swept: Sequence[Targets],
    options: SweepOptions,
    *,
    jointly: bool = False,
) -> Iterator[Checkpoint | None]:
    """Yield the checkpoint of a sweep, in a folder under a name of what the counts depend on.

    Parameters
    ----------
    folder : path, optional
        Where sweeps are kept; None keeps nothing, and yields None.
    network, stimuli, swept, options
        The sweep.
    jointly : bool
        Whether the targets of all layers are ablated together.
    """
    if folder is None:
        yield None
        return
    folder = Path(folder)
    contents, logits = identify_sweep(network, stimuli, swept, options)
    if jointly:
        contents["jointly"] = "True"
    name = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with Checkpoint(folder / f"sweep-{name}", contents, logits, resume=True) as checkpoint:
        yield checkpoint
