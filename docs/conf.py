"""Sphinx settings. Build: sphinx-build -W docs docs/_build/html"""

import sys
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))

project = "fdforce"
author = "fdforce developers"
project_copyright = "2026, fdforce developers"
release = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = False

napoleon_google_docstring = False
autodoc_inherit_docstrings = False  # ASE's docstrings are not ours to format
autodoc_typehints = "none"  # numpydoc sections give types, shapes and units

html_theme = "alabaster"
html_theme_options = {"description": "Potentials trained to forces", "page_width": "64rem"}

# sphinx-build -t no_api leaves out the one page that has to import fdforce.
if tags.has("no_api"):  # noqa: F821  Sphinx puts tags into this file's namespace
    exclude_patterns.append("api.md")
    suppress_warnings = ["toc.excluded", "toc.not_readable"]
