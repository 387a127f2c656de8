"""The dashboard in a browser, as a person uses it while a sweep runs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from results_on_disk import write_run, write_sweep
from running_dashboard import RunningDashboard, running
from tiny_sweep import FLAGS, grid, trials

pytestmark = pytest.mark.slow
RATES = [0.0001 * 2**n for n in range(8)]
SWEEP = """\
program: train.py
method: random
run_cap: 40
metric: {name: val_loss, goal: minimize}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.02}
  num_layers: {values: [2, 4]}
"""


class Sweep:
    """A sweep's folder in which runs appear whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_sweep(folder, {}, SWEEP)
        self.apart = folder.with_name("apart")

    def add(self, number: int, *, loss: float | None = None, **options: Any) -> Path:
        """Add run `number`."""
        settings = {"learning_rate": RATES[number % 8], "num_layers": 2 + 2 * (number % 2)}
        end = 1.5 + 0.1 * abs(number % 8 - 4) + 0.001 * number if loss is None else loss
        losses = [4 - (4 - end) * i / 8 for i in range(1, 9)]
        write_run(self.apart, settings | options.pop("settings", {}), losses, **options)
        return self.apart.rename(self.folder / f"run-{number:04}")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep with 16 runs."""
    made = Sweep(tmp_path / "s")
    for number in range(1, 17):
        made.add(number)
    return made


@pytest.fixture
def dashboard(sweep: Sweep) -> Iterator[RunningDashboard]:
    """A dashboard of the sweep."""
    with running(sweep.folder) as started:
        yield started


@pytest.fixture
def tab(browser: Any, dashboard: RunningDashboard) -> Iterator[Any]:
    """The page; no script fails on it, and it asks no other server."""
    with OpenedPage(browser, dashboard, viewport={"width": 1400, "height": 900}) as page:
        yield page


class OpenedPage:
    """Context of a page that the printed address leads to."""

    def __init__(self, browser: Any, dashboard: RunningDashboard, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.dashboard = dashboard
        self.wrong: list[str] = []

    def __enter__(self) -> Any:
        page = self.context.new_page()
        own = f"http://{self.dashboard.host}/"
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((own, "blob:")) else self.wrong.append(request.url)
            ),
        )
        page.goto(self.dashboard.address)
        page.wait_for_url(own)
        page.wait_for_selector("#connection:text-is('live')")
        return page

    def __exit__(self, *exception: object) -> None:
        self.context.close()
        assert self.wrong == []


def names(tab: Any) -> list[str]:
    """Return the runs in the table, from top to bottom."""
    return tab.eval_on_selector_all("#table [data-run]", "rows => rows.map(r => r.dataset.run)")


def draw(tab: Any, chart: str) -> None:
    """Scroll to a chart and wait until it is drawn."""
    tab.locator(f"#{chart}").scroll_into_view_if_needed()
    tab.wait_for_selector(f"#{chart} .main-svg")


def traces(tab: Any, chart: str) -> list[dict[str, Any]]:
    """Return the traces that a chart has now."""
    return json.loads(tab.evaluate(f"JSON.stringify(document.getElementById('{chart}').data)"))


def until(tab: Any, expression: str, argument: Any = None) -> None:
    """Wait until an expression holds; the page's policy allows no `wait_for_function`."""
    for _ in range(600):
        if tab.evaluate(expression, argument):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}")


def place(tab: Any, chart: str, x: float, y: float) -> tuple[float, float]:
    """Return where on the screen a value of a chart is."""
    return tuple(
        tab.evaluate(
            """([id, x, y]) => {
                const plot = document.getElementById(id), box = plot.getBoundingClientRect();
                const { xaxis, yaxis } = plot._fullLayout;
                const left = box.left + xaxis._offset, top = box.top + yaxis._offset;
                return [left + xaxis.d2p(x), top + yaxis.d2p(y)];
            }""",
            [chart, x, y],
        )
    )


def drag(tab: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag the mouse."""
    tab.mouse.move(*start)
    tab.mouse.down()
    tab.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=3)
    tab.mouse.move(*end, steps=3)
    tab.mouse.up()


def test_rows_arrive_and_nothing_that_the_user_set_is_lost(tab: Any, sweep: Sweep) -> None:
    draw(tab, "curves")
    drag(tab, place(tab, "curves", 20, 3.0), place(tab, "curves", 60, 2.0))
    until(tab, "document.getElementById('curves')._fullLayout.xaxis.range[0] > 15")
    zoom = tab.evaluate("document.getElementById('curves')._fullLayout.xaxis.range.join()")
    tab.fill("#filter", "num_layers=4")
    tab.click("#table th[data-id='seconds'] button")
    tab.click("#table th[data-id='score'] button")
    tab.click("#table th[data-id='score'] button")
    tab.check("[data-run=run-0003] input")
    tab.click("#columns summary")
    before = names(tab)
    assert tab.inner_text("#count") == "8 of 16 runs, 1 selected"
    tab.evaluate("document.querySelector('#filter').setSelectionRange(3, 5)")
    tab.focus("#filter")
    tab.evaluate("scrollTo(0, 300)")
    sweep.add(17, loss=1.2)
    sweep.add(18, loss=1.3)
    tab.wait_for_selector("[data-run=run-0017]")
    tab.wait_for_selector("#words :text('1.2000')")  # the words follow
    assert tab.evaluate("scrollY") == 300
    assert names(tab) == [*before, "run-0017"]  # the worst first, as the user sorted
    assert tab.input_value("#filter") == "num_layers=4"
    assert tab.inner_text("#count") == "9 of 18 runs, 1 selected"
    assert tab.get_attribute("#table th[data-id='score']", "aria-sort") == "descending"
    assert tab.is_checked("[data-run=run-0003] input")
    assert tab.get_attribute("#columns", "open") is not None
    assert tab.evaluate("document.activeElement.id") == "filter"
    drawn = "document.getElementById('curves')._fullLayout.xaxis.range.join()"
    assert tab.evaluate(drawn) == zoom
    assert "18 done" in tab.inner_text("#summary")


def test_a_run_in_progress_grows(tab: Any, sweep: Sweep) -> None:
    folder = sweep.add(17)
    (folder / "summary.json").write_text(json.dumps({"status": "running", "total_steps": 200}))
    tab.wait_for_selector("[data-run=run-0017].unfinished")
    tab.fill("#filter", "run-0017")
    draw(tab, "curves")
    until(tab, "document.getElementById('curves').data[0].x.length === 8")
    with (folder / "metrics.jsonl").open("a") as rows:
        rows.write(json.dumps({"step": 90, "val_loss": 1.1, "train_loss": 1.0}) + "\n")
    until(tab, "document.getElementById('curves').data[0].x.length === 9")
    tab.wait_for_selector("[data-run=run-0017] td:text-is('1.1000')")
    shutil.rmtree(folder)
    tab.wait_for_selector("[data-run=run-0017]", state="detached")


def test_brushing_an_axis_filters_the_table_and_every_chart(tab: Any) -> None:
    draw(tab, "parallel")
    low, high = place(tab, "parallel", -0.2, 0.55), place(tab, "parallel", 0.2, 1.03)
    drag(tab, low, high)
    until(tab, "document.querySelector('#filter').value !== ''")
    assert tab.input_value("#filter") == "learning_rate>=0.0016 learning_rate<=0.0128"
    kept = {f"run-{n:04}" for n in range(1, 17) if RATES[n % 8] >= 0.0016}
    assert set(names(tab)) == kept
    until(
        tab,
        "count => new Set(document.getElementById('parallel').data.flatMap("
        "trace => trace.customdata)).size === count",
        len(kept),
    )
    draw(tab, "curves")
    tab.wait_for_timeout(300)
    assert {trace["meta"]["run"] for trace in traces(tab, "curves") if "meta" in trace} == kept
    draw(tab, "slice-0")
    tab.wait_for_timeout(300)
    assert {name for trace in traces(tab, "slice-0") for name in trace["customdata"]} == kept
    draw(tab, "parallel")
    middle = (low[0] + place(tab, "parallel", 1, 0.5)[0], low[1])
    assert middle[0] > low[0]
    drag(tab, place(tab, "parallel", 0.8, -0.05), place(tab, "parallel", 1.2, 0.05))
    until(tab, "document.querySelector('#filter').value.includes('num_layers=2')")
    assert all(int(name[-4:]) % 2 == 0 for name in names(tab))
    tab.fill("#filter", "")
    assert len(names(tab)) == 16


def test_selecting_a_run_in_one_place_shows_it_in_the_others(tab: Any) -> None:
    draw(tab, "slice-0")
    point = traces(tab, "slice-0")[0]
    where = place(tab, "slice-0", point["x"][0], point["y"][0])
    tab.mouse.move(where[0] + 1, where[1])
    tab.wait_for_selector("#slice-0 .hoverlayer .hovertext")
    tab.mouse.click(*where)
    tab.wait_for_selector("tr.selected")
    name = tab.get_attribute("tr.selected", "data-run")
    assert RATES[int(name[-4:]) % 8] == point["x"][0]
    assert tab.is_checked(f"[data-run={name}] input")
    until(tab, "document.getElementById('slice-0').data[0].selectedpoints?.length === 1")
    other = next(each for each in names(tab) if each != name)
    tab.click(f"[data-run={other}] td:nth-child(2)")
    draw(tab, "curves")
    tab.wait_for_timeout(300)
    bold = {trace["meta"]["run"] for trace in traces(tab, "curves") if trace["opacity"] == 1}
    assert bold == {name, other}
    heads = tab.eval_on_selector_all("#pair thead th", "cells => cells.map(c => c.textContent)")
    assert set(heads) == {name, other}
    assert "learning_rate" in tab.inner_text("#pair")
    tab.click("#clear")
    tab.wait_for_selector("#pair", state="hidden")
    assert tab.query_selector("tr.selected") is None


def test_groups_and_columns(tab: Any, sweep: Sweep) -> None:
    tab.select_option("#group", label="num_layers")
    groups = tab.eval_on_selector_all("tr.group", "rows => rows.map(row => row.textContent)")
    assert [text.partition(" runs")[0] for text in groups] == [
        "▾ num_layers: 28",
        "▾ num_layers: 48",
    ]
    assert "best 1.504" in groups[0]
    tab.click("tr.group button")
    assert len(names(tab)) == 8
    sweep.add(17)
    tab.wait_for_selector("[data-run=run-0017]")  # of the open group; the other stays closed
    assert len(names(tab)) == 9
    tab.click("#columns summary")
    tab.click("#columns label:text-is('status')")
    assert tab.query_selector("#table th[data-id=status]") is None
    sweep.add(19)
    tab.wait_for_selector("[data-run=run-0019]")
    assert tab.query_selector("#table th[data-id=status]") is None


def test_the_table_as_csv(tab: Any, sweep: Sweep, tmp_path: Path) -> None:
    odd = '=HYPERLINK("http://evil.example";"a, b")'
    sweep.add(17, loss=1.1, settings={"comment": odd})
    sweep.add(18, loss=1.15, settings={"comment": 'two\n"lines"'})
    tab.wait_for_selector("[data-run=run-0018]")
    tab.click("#columns summary")
    tab.check("#columns label:has-text('comment') input")
    tab.keyboard.press("Escape")
    tab.fill("#filter", "val_loss<1.6")
    tab.click("#table th[data-id='setting/learning_rate'] button")
    with tab.expect_download() as download:
        tab.click("#save-csv")
    assert download.value.suggested_filename == "s.csv"
    download.value.save_as(tmp_path / "s.csv")
    text = (tmp_path / "s.csv").read_bytes().decode()
    assert text.count("\r\n") == len(names(tab)) + 1
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [row["run"] for row in rows] == names(tab)
    by_name = {row["run"]: row for row in rows}
    assert by_name["run-0017"]["comment"] == "'" + odd
    assert by_name["run-0018"]["comment"] == 'two\n"lines"'
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == sorted(rates)
    assert {float(row["val_loss"]) < 1.6 for row in rows} == {True}
    assert "status" in rows[0]


def test_curves_are_smoothed_and_their_axes_change(tab: Any) -> None:
    tab.fill("#filter", "run-0004")
    draw(tab, "curves")
    until(tab, "document.getElementById('curves').data.length === 2")
    raw = traces(tab, "curves")[0]["y"]
    tab.evaluate(
        "const s = document.querySelector('#smoothing'); s.value = 0.5;"
        "s.dispatchEvent(new Event('input'))"
    )
    until(tab, "y => document.getElementById('curves').data[0].y[1] !== y", raw[1])
    smooth = traces(tab, "curves")[0]["y"]
    assert smooth[0] == raw[0]
    assert smooth[1] == pytest.approx((raw[0] + 2 * raw[1]) / 3)
    tab.check("#log-y")
    until(tab, "document.getElementById('curves').layout.yaxis.type === 'log'")


def test_a_value_beyond_the_axis_is_marked_at_its_edge(tab: Any, sweep: Sweep) -> None:
    sweep.add(17, loss=500.0)
    tab.wait_for_selector("[data-run=run-0017]")
    tab.wait_for_selector("#words :text('17')")
    for chart in ("best", "slice-0"):
        draw(tab, chart)
        until(
            tab,
            "id => document.getElementById(id).data.some(trace => "
            "trace.customdata?.includes('run-0017'))",
            chart,
        )
        heights = [y for trace in traces(tab, chart) for y in trace["y"]]
        assert max(heights) < 3
        beyond = next(t for t in traces(tab, chart) if "run-0017" in t.get("customdata", []))
        assert beyond["marker"]["symbol"] == "triangle-up"
    draw(tab, "curves")
    until(tab, "document.getElementById('curves').data.some(t => t.uid === 'edges')")
    edges = next(trace for trace in traces(tab, "curves") if trace["uid"] == "edges")
    assert "run-0017" in edges["customdata"]
    assert max(edges["y"]) < 10


def test_notes_are_kept_in_the_folder(tab: Any, sweep: Sweep) -> None:
    tab.fill("#notes-text", "the fast rates diverge\n<b>not bold</b>")
    tab.click("#save-notes")
    tab.wait_for_selector("#notes-said:text-is('saved')")
    file = sweep.folder / "notes.md"
    assert file.read_text() == "the fast rates diverge\n<b>not bold</b>"
    file.write_text("by hand")
    until(tab, "document.querySelector('#notes-text').value === 'by hand'")
    tab.fill("#notes-text", "mine")
    file.write_text("by another hand")
    tab.click("#save-notes")
    tab.wait_for_selector("#notes-said:has-text('changed elsewhere')")
    assert file.read_text() == "by another hand"
    assert tab.input_value("#notes-text") == "mine"
    assert not [path.name for path in sweep.folder.iterdir() if path.name.startswith(".notes")]


def test_the_next_sweep_is_shown_and_saved(tab: Any, tmp_path: Path) -> None:
    tab.click("#make-next")
    tab.wait_for_selector("#next", state="visible")
    assert "learning_rate:" in tab.inner_text("#next pre")
    with tab.expect_download() as download:
        tab.click("#save-next")
    download.value.save_as(tmp_path / "next.yaml")
    assert (tmp_path / "next.yaml").read_text().startswith("# The next sweep after s")


def test_a_configuration_is_tried_next(
    browser: Any, run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid())
    assert run("sweep", "t.yaml", text_file.name, "--count", 0, "--", *FLAGS).returncode == 0
    folder = tmp_path / "runs/t"
    with (
        running(folder) as dashboard,
        OpenedPage(browser, dashboard, viewport={"width": 1400, "height": 900}) as tab,
    ):
        tab.click("#try summary")
        tab.fill("#try input[name=learning_rate]", "7")
        tab.click("#enqueue")
        tab.wait_for_selector("#steered:has-text('learning_rate: got 7; give')")
        tab.fill("#try input[name=learning_rate]", "0.002")
        tab.fill("#try input[name=seed]", "1")
        tab.click("#enqueue")
        tab.wait_for_selector("#steered:has-text('run-0001 is tried next; no worker runs')")
        assert run("agent", "runs/t", "--workers", 1, "--count", 1).returncode == 0
        tab.wait_for_selector("[data-run=run-0001].done")
        assert json.loads(tab.evaluate("JSON.stringify(content.run.get('run-0001'))"))
    assert [(t.params["learning_rate"], t.params["seed"]) for t in trials(folder)] == [(0.002, 1)]


def test_with_the_keyboard_alone(tab: Any) -> None:
    tab.focus("#filter")
    tab.keyboard.type("num_layers=2")
    assert len(names(tab)) == 8
    for _ in range(20):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.closest('th')?.dataset.id") == "score":
            break
    tab.keyboard.press("Enter")
    assert tab.get_attribute("#table th[data-id='score']", "aria-sort") == "ascending"
    assert tab.evaluate("document.activeElement.closest('th')?.dataset.id") == "score"
    for _ in range(20):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.type") == "checkbox":
            break
    tab.keyboard.press("Space")
    assert tab.inner_text("#count").endswith("1 selected")
    assert tab.evaluate("document.activeElement.type") == "checkbox"
    label = tab.evaluate("document.activeElement.ariaLabel")
    assert label == f"select {names(tab)[0]}"


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_small_and_large_screens(
    browser: Any, dashboard: RunningDashboard, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 800}
    with OpenedPage(browser, dashboard, viewport=size, color_scheme=scheme) as tab:
        for plot in tab.query_selector_all(".plot"):
            plot.scroll_into_view_if_needed()
            plot.wait_for_selector(".main-svg")
        tab.check("[data-run=run-0003] input")
        tab.check("[data-run=run-0004] input")
        assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_the_page_says_that_the_dashboard_has_ended(browser: Any, sweep: Sweep) -> None:
    with running(sweep.folder) as dashboard:
        context = browser.new_context()
        page = context.new_page()
        page.goto(dashboard.address)
        page.wait_for_selector("#connection:text-is('live')")
    page.wait_for_selector("#connection:has-text('connection lost')")
    context.close()


def test_a_sweep_that_has_not_begun_fills_up(browser: Any, tmp_path: Path) -> None:
    empty = Sweep(tmp_path / "s")
    with (
        running(empty.folder) as dashboard,
        OpenedPage(browser, dashboard, viewport={"width": 1400, "height": 900}) as tab,
    ):
        assert "no runs yet" in tab.inner_text("#summary")
        for number in range(1, 7):
            empty.add(number)
        tab.wait_for_selector("[data-run=run-0006]")
        draw(tab, "slice-0")
        assert "num_layers" in tab.inner_text("#table thead")
