"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import unitprobe

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(unitprobe.__path__, "unitprobe.")
    if module.name != "unitprobe.__main__"
)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0


def test_the_public_face_has_examples():
    public = [getattr(unitprobe, name) for name in unitprobe.__all__]
    functions = [thing for thing in public if callable(thing) and thing.__doc__]
    finder = doctest.DocTestFinder(recurse=False)
    without = [f.__name__ for f in functions if not any(t.examples for t in finder.find(f))]
    assert without == []
