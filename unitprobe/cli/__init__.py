"""The command line: parse, call, print."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from unitprobe.cli.commands import app
from unitprobe.errors import UnitprobeError, UnitprobeWarning

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line. A user's mistake is one line and exit code 2, never a traceback."""
    warnings.showwarning = _show_warning
    try:
        sys.exit(app(standalone_mode=False))
    except UnitprobeError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        # Typer's own errors about the words of the command line; it hides their class.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        typer.echo(_usage(describe()), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo(_interrupted(sys.argv[1:]), err=True)
        sys.exit(130)


#: Commands that continue where they stopped, given the same words again.
_RESUMED = ("record", "ablate", "protocol")


def _interrupted(words: Sequence[str]) -> str:
    """Return what to say of a command that was interrupted."""
    command = words[0] if words else "unitprobe"
    if command in _RESUMED:
        return f"{command} was interrupted; the same command continues where it stopped"
    return f"{command} was interrupted; run it again"


def _usage(message: str) -> str:
    """Return what typer says as one line, or the help as it is."""
    if message.startswith("Usage:"):
        return message
    return f"error: {' '.join(message.split()).rstrip('.')}; see unitprobe --help"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UnitprobeWarning):
        typer.echo(f"warning: {message}", err=True)
