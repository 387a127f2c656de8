"""The site builds without warnings, works offline, and can be searched from disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build every page; a broken link is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", folder],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_the_index_links_every_page(site: Path) -> None:
    index = (site / "index.html").read_text("utf-8")
    for page in (*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), *ROOT.glob("sweeps/*.md")):
        path = page.relative_to(ROOT).with_suffix(".html")
        assert (site / path).exists(), path
        assert page.name == "README.md" or f'href="{path.as_posix()}"' in index, path


@pytest.mark.parametrize("width", [1300, 420])
def test_pages_load_nothing_remote_and_fit_the_width(site: Path, browser: Any, width: int) -> None:
    tab = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    requested: list[str] = []
    tab.on("request", lambda request: requested.append(request.url))
    for page in ("index.html", "docs/hyperparameters.html", "docs/performance.html"):
        tab.goto((site / page).as_uri())
        page_width = tab.evaluate("document.documentElement.scrollWidth")
        assert page_width <= width, f"{page} scrolls sideways: {page_width}"
    assert requested
    assert all(url.startswith(("file:", "data:")) for url in requested), requested


def test_search_finds_a_page(site: Path, browser: Any) -> None:
    tab = browser.new_context().new_page()
    tab.goto((site / "search.html").as_uri() + "?q=hyperband")
    tab.get_by_role("main").get_by_text("Sweeps on your own machines").wait_for()
