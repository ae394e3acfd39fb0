"""The errors and the warning of unitprobe.

Every error is a `UnitprobeError` and also a builtin exception such as `ValueError`, so that callers
who do not know unitprobe can catch it. Each message is one line. It says what is wrong, where, and
what would be right, and it shows the user's own values. The command line prints this line and exits
with `exit_code`: 2 if the user can correct the call or the data, 1 if the environment failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnitprobeError(Exception):
    """Base class of the errors that unitprobe raises."""

    exit_code = 2

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return str(self.args[0]) if self.args else type(self).__name__


class UnitprobeWarning(UserWarning):
    """Something to know before trusting a result."""


class ModelError(UnitprobeError, ValueError):
    """The network cannot be found, built or run."""


class WeightsError(ModelError):
    """The file does not hold weights, or they do not fit the network."""


class DownloadError(UnitprobeError, OSError):
    """The weights could not be downloaded."""

    exit_code = 1


class StimuliError(UnitprobeError, ValueError):
    """The stimuli cannot be found, read or used."""


class ImageError(StimuliError, OSError):
    """An image cannot be decoded."""


class LabelError(UnitprobeError, ValueError):
    """The labels are missing, too few, or do not fit the classes."""


class LayerError(UnitprobeError, ValueError):
    """The layer cannot be used in this way."""


class LayerNotFoundError(LayerError, KeyError):
    """The selection matches no layer."""


class ResponseError(UnitprobeError, ValueError):
    """The responses are invalid for a statistic: NaN, infinite, negative, or of the wrong shape."""


class OptionError(UnitprobeError, ValueError):
    """The value of an argument is invalid, or the argument has no effect here."""


class StoreError(UnitprobeError, ValueError):
    """The file was not written by unitprobe, is damaged, or lacks what is requested."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """The file does not exist."""


class StoreExistsError(StoreError, FileExistsError):
    """The output path exists already."""


class ContentsMismatchError(StoreError):
    """An unfinished recording with other contents exists at the same path."""


class StorageError(UnitprobeError, OSError):
    """The disk is full or cannot be written to."""

    exit_code = 1


class ProcessError(UnitprobeError, RuntimeError):
    """Another process of the same run failed."""

    exit_code = 1


def nearest(word: str, known: Iterable[str], count: int = 5) -> list[str]:
    """Return the known words that are most similar to `word`, best first, for an error message.

    Examples
    --------
    >>> nearest("layer1.0.rellu", ["conv1", "layer1.0.relu", "layer2.0.relu"], count=1)
    ['layer1.0.relu']
    """
    names = list(dict.fromkeys(known))
    return difflib.get_close_matches(word, names, n=count, cutoff=0.3) or names[:count]
