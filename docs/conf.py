"""Configure the site, which `sphinx-build -c docs . site` builds from the same Markdown.

Reading a page fetches nothing: theme, fonts and search are files of the site.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx

project = "fundamentallm"
author = "the authors of fundamentallm"
html_title = project
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/dev/*.md", "sweeps/*.md", "benchmarks/*.md"]
myst_heading_anchors = 3
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

NAVIGATION = {
    "Start": "getting-started tune training data hyperparameters troubleshooting coming-from",
    "Sweeps": "your-program /sweeps/README sweeps sweep-file wandb cluster search results"
    " dashboard",
    "Models": "writing python export metrics performance",
    "Reference": "commands reliability",
    "For maintainers": "dev/how-it-works dev/decisions dev/experiments dev/performance"
    " dev/search dev/explain dev/scaling dev/the-guide /benchmarks/README",
    "Project": "/CONTRIBUTING /CHANGELOG /SECURITY",
}


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the table of contents, which would be noise where README.md is read as it is."""
    if name != root_doc:
        return
    for caption, pages in NAVIGATION.items():
        paths = [page if page.startswith("/") else f"/docs/{page}" for page in pages.split()]
        lines = ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *paths, "```", ""]
        source[0] += "\n".join(lines)


def add_index(app: Sphinx, error: Exception | None) -> None:
    """Copy the first page to index.html, which a server looks for."""
    if error is None and app.builder.name == "html":
        page = Path(app.outdir) / f"{root_doc}.html"
        shutil.copyfile(page, page.with_name("index.html"))


def setup(app: Sphinx) -> None:
    """Connect the handlers; Sphinx calls this."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_index)
