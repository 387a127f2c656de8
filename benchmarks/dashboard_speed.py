"""Seconds that the dashboard of 2,000 runs takes to appear, to react, and to show a new row.

    python benchmarks/dashboard_speed.py [--write]

A person's actions on the page, in a real browser: each is repeated, and timed until the table and
until the last chart in view is drawn. "Work" is the processor time that the page's main thread
needs for the table and all charts in view, which a busy machine does not stretch. A new row is
timed from the folder's appearance.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import yaml
from comparing import machine, write_section
from playwright.sync_api import sync_playwright

RUNS, ROWS = 2_000, 100
CHARTS = {"the table": "words", "curves": "curves", "parallel coordinates": "parallel",
          "four slices": "slice-0"}  # fmt: skip
TYPE = """const field = document.querySelector('#filter'); field.value = '{}';
field.dispatchEvent(new Event('input'));"""
ACTIONS = {
    "filter": TYPE.format("num_layers=4"),
    "clear the filter": TYPE.format(""),
    "sort": "document.querySelector('#table th:nth-child(3) button').click()",
    "select a run": "document.querySelector('#table tbody input').click()",
}
TIMED = """async action => {
    const start = performance.now();
    new Function(action)();
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    const table = performance.now() - start;
    while ([...plots.values()].some(plot => plot.isVisible && plot.isStale)) {
        await new Promise(done => setTimeout(done));
    }
    return [table, performance.now() - start];
}"""


def write_run(folder: Path, number: int, dice: random.Random) -> None:
    """Write the folder of a run with ROWS rows."""
    rate, layers = 10 ** dice.uniform(-4, -1.5), dice.choice([2, 4, 6])
    end = 1.5 + 0.3 * (math.log10(rate) + 2.6) ** 2 + 0.02 * layers + dice.gauss(0, 0.01)
    rows = [
        {"step": 10 * n, "tokens": 40960 * n, "train_loss": loss - 0.1, "val_loss": loss,
         "perf/tokens_per_second": 10_000.0}
        for n in range(1, ROWS + 1)
        if (loss := end + (4.2 - end) * math.exp(-4 * n / ROWS))
    ]  # fmt: skip
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"learning_rate": rate, "num_layers": layers, "dropout": dice.uniform(0, 0.3),
                "weight_decay": dice.uniform(0, 0.2), "seed": 0}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    summary = {"status": "done", "step": 10 * ROWS, "total_steps": 10 * ROWS, "seconds": 60.0}
    (folder / "summary.json").write_text(json.dumps(summary))


def measure(root: Path, rounds: int) -> dict[str, list[float]]:
    """Return seconds by what was timed."""
    dice = random.Random(0)
    sweep = root / "sweep"
    sweep.mkdir()
    for number in range(RUNS):
        write_run(sweep / f"run-{number:04}", number, dice)
    words = [sys.executable, "-m", "fundamentallm", "dashboard", str(sweep), "--no-browser"]
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    seconds: dict[str, list[float]] = {"start of the command": [time.perf_counter() - started]}
    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            tab = chromium.new_page(viewport={"width": 1400, "height": 900})
            tab.goto(address)
            tab.wait_for_selector("#connection:text-is('live')")
            for _ in range(rounds):
                measure_page(tab, seconds)
            measure_rows(tab, root, sweep, rounds, seconds)
            chromium.close()
    finally:
        process.terminate()
        process.wait()
    return seconds


def work(tools: Any) -> float:
    """Return the processor seconds of the page's main thread so far."""
    metrics = tools.send("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def measure_page(tab: Any, seconds: dict[str, list[float]]) -> None:
    """Load the page, and do each action with each kind of chart in view."""
    tools = tab.context.new_cdp_session(tab)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    tab.reload()
    tab.wait_for_selector("#table tbody tr")
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    seconds.setdefault("first paint", []).append(tab.evaluate(paint) / 1000)
    ready = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    tab.wait_for_selector("#connection:text-is('live')")
    seconds.setdefault("the table is there, and all works", []).append(tab.evaluate(ready) / 1000)
    for place, chart in CHARTS.items():
        tab.locator(f"#{chart}").scroll_into_view_if_needed()
        tab.wait_for_timeout(1500)
        for name, action in ACTIONS.items():
            before = work(tools)
            table, charts = tab.evaluate(TIMED, action)
            seconds.setdefault(f"{name}: the table", []).append(table / 1000)
            if chart != "words" and name != "sort":
                seconds.setdefault(f"{name}: {place}", []).append(charts / 1000)
                seconds.setdefault(f"{name}: {place}, work", []).append(work(tools) - before)


def measure_rows(
    tab: Any, root: Path, sweep: Path, rounds: int, seconds: dict[str, list[float]]
) -> None:
    """Add runs, each of which the filter shows."""
    for number in range(RUNS, RUNS + 2 * rounds):
        name = f"run-{number:04}"
        tab.fill("#filter", name)
        write_run(root / "apart", number, random.Random(number))
        start = time.perf_counter()
        (root / "apart").rename(sweep / name)
        tab.wait_for_selector(f"[data-run={name}]")
        seconds.setdefault("a new run is shown", []).append(time.perf_counter() - start)


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--write", is_flag=True, help="Write the table to docs/dev/performance.md.")
def main(rounds: int, write: bool) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as name:
        seconds = measure(Path(name), rounds)
    rows = [f"{machine()}; {rounds} rounds.", "", "| | seconds |", "|---|---|"]
    for task, each in seconds.items():
        middle = statistics.median(each)
        rows.append(f"| {task} | {middle:.2f} ({min(each):.2f}-{max(each):.2f}) |")
    click.echo("\n".join(rows))
    if write:
        write_section("dashboard", "\n".join(rows))


if __name__ == "__main__":
    main()
