"""What a network gets right, counted class by class over batches of logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass
class Outcome:
    """Correct answers and loss, summed over stimuli. Outcomes of several batches add up.

    Attributes
    ----------
    correct, count : arrays (class_name,)
        Stimuli of each class that are classified correctly, and in all.
    loss : float
        Cross-entropy in nats, summed over stimuli.
    """

    correct: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    loss: float

    @classmethod
    def empty(cls, classes: int) -> Outcome:
        """Return the outcome of no stimulus."""
        return cls(np.zeros(classes, np.int64), np.zeros(classes, np.int64), 0.0)

    def add(self, logits: Tensor, targets: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Parameters
        ----------
        logits : Tensor
            (stimulus, output).
        targets : Tensor
            (stimulus,), the output that is right.
        labels : Tensor
            (stimulus,), the class.
        """
        right = (logits.argmax(1) == targets).cpu()
        classes = len(self.count)
        self.correct += torch.bincount(labels[right], minlength=classes).numpy()
        self.count += torch.bincount(labels, minlength=classes).numpy()
        self.loss += float(cross_entropy(logits.double(), targets, reduction="sum"))

    @property
    def accuracy(self) -> float:
        """Share of stimuli that are classified correctly."""
        return float(self.correct.sum() / self.count.sum())

    @property
    def class_accuracy(self) -> npt.NDArray[np.float64]:
        """Share of each class, (class_name,); NaN for a class without stimuli."""
        shares: npt.NDArray[np.float64] = np.full(len(self.count), np.nan)
        np.divide(self.correct, self.count, out=shares, where=self.count > 0)
        return shares

    @property
    def mean_loss(self) -> float:
        """Cross-entropy in nats, mean over stimuli."""
        return self.loss / int(self.count.sum())
