"""Write the output that README.md shows: `explain`'s words, the picture and a model's text.

    python docs/readme_run.py

Runs the commands of the README in a new folder and puts their output between its markers, so that
text and picture come from the same runs. Needs Chromium; takes about five minutes on two cores.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/charts/quickstart.png"
CHARTS = ["curves", "slice-0", "importance"]
SECTIONS = ("The best", "What mattered")
GENERATE = ("runs/built-in-1", "--prompt", "The statement ", "--temperature", "0.6")

KEEP_CHARTS = """charts => {
    const sections = charts.map(id => document.getElementById(id).closest("section"));
    sections.forEach(section => section.querySelector("p").remove());
    const plots = document.querySelector(".plots");
    plots.replaceChildren(...sections);
}"""


def main() -> None:
    """Run the commands and write their output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "sweeps", folder / "sweeps")
        shutil.copy2(ROOT / "train.py", folder)
        run(folder, "sweep", "sweeps/quickstart.yaml")
        explained = run(folder, "explain", "runs/quickstart")
        take_picture(folder / "runs/quickstart/report.html")
        run(folder, "train", "--preset", "fast", "--no-wandb")
        sample = run(folder, "generate", *GENERATE)
    replace_block("explain", pick_sections(explained))
    replace_block("sample", "\n".join(sample.splitlines()[:7]).rstrip())


def run(folder: Path, *arguments: str) -> str:
    """Return the output of `fundamentallm ARGUMENTS`, run in `folder`."""
    command = [sys.executable, "-m", "fundamentallm", *arguments]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def pick_sections(explained: str) -> str:
    """Return the sections of `explain` that the README shows: a heading and its indented lines."""
    sections = re.findall(r"^(\S.*)\n((?:  .*\n?)+)", explained, flags=re.M)
    return "\n".join(f"{head}\n{body.rstrip()}" for head, body in sections if head in SECTIONS)


def take_picture(page: Path) -> None:
    """Take a picture of some of a report's charts, the wide one first, without captions."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = chromium.new_page(viewport={"width": 1200, "height": 900}, device_scale_factor=1.5)
        tab.goto(page.as_uri())
        for chart in CHARTS:  # a chart is drawn when it comes into view
            tab.locator(f"#{chart}").scroll_into_view_if_needed()
            tab.wait_for_selector(f"#{chart} .main-svg")
        tab.evaluate(KEEP_CHARTS, CHARTS)
        tab.locator(".plots").screenshot(path=PICTURE)
        chromium.close()


def replace_block(marker: str, text: str) -> None:
    """Replace the block of text after a marker in the README."""
    page = ROOT / "README.md"
    folded = "\n".join(
        textwrap.fill(line, 90, subsequent_indent=" " * (len(line) - len(line.lstrip())))
        for line in text.splitlines()
    )
    block = f"<!-- {marker}: python docs/readme_run.py -->\n\n```text\n{folded}\n```\n"
    old = re.compile(rf"<!-- {marker}: .*? -->\n\n```text\n.*?^```\n", flags=re.S | re.M)
    new, count = old.subn(lambda _: block, page.read_text("utf-8"))
    assert count == 1, f"README.md has {count} markers called {marker}"
    page.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
