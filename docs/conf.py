"""The site: what Sphinx makes of these pages and of the docstrings, for ``make docs``."""

from __future__ import annotations

from sphinx.application import Sphinx

import salmon_state

project = "salmon-state"
version = release = salmon_state.__version__
html_title = f"salmon-state {release}"
html_theme = "furo"
html_static_path: list[str] = []

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]

# Links to a headline, written as GitHub makes them.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# A word in single backticks in a docstring is a name of ours, if there is such a name.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def _keep_colons(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Begins what is said of an attribute with a line that shows nothing.

    Napoleon takes what stands before a colon in the first one for a type.
    """
    if what in ("attribute", "data"):
        lines.insert(0, "\\ ")


def setup(app: Sphinx) -> None:
    """Is called by Sphinx."""
    app.connect("autodoc-process-docstring", _keep_colons, priority=1)  # before Napoleon
