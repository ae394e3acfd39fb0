"""Train one network with the selectivity regularizer, epoch by epoch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from recipes.selectivity_regularization.architectures import build_network
from recipes.selectivity_regularization.graphs import CapturedStep
from recipes.selectivity_regularization.images import Augmentation, Normalization, Splits, to_inputs
from recipes.selectivity_regularization.measuring import (
    Evaluation,
    LayerMeasures,
    as_tensors,
    measure_layer,
)
from recipes.selectivity_regularization.processes import Processes
from recipes.selectivity_regularization.results import describe_environment, make_result
from recipes.selectivity_regularization.runs import (
    finish,
    is_finished,
    load_checkpoint,
    locked,
    open_run,
    save_checkpoint,
)
from recipes.selectivity_regularization.settings import Settings, learning_rate_at
from unitprobe.errors import OptionError, ResponseError, UnitprobeWarning
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
    graphs: bool | None = None,
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
    graphs : bool, optional
        Whether each training step is replayed as one CUDA graph, which only a single process on a
        GPU can do; by default wherever it can. Where a step cannot be captured, a warning says why
        and the steps run one kernel at a time.
    report : callable
        Told of each epoch, in the first process.

    Raises
    ------
    ContentsMismatchError, StoreError
        The folder holds a run of other settings, something else, or a damaged checkpoint.
    StoreExistsError
        Another process trains this run.
    LayerNotFoundError
        The selection matches no layer.
    DivergedError
        The loss, or a response to a validation image, is no longer a finite number.
    OptionError
        The settings do not fit the images or the processes, or `graphs` is true without a GPU
        or with several processes.
    """
    for _ in train_in_steps(
        settings,
        splits,
        folder,
        device=device,
        processes=processes,
        compiled=compiled,
        graphs=graphs,
        report=report,
    ):
        pass


def train_in_steps(
    settings: Settings,
    splits: Splits,
    folder: Path,
    *,
    device: torch.device,
    processes: Processes = Processes(),  # noqa: B008 (it is frozen)
    compiled: bool = False,
    graphs: bool | None = None,
    report: Report = lambda epoch, row: None,
    executor: Executor | None = None,
) -> Iterator[None]:
    """Train as `train` does, and yield after every batch.

    One process so trains several networks in turns, each on a CUDA stream of its own: a small
    network leaves most of a GPU idle. Networks that draw random numbers while they run, as dropout
    does, then depend on what runs beside them; the data and the weights at the start do not.

    Parameters
    ----------
    settings, splits, folder, device, processes, compiled, graphs, report
        See `train`.
    executor : Executor, optional
        Where the layers are measured in the end, so that others go on meanwhile.
    """
    training = settings.training
    if training.batch_size > len(splits.train):
        raise OptionError(
            f"batch_size={training.batch_size} is more than the {len(splits.train)} training images"
        )
    can_capture = device.type == "cuda" and processes.count == 1
    if graphs and not can_capture:
        raise OptionError(
            f"graphs=True needs one process on a GPU, here are {processes.count} on {device.type}"
        )
    run = _Run(
        settings, splits, device, processes, compiled, can_capture if graphs is None else graphs
    )
    with locked(folder) if processes.is_first else nullcontext():
        if processes.is_first:
            open_run(folder, settings)
        processes.wait()
        if is_finished(folder):
            return
        curves = run.resume(load_checkpoint(folder))
        with run.regularizer, keeping_freed_memory():
            for epoch in range(len(curves), training.epochs):
                row = yield from run.epoch(epoch)
                curves.append(row)
                if processes.is_first:
                    save_checkpoint(folder, run.state(curves))
                    report(epoch + 1, curves[-1])
        if processes.is_first:
            environment = describe_environment(device, processes.count, compiled)
            if device.type == "cuda":
                environment |= {"precision": settings.precision, "graphs": run.graphs}
            class_accuracy, measures = yield from run.test(executor)
            result = make_result(
                settings, splits, run.layers, curves, class_accuracy, measures, environment
            )
            finish(folder, run.module.state_dict(), result)
        processes.wait()


def in_stream(steps: Iterator[None], device: torch.device) -> Iterator[None]:
    """Yield as often as `steps` does, whose work is put on a CUDA stream of its own."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    while True:
        with torch.cuda.stream(stream):
            try:
                next(steps)
            except StopIteration:
                return
        yield


class _Run:
    """A network in training, beside images that lie on its device as bytes."""

    def __init__(
        self,
        settings: Settings,
        splits: Splits,
        device: torch.device,
        processes: Processes,
        compiled: bool,
        graphs: bool,
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
        on_gpu = device.type == "cuda"
        # A rate that lies on the device may change between the replays of a graph.
        rate = torch.tensor(training.learning_rate, device=device)
        self._optimizer = torch.optim.SGD(
            self.module.parameters(),
            lr=rate if on_gpu else training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.nesterov,
            fused=True if on_gpu else None,
        )
        #: Whether steps are replayed as a CUDA graph, or why they are not.
        self.graphs: bool | str = graphs
        self._captured: CapturedStep | None = None
        self._captured_alpha = math.nan
        self._totals = torch.zeros(3, device=device)
        self._normalize = Normalization(settings.mean, settings.std, device)
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
        groups = self._optimizer.param_groups
        own = [{name: group[name] for name in ("lr", "fused")} for group in groups]
        self._optimizer.load_state_dict(state["optimizer"])
        # The run may have begun on another device.
        for group, kept in zip(self._optimizer.param_groups, own, strict=True):
            group.update(kept)
        curves: list[dict[str, Any]] = state["curves"]
        return curves

    def epoch(self, epoch: int) -> Generator[None, None, dict[str, Any]]:
        """Train for one epoch, yield after every batch, and return the epoch's row of the curves.

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
        self._totals.zero_()
        start = time.perf_counter()
        for batch in range(self._batches):
            step = epoch * self._batches + batch
            rate = learning_rate_at(training, step, training.epochs * self._batches)
            self._set_rate(rate)
            chosen = order[batch * training.batch_size : (batch + 1) * training.batch_size]
            self._step(chosen, generator)
            yield
        yield from self._until_device_is_done()
        means = self._processes.mean(self._totals) / self._batches
        loss, accuracy, selectivity = means.tolist()
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

    def test(
        self, executor: Executor | None
    ) -> Generator[None, None, tuple[npt.NDArray[np.float64], list[LayerMeasures]]]:
        """Return the accuracy on each class of the test images, and the measures of each layer.

        With an executor the layers are measured there, and this yields until they are.
        """
        images, labels = as_tensors(self._test, self._device)
        if executor is None:
            return self._evaluation.test(images, labels, self._class_count)
        accuracy, responses = self._evaluation.gather(images, labels, self._class_count)
        futures = [executor.submit(measure_layer, one, self._test.labels) for one in responses]
        while not all(future.done() for future in futures):
            yield
        return accuracy, [future.result() for future in futures]

    def _validate(self) -> dict[str, Any]:
        accuracy, selectivity = self._evaluation.selectivity(*self._validation, self._class_count)
        return {
            "validation_accuracy": accuracy,
            "validation_class_selectivity": selectivity.tolist(),
        }

    def _set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _until_device_is_done(self) -> Iterator[None]:
        """Yield until a GPU has done what it was given, so that others need not wait for it."""
        if self._device.type == "cuda":
            while not torch.cuda.current_stream(self._device).query():
                yield

    def _step(self, chosen: Tensor, generator: torch.Generator) -> None:
        # Every process draws for the whole batch, and takes its part: the images are those that
        # one process would see.
        images = self._augment(chosen, generator)[self._part]
        labels = self._labels[chosen[self._part]]
        if self.graphs is True and self.regularizer.alpha != self._captured_alpha:
            self._capture(images, labels)
        if self._captured is None:
            self._learn(images, labels)
        else:
            self._captured(images, labels)

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Capture the step at the present alpha, or remember why it cannot be captured."""
        self._captured = None
        self._captured_alpha = self.regularizer.alpha
        try:
            self._captured = CapturedStep(self._learn, self._changed_by_a_step, images, labels)
        except RuntimeError as error:
            self.graphs = f"no: {str(error).strip().splitlines()[0]}"
            warnings.warn(
                f"the training step is not captured as a CUDA graph: {error}; it runs one kernel "
                "at a time",
                UnitprobeWarning,
                stacklevel=2,
            )

    def _changed_by_a_step(self) -> list[Tensor]:
        state = self._optimizer.state
        momentum = [
            state[parameter]["momentum_buffer"]
            for parameter in self.module.parameters()
            if state.get(parameter, {}).get("momentum_buffer") is not None
        ]
        return [*self.module.parameters(), *self.module.buffers(), self._totals, *momentum]

    def _learn(self, images: Tensor, labels: Tensor) -> None:
        """Do one step on images (stimulus, y, x, channel), and add up what it tells."""
        with self._autocast():
            logits = self._forward(self._normalize(images))
        logits = logits.float()
        loss = cross_entropy(logits, labels)
        total = loss + self.regularizer(labels)
        self._optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        correct = (logits.detach().argmax(1) == labels).float().mean()
        assert self.regularizer.selectivity is not None
        self._totals += torch.stack([loss.detach(), correct, self.regularizer.selectivity.float()])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)


def _mix(seed: int, epoch: int) -> int:
    """Return one seed for a run's seed and an epoch, far from those of all others."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]) >> 1
