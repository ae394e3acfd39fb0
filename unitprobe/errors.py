"""One family of errors.

Every error is a `UnitprobeError` and also the builtin that a caller who knows nothing of unitprobe
would catch. Each message is one line that says what is wrong, where, and what would be right, in
the user's own values. The command line prints that line and exits with `exit_code`: 2 for a
mistake that the user can mend in the call or the data, 1 for a failure of the environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnitprobeError(Exception):
    """Base of every error that unitprobe raises on purpose."""

    exit_code = 2

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return str(self.args[0]) if self.args else type(self).__name__


class UnitprobeWarning(UserWarning):
    """Something a scientist should know before trusting a number."""


class ModelError(UnitprobeError, ValueError):
    """A network that cannot be found, built or run as asked."""


class WeightsError(ModelError):
    """A weights file that does not fit the network, or is none."""


class DownloadError(UnitprobeError, OSError):
    """Weights that would have to be downloaded and could not be."""

    exit_code = 1


class StimuliError(UnitprobeError, ValueError):
    """Stimuli that cannot be found, read or used as asked."""


class ImageError(StimuliError, OSError):
    """One image that cannot be decoded."""


class LabelError(UnitprobeError, ValueError):
    """Labels that are missing, too few or do not fit the classes."""


class LayerError(UnitprobeError, ValueError):
    """A layer that cannot be used as asked."""


class LayerNotFoundError(LayerError, KeyError):
    """A selection that matches no layer."""


class ResponseError(UnitprobeError, ValueError):
    """Responses that no statistic can be computed from: NaN, infinite, of another sign or shape."""


class OptionError(UnitprobeError, ValueError):
    """An argument outside what the function takes."""


class StoreError(UnitprobeError, ValueError):
    """A file that is not a unitprobe file, is damaged, or does not hold what is asked for."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """A file that is not there."""


class StoreExistsError(StoreError, FileExistsError):
    """An output path that exists already."""


class ContentsMismatchError(StoreError):
    """An unfinished recording of something else stands at the same path."""


class StorageError(UnitprobeError, OSError):
    """The disk is full or cannot be written."""

    exit_code = 1


class ProcessError(UnitprobeError, RuntimeError):
    """Another process of the same run has failed."""

    exit_code = 1


def nearest(word: str, known: Iterable[str], count: int = 5) -> list[str]:
    """Return the known words most like `word`, best first, for an error message.

    Examples
    --------
    >>> nearest("layer1.0.rellu", ["conv1", "layer1.0.relu", "layer2.0.relu"], count=1)
    ['layer1.0.relu']
    """
    names = list(dict.fromkeys(known))
    return difflib.get_close_matches(word, names, n=count, cutoff=0.3) or names[:count]
