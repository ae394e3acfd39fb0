"""The structure of the package: dependency layers, names of modules, what an import loads."""

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "unitprobe"

# The dependency layers of docs/architecture.md, lowest first. A package (or a single module) here
# imports only from lower layers. Its own modules may import one another.
DEPENDENCY_LAYERS = [
    ["errors", "typing"],
    ["compiled", "options"],
    ["memory"],
    ["means", "metrics", "models", "progress", "stimuli"],
    ["inference", "layers", "online"],
    ["batches", "responses", "store"],
    ["probe"],
    ["ablation", "analysis", "recording", "regularizer"],
    ["plots", "protocols"],
    ["report"],
    ["demo"],
    ["cli"],
]
LAYER_OF = {name: index for index, names in enumerate(DEPENDENCY_LAYERS) for name in names}


def packages():
    """Return the packages and single modules directly under `unitprobe`."""
    found = [
        path
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    return sorted(path.stem for path in found if not path.stem.startswith("__"))


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if package_of(path) not in FACE)


FACE = {"__init__", "__main__"}


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def packages_imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            module = (node.module or "").split(".")
            if module == ["unitprobe"]:
                yield from (a.name for a in node.names if a.name != "__version__")
            elif module[0] == "unitprobe":
                yield module[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] != "unitprobe", f"{path}: import {alias.name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_package_imports_only_from_lower_layers(path):
    package = package_of(path)
    for imported in packages_imported(path):
        if imported != package:
            assert LAYER_OF[imported] < LAYER_OF[package], f"{package} imports {imported}"


@pytest.mark.parametrize("package", packages())
def test_every_package_has_a_layer_and_is_described(package):
    assert package in LAYER_OF, f"add {package} to DEPENDENCY_LAYERS and to docs/architecture.md"
    assert f"`{package}`" in (ROOT / "docs" / "architecture.md").read_text()


def test_no_two_modules_have_one_name():
    paths = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        name = path.parent.name if path.stem == "__init__" else path.stem
        paths[name].append(str(path.relative_to(PACKAGE)))
    repeated = {name: where for name, where in paths.items() if len(where) > 1}
    assert repeated == {}


def public_packages():
    found = (path.parent.relative_to(ROOT).parts for path in PACKAGE.rglob("__init__.py"))
    return sorted(".".join(parts) for parts in found)


@pytest.mark.parametrize("name", public_packages())
def test_no_function_or_class_has_the_name_of_a_module_beside_it(name):
    # `import unitprobe.a.b` would give the function where the module is meant, or the reverse.
    package = importlib.import_module(name)
    folder = Path(package.__file__).parent
    beside = {p.stem for p in folder.iterdir() if p.suffix == ".py" or p.is_dir()}
    public = beside & {key for key in vars(package) if not key.startswith("_")}
    hidden = {key for key in public if not isinstance(getattr(package, key), ModuleType)}
    assert hidden == set()


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
