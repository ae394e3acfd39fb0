"""The commands of the ablation protocols, one for each record of the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
import xarray as xr

from unitprobe.ablation.checkpoint import keeping
from unitprobe.cli.from_signature import network_command
from unitprobe.protocols import PROTOCOLS, Protocol, summarize_protocol
from unitprobe.store import save_tree

_RESUME = inspect.Parameter(
    "resume",
    inspect.Parameter.KEYWORD_ONLY,
    default=True,
    annotation=Annotated[
        bool, typer.Option("--resume/--no-resume", help="Resume an unfinished run, or start again.")
    ],
)


def _write(
    call: Callable[..., xr.DataTree], out: Path, overwrite: bool, resume: bool
) -> xr.DataTree:
    with keeping(out, resume=resume) as folder:
        tree = call(keep=folder)
        save_tree(tree, out, overwrite=overwrite)
    return tree


def _describe(tree: xr.DataTree) -> list[str]:
    lines = [summarize_protocol(tree).to_string(index=False, float_format="%.3f")]
    if "checkpoint" not in tree.dims:
        lines.append(f"accuracy of the intact network: {float(tree['accuracy']):.3f}")
    return [*lines, f"ran protocol {tree.attrs['protocol']} on {len(tree.children)} layers"]


def protocol_command(protocol: Protocol) -> Callable[..., None]:
    """Return the command of one protocol."""
    summary = inspect.getdoc(protocol.run) or ""
    return network_command(
        protocol.run,
        _write,
        _describe,
        extra=[_RESUME],
        summary=f"{protocol.question} {summary.partition(chr(10))[0]}",
    )


def protocol_group() -> typer.Typer:
    """Return the group of commands, one for each protocol."""
    group = typer.Typer(
        help="Run a published ablation protocol.", no_args_is_help=True, rich_markup_mode=None
    )
    for name, protocol in PROTOCOLS.items():
        group.command(name, short_help=protocol.question)(protocol_command(protocol))
    return group
