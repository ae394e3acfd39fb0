"""The documentation: ``python -m pip install ".[docs]" && sphinx-build -W docs docs/_build``."""

project = "unitprobe"
author = "the unitprobe developers"
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
exclude_patterns = ["_build"]
html_theme = "furo"
