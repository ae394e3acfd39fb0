"""The change of every logit by every ablation, into the file of the result."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5netcdf
import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from unitprobe.ablation.checkpoint import Checkpoint
from unitprobe.ablation.targets import Targets
from unitprobe.errors import StorageError
from unitprobe.stimuli import Stimuli
from unitprobe.store import writing
from unitprobe.store.checksum_footer import write_footer
from unitprobe.store.files import put_in_place, reserve

_CHUNK_NUMBERS = 2**18  # 1 MB


class LogitChanges:
    """Ablated minus intact logits of every stimulus, target and output, as float32.

    They are kept in shards, a file for each batch and layer, in the folder of the checkpoint, and
    only one shard is ever in memory.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where the shards go.
    swept : sequence of Targets
        What is ablated.
    stimuli : int
        Number of stimuli.
    outputs : int
        Number of logits.

    Raises
    ------
    StorageError
        The disk has no space for the shards and the file.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        swept: Sequence[Targets],
        stimuli: int,
        outputs: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._swept = list(swept)
        self._number = {targets.layer.name: n for n, targets in enumerate(swept)}
        self._stimuli = stimuli
        self._outputs = outputs
        self._parts: list[Tensor] = []
        folder = checkpoint.folder
        there = sum(p.stat().st_size for p in folder.glob("logit-changes-*"))
        needed = 2 * self.size - there
        free = shutil.disk_usage(folder.parent).free
        if free < needed:
            raise StorageError(
                f"logit changes take {self.size / 1e9:.1f} GB, twice that while they are written, "
                f"and {folder.parent} has {free / 1e9:.1f} GB left; choose fewer layers, units or "
                "stimuli, or another disk"
            )

    @property
    def size(self) -> int:
        """Bytes of all changes."""
        return 4 * self._stimuli * self._outputs * sum(map(len, self._swept))

    def add(self, changes: Tensor) -> None:
        """Take the changes (target, stimulus, output) of the next targets of a layer."""
        self._parts.append(changes.float().cpu())

    def write(self, targets: Targets, numbers: Sequence[int]) -> None:
        """Write what was taken: all targets of a layer, on the stimuli `numbers`."""
        block = torch.cat(self._parts).transpose(0, 1).contiguous()
        self._parts.clear()
        self._checkpoint.write(self._name(targets, numbers[0]), block.numpy().tobytes())

    def read(self, targets: Targets, first: int) -> npt.NDArray[np.float32]:
        """Return the shard (stimulus, target, output) of a layer that begins at a stimulus."""
        numbers = np.frombuffer(self._checkpoint.read(self._name(targets, first)), np.float32)
        return numbers.reshape(-1, len(targets), self._outputs)

    def save(self, tree: xr.DataTree, stimuli: Stimuli, path: Path) -> None:
        """Save a result with the changes as ``logit_change`` of every layer, whole or not at all.

        The nodes of the tree are the layers that were swept, in order.
        """
        tree = tree.copy()
        tree.dataset = tree.to_dataset().assign_coords(
            stimulus=np.asarray(stimuli.ids, dtype=object),
            label=("stimulus", stimuli.labels),
            output=np.arange(self._outputs),
        )
        partial = self._checkpoint.folder / "merged.h5"
        with writing(path, "ablated"):
            reserve(partial, self.size + 2 * tree.nbytes + 2**20)
            tree.to_netcdf(partial, engine="h5netcdf")
            with h5netcdf.File(partial, "a") as file:
                for name, targets in zip(tree.children, self._swept, strict=True):
                    self._append(file[name], targets, str(tree[name]["loss_increase"].dims[0]))
            write_footer(partial)
            put_in_place(partial, path)

    def _append(self, group: h5netcdf.Group, targets: Targets, dim: str) -> None:
        block = self.read(targets, 0)
        rows = len(block)
        width = max(1, min(len(targets), _CHUNK_NUMBERS // (rows * self._outputs)))
        variable = group.create_variable(
            "logit_change",
            ("stimulus", dim, "output"),
            np.float32,
            chunks=(rows, width, self._outputs),
        )
        variable.attrs["long_name"] = "logit of the ablated minus that of the intact network"
        variable[:rows] = block
        first = rows
        while first < self._stimuli:  # a shard is a batch, and the engine chooses how large
            block = self.read(targets, first)
            variable[first : first + len(block)] = block
            first += len(block)

    def _name(self, targets: Targets, first: int) -> str:
        return f"logit-changes-{self._number[targets.layer.name]}-{first:09d}"
