"""What `import unitprobe` gives: names that load where they are first used."""

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import unitprobe as up
from unitprobe.errors import OptionError

ROOT = Path(__file__).parent.parent


def new_modules(code):
    """Return the modules that some code loads beyond torch and xarray, in a new interpreter."""
    before = "import sys, torch, xarray; before = set(sys.modules)\n"
    after = "\nprint(*sorted(set(sys.modules) - before))"
    command = [sys.executable, "-c", f"{before}{code}{after}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_importing_loads_no_submodule():
    ours = [name for name in new_modules("import unitprobe") if name.startswith("unitprobe")]
    assert ours == ["unitprobe"]


def test_a_name_loads_what_it_needs_and_no_more():
    loaded = new_modules("import unitprobe as up; up.load_model")
    assert "unitprobe.models" in loaded
    assert "unitprobe.ablation" not in loaded


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "unitprobe/__init__.py"
    assert up.__version__.count(".") == 2


@pytest.mark.parametrize(
    "verb",
    ["record", "analyze", "ablate", "attribute", "compare", "status", "write_report"],
)
def test_every_command_has_a_function(verb):
    assert inspect.isfunction(getattr(up, verb))
    assert verb in dir(up)


def test_protocols_are_at_the_top():
    assert "zhou" in up.protocols.PROTOCOLS


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'recrod'"):
        _ = up.recrod


def test_type_checkers_see_the_names_that_the_interpreter_sees():
    tree = ast.parse(Path(up.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: f"{node.module}.{alias.name}".removeprefix("unitprobe.")
        for node in block.body
        for alias in node.names
    }
    modules = {name for name, where in seen.items() if name == where}
    assert {name: where for name, where in seen.items() if name not in modules} == up._WHERE
    assert sorted({*seen, "__version__"}) == sorted(up.__all__)


def test_a_report_refuses_what_it_cannot_show(tmp_path):
    with pytest.raises(OptionError, match="stimuli= is not shown in a report yet"):
        up.write_report("analysis.h5", tmp_path / "r", stimuli=object())
    with pytest.raises(OptionError, match="model= is not shown in a report yet"):
        up.write_report("analysis.h5", tmp_path / "r", model=object())
