"""The floors of docs/architecture.md: a room imports only from floors below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "unitprobe"

# Ground first. Modules of one room may import one another; rooms of one floor may not.
FLOORS = [
    ["errors", "typing"],
    ["compiled", "memory"],
    ["means", "metrics", "models", "progress", "stimuli"],
    ["inference", "layers", "online"],
    ["batches", "responses", "store"],
    ["probe", "weights"],
    ["ablation", "analysis", "recording", "regularizer"],
    ["plots", "streaming"],
    ["report"],
    ["demo"],
    ["cli"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FACE = {"__init__", "__main__"}


def rooms_imported(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            module = (node.module or "").split(".")
            if module == ["unitprobe"]:
                yield from (alias.name for alias in node.names)
            elif module[0] == "unitprobe":
                yield module[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("unitprobe"), f"{path}: import {alias.name}"


def modules():
    return sorted(
        p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0][:-3] not in FACE
    )


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in FLOOR_OF, f"{room} stands on no floor; add it here and to docs/architecture.md"
    for imported in rooms_imported(path):
        if imported != room:
            assert FLOOR_OF[imported] < FLOOR_OF[room], f"{room} imports {imported}"


def test_the_page_on_the_architecture_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for floor in FLOORS:
        for room in floor:
            assert f"`{room}`" in page, room


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_holds_one_idea_in_four_hundred_lines(path):
    assert len(path.read_text().splitlines()) <= 420


def test_importing_loads_nothing_that_costs():
    code = (
        "import sys, torch, xarray; before = set(sys.modules); import unitprobe\n"
        "new = set(sys.modules) - before\n"
        "costly = 'timm torchvision matplotlib dask numba sklearn jinja2 typer'.split()\n"
        "costly += ['scipy.stats', 'scipy.optimize', 'torch._dynamo']\n"
        "print(sorted(new & set(costly)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
