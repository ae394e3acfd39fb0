"""Train a demonstration network with or without the selectivity regularizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unitprobe.batches import load_batches
from unitprobe.models import Network
from unitprobe.progress import progress_bar
from unitprobe.regularizer import SelectivityRegularizer
from unitprobe.stimuli import Stimuli

EPOCHS = 20
BATCH_SIZE = 128
LEARNING_RATE = 0.1


def train(network: Network, stimuli: Stimuli, *, alpha: float, seed: int, progress: bool) -> None:
    """Train a network in place; SGD with momentum on one cycle of the learning rate.

    Parameters
    ----------
    network : Network
        From `make_network`.
    stimuli : Stimuli
        The training stimuli; all are held in memory.
    alpha : float
        The loss is ``cross_entropy - alpha * SI``; see `SelectivityRegularizer`.
    seed : int
        Seed of the order of the stimuli.
    progress : bool
        Show a progress bar if standard error is a terminal.
    """
    images, labels = next(
        load_batches(
            stimuli.with_transform(network.transform), range(len(stimuli)), batch_size=len(stimuli)
        )
    )
    module = network.module
    batches = len(images) // BATCH_SIZE
    optimizer = torch.optim.SGD(
        module.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=EPOCHS * batches
    )
    order = torch.Generator().manual_seed(seed)
    module.train()
    with (
        progress_bar(f"training {network.name}", EPOCHS, "epochs", enabled=progress) as advance,
        SelectivityRegularizer(network, alpha=alpha) as regularizer,
    ):
        for _ in range(EPOCHS):
            shuffled = torch.randperm(len(images), generator=order)[: batches * BATCH_SIZE]
            for chosen in torch.split(shuffled, BATCH_SIZE):
                loss = _loss(module, regularizer, images[chosen], labels[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            advance(1)
    module.eval()


def _loss(
    module: nn.Module, regularizer: SelectivityRegularizer, images: Tensor, labels: Tensor
) -> Tensor:
    cross_entropy = nn.functional.cross_entropy(module(images), labels)
    return cross_entropy + regularizer(labels)
