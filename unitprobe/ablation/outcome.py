"""Counts of correct answers per class, added up over batches of logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitprobe.ablation.classifier import Classifier
from unitprobe.typing import FloatArray, IntArray


@dataclass
class Outcomes:
    """Answers and loss of one network under several ablations, summed over stimuli.

    Attributes
    ----------
    correct : array (target, class_name)
        Stimuli of each class that are classified correctly.
    taken_for : array (target, class_name)
        Stimuli that are classified as each class, regardless of their own class.
    changed : array (target,)
        Stimuli whose predicted output differs from that of the intact network.
    lost, gained : array (target,)
        Stimuli that only the intact, or only the ablated network classifies correctly.
    loss : array (target,)
        Loss in nats, summed over stimuli: the cross-entropy, see `Classifier`.
    """

    correct: IntArray
    taken_for: IntArray
    changed: IntArray
    lost: IntArray
    gained: IntArray
    loss: FloatArray

    @classmethod
    def empty(cls, targets: int, classes: int) -> Outcomes:
        """Return counts of 0."""
        by_class = (targets, classes)
        return cls(
            np.zeros(by_class, np.int64),
            np.zeros(by_class, np.int64),
            np.zeros(targets, np.int64),
            np.zeros(targets, np.int64),
            np.zeros(targets, np.int64),
            np.zeros(targets),
        )

    def add(self, first: int, logits: Tensor, batch: Answers) -> None:
        """Count a batch of stimuli for the targets from `first` on.

        Parameters
        ----------
        first : int
            The first of the targets.
        logits : Tensor
            (target, stimulus, output).
        batch : Answers
            The correct answers and those of the intact network.
        """
        rows = slice(first, first + len(logits))
        predicted = logits.argmax(2)
        right = predicted == batch.outputs
        was_right = batch.predicted == batch.outputs
        self.correct[rows] += _counts(right.to(batch.membership.dtype) @ batch.membership)
        taken = predicted[:, :, None] == batch.output_of_class
        self.taken_for[rows] += _counts(taken.sum(1))
        self.changed[rows] += _counts((predicted != batch.predicted).sum(1))
        self.lost[rows] += _counts((was_right & ~right).sum(1))
        self.gained[rows] += _counts((~was_right & right).sum(1))
        self.loss[rows] += batch.loss(logits, batch.outputs).sum(1).cpu().numpy()

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the counts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Answers:
    """The correct outputs for a batch of stimuli, and those of the intact network.

    Attributes
    ----------
    outputs : Tensor
        (stimulus,), the correct output.
    predicted : Tensor
        (stimulus,), the output that the intact network predicts.
    membership : Tensor
        (stimulus, class_name), 1 for the class of the stimulus.
    output_of_class : Tensor
        (class_name,), the output that stands for each class.
    loss : callable
        The loss of the network, `Classifier.loss`.
    """

    outputs: Tensor
    predicted: Tensor
    membership: Tensor
    output_of_class: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def of(
        cls, classifier: Classifier, logits: Tensor, labels: Tensor, output_of_class: Tensor
    ) -> Answers:
        """Return the answers from the logits (stimulus, output) of the intact network."""
        labels, output_of_class = (x.to(logits.device) for x in (labels, output_of_class))
        membership = torch.nn.functional.one_hot(labels, len(output_of_class)).float()
        predicted = logits.argmax(1)
        return cls(output_of_class[labels], predicted, membership, output_of_class, classifier.loss)


def _counts(tensor: Tensor) -> IntArray:
    counts: IntArray = tensor.cpu().numpy().astype(np.int64)
    return counts
