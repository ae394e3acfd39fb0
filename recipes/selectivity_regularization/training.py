"""Train one network with the selectivity regularizer, epoch by epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from architectures import build_network
from images import Augmentation, Splits, to_inputs
from locks import STALE_SECONDS, locked
from measuring import Evaluation, LayerMeasures, as_tensors
from processes import Processes
from results import describe_environment, make_result
from runs import finish, is_finished, load_checkpoint, open_run, save_checkpoint
from settings import Settings, learning_rate_at
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from unitprobe.errors import OptionError, ResponseError
from unitprobe.memory import keeping_freed_memory
from unitprobe.regularizer import RegularizedMeasure, SelectivityRegularizer, alpha_schedule

#: Told of each epoch: its number, and its row of the curves.
Report = Callable[[int, dict[str, Any]], None]


class DivergedError(OptionError):
    """The loss, or a response, is no longer a finite number."""


def train(
    settings: Settings,
    splits: Splits,
    folder: Path,
    *,
    device: torch.device,
    processes: Processes = Processes(),  # noqa: B008 (it is frozen)
    compiled: bool = False,
    stale_seconds: float = STALE_SECONDS,
    report: Report = lambda epoch, row: None,
) -> None:
    """Train, or go on where a killed run stopped, and leave the results in `folder`.

    A run that is finished is left as it is. The same seed, machine and number of threads give the
    same weights on a CPU, whether or not the run was killed in between.

    Parameters
    ----------
    settings : Settings
    splits : Splits
        The images, from `images.load_splits`.
    folder : Path
        Of the run; made if it is not there.
    device : torch.device
        Where to train.
    processes : Processes
        This process among those that train the network together; each takes its part of every
        batch. Batch normalisation is over that part.
    compiled : bool
        Whether the network is compiled for training.
    stale_seconds : float
        See `locks.locked`.
    report : callable
        Told of each epoch, in the first process.

    Raises
    ------
    ContentsMismatchError, StoreError
        The folder holds a run of other settings, something else, or a damaged checkpoint.
    LockedError
        Another process trains this run.
    LayerNotFoundError
        The selection matches no layer.
    DivergedError
        The loss, or a response to a validation image, is no longer a finite number.
    OptionError
        The settings do not fit the images or the processes.
    """
    training = settings.training
    if training.batch_size > len(splits.train):
        raise OptionError(
            f"batch_size={training.batch_size} is more than the {len(splits.train)} training images"
        )
    run = _Run(settings, splits, device, processes, compiled)
    holding = locked(folder, stale_seconds) if processes.is_first else nullcontext()
    with holding as lock:
        if processes.is_first:
            open_run(folder, settings)
        processes.wait()
        if is_finished(folder):
            return
        curves = run.resume(load_checkpoint(folder))
        with run.regularizer, keeping_freed_memory():
            for epoch in range(len(curves), training.epochs):
                curves.append(run.epoch(epoch))
                if lock is not None:
                    lock.refresh()
                    save_checkpoint(folder, run.state(curves))
                    report(epoch + 1, curves[-1])
        if lock is not None:
            environment = describe_environment(device, processes.count, compiled)
            class_accuracy, measures = run.test()
            result = make_result(
                settings, splits, run.layers, curves, class_accuracy, measures, environment
            )
            lock.refresh()
            finish(folder, run.module.state_dict(), result)
        processes.wait()


class _Run:
    """A network in training, beside images that lie on its device as bytes."""

    def __init__(
        self,
        settings: Settings,
        splits: Splits,
        device: torch.device,
        processes: Processes,
        compiled: bool,
    ) -> None:
        training = settings.training
        self.module = build_network(
            settings.model, len(splits.class_names), splits.image_size, settings.seed
        )
        self.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._evaluation = Evaluation(
            self.module, settings.layers, settings.mean, settings.std, splits.image_size
        )
        self.layers = self._evaluation.layers
        self._alpha = alpha_schedule(settings.alpha)
        self._validation = as_tensors(splits.validation, device)
        self.regularizer = SelectivityRegularizer(
            self.module,
            layers=settings.layers,
            measure=cast(RegularizedMeasure, settings.measure),
            class_count=len(splits.class_names),
            example=to_inputs(self._validation[0][:2], settings.mean, settings.std),
        )
        self._optimizer = torch.optim.SGD(
            self.module.parameters(),
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.nesterov,
        )
        self._settings = settings
        self._test = splits.test
        self._class_count = len(splits.class_names)
        self._device = device
        self._processes = processes
        self._part = processes.part(training.batch_size)
        wrapped = self.module if processes.count == 1 else DistributedDataParallel(self.module)
        self._forward: Any = torch.compile(wrapped) if compiled else wrapped
        images, self._labels = as_tensors(splits.train, device)
        self._augment = Augmentation(images, training.padding, training.flip)
        self._batches = len(self._labels) // training.batch_size

    def state(self, curves: list[dict[str, Any]]) -> dict[str, Any]:
        """Return all that the next epoch depends on, beside the settings."""
        return {
            "epoch": len(curves),
            "curves": curves,
            "module": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def resume(self, state: dict[str, Any] | None) -> list[dict[str, Any]]:
        """Take up a state, if there is one, and return the curves so far."""
        if state is None:
            return []
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        curves: list[dict[str, Any]] = state["curves"]
        return curves

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Train for one epoch; return its row of the curves.

        All random choices come from the run's seed and the epoch, so that an epoch is the same
        after a kill. Images beyond the last whole batch wait for another epoch: the noise of the
        selectivity depends on the size of the batch.
        """
        training = self._settings.training
        seed = _mix(self._settings.seed, epoch)
        torch.manual_seed(seed + self._processes.rank)  # for dropout
        generator = torch.Generator(self._device).manual_seed(seed)
        order = torch.randperm(len(self._labels), generator=generator, device=self._device)
        self.module.train()
        self.regularizer.alpha = alpha = self._alpha(epoch)
        totals = torch.zeros(3, device=self._device)
        start = time.perf_counter()
        for batch in range(self._batches):
            step = epoch * self._batches + batch
            rate = learning_rate_at(training, step, training.epochs * self._batches)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            chosen = order[batch * training.batch_size : (batch + 1) * training.batch_size]
            totals += self._step(chosen, generator)
        loss, accuracy, selectivity = (self._processes.mean(totals) / self._batches).tolist()
        seconds = time.perf_counter() - start
        if not math.isfinite(loss) or not math.isfinite(selectivity):
            raise DivergedError(
                f"training diverged in epoch {epoch + 1} at alpha={alpha:g} and learning rate "
                f"{rate:.3g}: the loss is {loss}; lower --learning-rate or the size of --alpha"
            )
        row = {
            "train_loss": loss,
            "train_accuracy": accuracy,
            "train_selectivity": selectivity,
            "learning_rate": rate,
            "alpha": alpha,
            "seconds": seconds,
            "images_per_second": self._batches * training.batch_size / seconds,
        }
        if not self._processes.is_first:
            return row
        try:
            return row | self._validate()
        except ResponseError as error:
            raise DivergedError(
                f"training diverged in epoch {epoch + 1} at alpha={alpha:g} and learning rate "
                f"{rate:.3g}: {error}; lower --learning-rate or the size of --alpha"
            ) from error

    def test(self) -> tuple[npt.NDArray[np.float64], list[LayerMeasures]]:
        """Return the accuracy on each class of the test images, and the measures of each layer."""
        return self._evaluation.test(*as_tensors(self._test, self._device), self._class_count)

    def _validate(self) -> dict[str, Any]:
        accuracy, selectivity = self._evaluation.selectivity(*self._validation, self._class_count)
        return {
            "validation_accuracy": accuracy,
            "validation_class_selectivity": selectivity.tolist(),
        }

    def _step(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        # Every process draws for the whole batch, and takes its part: the images are those that
        # one process would see.
        images = self._augment(chosen, generator)[self._part]
        labels = self._labels[chosen[self._part]]
        with self._autocast():
            logits = self._forward(to_inputs(images, self._settings.mean, self._settings.std))
        logits = logits.float()
        loss = cross_entropy(logits, labels)
        total = loss + self.regularizer(labels)
        self._optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        correct = (logits.detach().argmax(1) == labels).float().mean()
        assert self.regularizer.selectivity is not None
        return torch.stack([loss.detach(), correct, self.regularizer.selectivity.float()])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)


def _mix(seed: int, epoch: int) -> int:
    """Return one seed for a run's seed and an epoch, far from those of all others."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
