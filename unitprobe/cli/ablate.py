"""The commands that ablate every unit, or estimate what that would do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from unitprobe import ablation
from unitprobe.cli.from_signature import network_command


def _write(call: Callable[..., xr.DataTree], out: Path, overwrite: bool) -> xr.DataTree:
    return call(path=out, overwrite=overwrite)


def _describe(tree: xr.DataTree) -> list[str]:
    count = sum(node.sizes["unit"] for node in tree.children.values())
    verb = "attributed" if tree.attrs["method"] == "attribution" else "ablated"
    lines = [f"accuracy of the intact network: {float(tree['accuracy']):.3f}"]
    if "rank_correlation" in tree:
        low, high = (float(tree[f"rank_correlation_{end}"]) for end in ("low", "high"))
        lines.append(
            "rank correlation of attribution and ablation: "
            f"{float(tree['rank_correlation']):.2f} [{low:.2f}, {high:.2f}]"
        )
    return [*lines, f"{verb} {count} units of {len(tree.children)} layers"]


ablate_command = network_command(ablation.ablate, _write, _describe)
attribute_command = network_command(ablation.attribute, _write, _describe)
