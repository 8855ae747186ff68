"""The documentation as a site: `make docs` builds it into build/site, warnings are errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Hermes Fleet"
author = "Hermes Fleet authors"
extensions = ["myst_parser"]
exclude_patterns = ["img"]
html_theme = "furo"
html_title = "Hermes Fleet"
html_copy_source = False
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nitpicky = True

OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)[^)]*\)")


def plain_links(_app: Sphinx, name: str, source: list[str]) -> None:
    """Links out of docs/ into the repository become plain paths: the site stands alone."""
    depth = name.count("/")

    def plain(found: re.Match[str]) -> str:
        text, ups, path = found[1], found[2].count("../"), found[3].rstrip("/")
        if ups <= depth:
            return found[0]
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    source[0] = OUTSIDE.sub(plain, source[0])


def setup(app: Sphinx) -> None:
    """Sphinx's entry."""
    app.connect("source-read", plain_links)
