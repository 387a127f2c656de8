"""The report: complete, self-contained, and never a place where a run's text becomes code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from results_on_disk import write_run, write_sweep

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.report.page import make_page, repeat_command
from fundamentallm.report.read_runs import ReportError, read_results

HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "</script><script>window.hacked=1</script>",
    "<a href='javascript:window.hacked=1'>x</a>",
    "{{ 7 * 7 }}{% raw %}",
    "a\x00\x1b[31mb\u2028c",
    "%{x}<b>bold</b>" * 50,
    "x" * 100_000,
)
SCORES = {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51], 0.01: [1.8, 1.81]}


def hostile(folder: Path) -> Path:
    """Runs whose settings and samples are all HTML and worse."""
    for number, text in enumerate(HOSTILE):
        run = folder / f"run-{number} <i>"
        losses = [3.0, 2.0, 1.5 + number / 10]
        write_run(
            run, {"lr_schedule": text, "data": text, "learning_rate": 0.001 * 2**number}, losses
        )
        plain = "".join(each for each in text if each.isprintable())
        sample = f"step 30, temperature 0.6, prompt of 3 characters\n    abc{plain}\n\n"
        (run / "samples.txt").write_text(sample)
    return folder


def test_unreadable_parts_are_noted(tmp_path: Path, run: Run) -> None:
    folder = write_sweep(tmp_path / "s", SCORES)
    with (folder / "run-0001/metrics.jsonl").open("a") as file:
        file.write("not json\n[1]\n" + '{"step": 90, "val_lo')
    (folder / "run-0002/config.yaml").write_text("a: [")
    (folder / "run-0003/metrics.jsonl").unlink()
    (folder / "run-0004/summary.json").write_text("{")
    results = read_results([folder])
    notes = " ".join(results.notes)
    assert "run-0001: 2 lines of metrics.jsonl cannot be read" in notes
    assert "its settings are unknown" in notes
    assert "run-0003: metrics.jsonl is missing" in notes
    assert "run-0004: summary.json cannot be read" in notes
    assert len(make_page(results)) > 1_000_000
    with pytest.raises(ReportError, match="no such folder"):
        read_results([tmp_path / "none"])
    done = run("report", folder, "--metric", "nothing")
    assert done.returncode == 0
    assert "no run has logged nothing" in done.stderr
    done = run("explain", folder, "--metric", "val_los")
    assert "did you mean val_loss? " in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["report", "explain", "compare"])
def test_a_metric_that_no_run_has_is_refused(tmp_path: Path, run: Run, command: str) -> None:
    write_sweep(tmp_path / "s", SCORES)
    done = run(command, "s", "--metric", "val_los")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no run has logged val_los; did you mean val_loss? " in done.stderr
    assert not (tmp_path / "s/report.html").exists()
    (tmp_path / "s/run-0001/summary.json").unlink()  # it goes on, and may yet log it
    assert run(command, "s", "--metric", "val_los").returncode == 0


ODD = {
    "numbers": (
        "seed: 1\n",
        '{"step": 1, "val_loss": NaN}\n{"step": 1e300, "val_loss": 1}\n',
        "[]",
    ),
    "kinds": ("seed: [1]\n", "[1]\n", '{"status": 5, "seconds": "x", "range_test": {"low": {}}}'),
    "code": ("seed: !!python/object:os.system {}\n", '{"step": 1, "val_loss": 2.0}\n', "{}"),
    "half": ("seed: 1\n", '{"step": 1, "val_loss": 2.0}\n{"step": 2, "val_', "{"),
    "deep": ("[" * 5000, "[" * 100_000 + "\n", "[" * 100_000),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_do_no_harm(name: str, tmp_path: Path, run: Run) -> None:
    config, rows, summary = ODD[name]
    folder = write_run(tmp_path / "odd", {}, [2.0])
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.jsonl").write_text(rows)
    (folder / "summary.json").write_text(summary)
    write_run(tmp_path / "good", {"seed": 2}, [3.0, 1.5])
    for command in ("report", "explain", "compare"):
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["report", "explain", "next", "compare"])
def test_an_empty_result_is_one_line(command: str, tmp_path: Path, run: Run) -> None:
    sweep = write_sweep(tmp_path / "begun", {})
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/a.txt").write_text("x")
    for folder in (sweep, tmp_path / "empty", tmp_path / "foreign", tmp_path / "none"):
        done = run(command, folder)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert folder.name in done.stderr


def test_the_command_repeats_the_run(tmp_path: Path) -> None:
    settings = {"learning_rate": 0.003, "early_stopping": True, "data": "my text.txt", "epochs": 20}
    results = read_results([write_run(tmp_path / "r", settings, [2.0, 1.5])])
    assert results.best is not None
    assert repeat_command(results.best, []) == (
        "fundamentallm train 'my text.txt' --learning-rate 0.003 --early-stopping true"
    )


def test_the_command_names_winning_defaults_too(tmp_path: Path) -> None:
    for number, (rate, norm) in enumerate(((0.003, 1.0), (0.001, 0.0), (0.001, 1.0))):
        settings = {"learning_rate": rate, "gradient_clip": norm, "data_sha256": "abc", "seed": 0}
        write_run(tmp_path / f"run-{number}", settings, [4.0, 2.0 - 0.1 * number])
    assert HYPERPARAMETERS["learning_rate"].default == 0.001
    page = make_page(read_results([tmp_path]))
    assert "fundamentallm train --learning-rate 0.001 --gradient-clip 1.0</code>" in page


def test_large_sweeps_make_pages_of_bounded_size(tmp_path: Path) -> None:
    losses = [4 - i / 100 for i in range(100)]
    for number in range(2_000):
        write_run(tmp_path / f"run-{number:04}", {"learning_rate": 0.0001 * (1 + number)}, losses)
    assert len(make_page(read_results([tmp_path]))) < 15_000_000


def test_single_runs_and_watching(tmp_path: Path, run: Run) -> None:
    one = write_run(tmp_path / "one", {"learning_rate": 0.001}, [3.0, 2.0, 1.5])
    done = run("report", one)
    assert (done.returncode, (one / "report.html").exists()) == (0, True), done.stderr
    page = (one / "report.html").read_text()
    assert 'http-equiv="refresh"' not in page
    assert "http-equiv" in make_page(read_results([one]), refresh=5)
    done = run("report", one, "--output", tmp_path / "no/such/page.html")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for mistyped in ("runs/lr/run-0042", "a/s/run-0042"):  # not asked of W&B, as a/b/c would be
        write_sweep(tmp_path / Path(mistyped).parent, {0.001: [1.5]})
        assert "no such folder" in run("report", mistyped).stderr
    assert run("report", ".").returncode == 0  # all that is below
    sweep = write_sweep(tmp_path / "s", {0.001: [1.5], 0.01: [1.6]})  # of a grid of 6, no more
    metric_curves = run("report", sweep, "--watch", 1)
    assert (metric_curves.returncode, metric_curves.stdout.count(": 2 of 6 runs, 0 running")) == (
        0,
        2,
    )


def opened(browser: Any, page: str, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page in a browser, with every figure drawn; and what should not have happened."""
    file = folder / "page.html"
    file.write_text(page, "utf-8", errors="replace")
    tab = browser.new_context(**options).new_page()
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "request",
        lambda request: wrong.append(request.url) if request.url != file.as_uri() else None,
    )
    tab.goto(file.as_uri())
    for plot in tab.query_selector_all(".plot"):
        plot.scroll_into_view_if_needed()
        plot.wait_for_selector(".main-svg")
    return tab, wrong


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    page = make_page(read_results([write_sweep(tmp_path / "s", SCORES)]))
    size = {"width": width, "height": 800}
    tab, wrong = opened(browser, page, tmp_path, viewport=size, color_scheme=scheme)
    assert wrong == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width

    def column(index: int) -> list[str]:
        return tab.eval_on_selector_all(
            f"#table tbody tr:not([hidden]) td:nth-child({index})",
            "cells => cells.map(c => c.textContent)",
        )

    assert column(3)[0] == "1.5000"
    tab.click("#table th:nth-child(3) button")
    tab.click("#table th:nth-child(3) button")
    assert column(3)[0] == "2.0100"
    tab.fill("#filter", "val_loss<1.6")
    assert len(column(1)) == 2
    assert tab.inner_text("#count") == "2 of 6 runs"
    tab.fill("#filter", "learning_rate=0.01")
    assert set(column(3)) == {"1.8000", "1.8100"}
    shown = "document.querySelectorAll('#curves .scatterlayer .trace').length"
    before = tab.evaluate(shown)
    if width > 700:
        tab.click("#curves .legendtoggle >> nth=0")
        while tab.evaluate(shown) >= before:
            tab.wait_for_timeout(50)
        tab.hover("#best .main-svg")
    assert wrong == []


@pytest.mark.slow
def test_on_paper(browser: Any, tmp_path: Path) -> None:
    """Printed from a dark screen: dark ink, whole figures, and not every row of a long table."""
    scores = {0.0001 * (1 + n): [1.5 + 0.001 * n] for n in range(120)}
    page = make_page(read_results([write_sweep(tmp_path / "s", scores)]))
    tab, wrong = opened(browser, page, tmp_path, color_scheme="dark")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.emulate_media(media="print")
    ink = "getComputedStyle(document.querySelector('#curves .xtick text')).fill"
    assert tab.evaluate(ink) == "rgb(0, 0, 0)"
    widths = tab.eval_on_selector_all(".plot .main-svg", "all => all.map(e => e.clientWidth)")
    assert max(widths) <= 660
    shown = "rows => rows.filter(row => row.offsetParent !== null).length"
    assert tab.eval_on_selector_all("#table tbody tr", shown) == 100
    assert "Printed are 100 of 120 runs" in tab.inner_text("#runs")
    tab.emulate_media(media="screen")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(ink) != "rgb(0, 0, 0)"
    assert wrong == []


@pytest.mark.slow
def test_no_button_sends_data_anywhere(browser: Any, tmp_path: Path) -> None:
    """Every button of every chart, and what these bring up: no request and no window."""
    (tmp_path / "runs").mkdir()
    write_sweep(tmp_path / "runs/s", SCORES)
    test = write_run(tmp_path / "runs/range", {"learning_rate": 0.001}, [3.0, 2.0, 1.5])
    found = {"status": "done", "range_test": {"low": 0.001, "high": 0.01, "fell": True}}
    (test / "summary.json").write_text(json.dumps(found))
    rows = [{"step": n, "train_loss": 3.0, "optim/learning_rate": 0.001 * n} for n in range(1, 9)]
    (test / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = make_page(read_results([tmp_path / "runs"]))
    tab, wrong = opened(browser, page, tmp_path, viewport={"width": 1400, "height": 800})
    tab.context.on("page", lambda window: wrong.append(f"window: {window.url}"))
    tab.context.on("request", lambda request: wrong.append(request.url))
    pressable = "() => [...document.querySelectorAll('button, a, .modebar-btn')]"
    press = "e => e.dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))"
    known = tab.evaluate_handle(pressable)
    fresh = "known => [...document.querySelectorAll('button, a')].filter(e => !known.includes(e))"
    plots = tab.query_selector_all(".plot")
    assert len(plots) >= 6
    for plot in plots:
        buttons = plot.query_selector_all(".modebar-btn")
        assert len(buttons) >= (1 if plot.get_attribute("id") == "parallel" else 5)
        for button in buttons:
            button.evaluate(press)
            tab.wait_for_timeout(20)
            for brought_up in tab.evaluate_handle(fresh, known).get_properties().values():
                brought_up.evaluate(press)
    tab.wait_for_timeout(200)
    assert [each for each in wrong if not each.startswith("blob:")] == []  # a picture is saved
    out = "all => all.map(e => e.href).filter(href => !href.startsWith('data:'))"
    assert tab.eval_on_selector_all("[href]", out) == []


@pytest.mark.slow
def test_text_of_runs_stays_text(browser: Any, tmp_path: Path) -> None:
    page = make_page(read_results([hostile(tmp_path / "runs")]))
    tab, wrong = opened(browser, page, tmp_path, viewport={"width": 1400, "height": 800})
    assert wrong == []
    assert tab.evaluate("window.hacked") is None
    assert "<script>window.hacked=1</script>" in tab.inner_text("#table")
    assert tab.eval_on_selector_all("main img, main a, main iframe", "found => found.length") == 0


def test_settings_are_read_as_the_trainer_would_take_them(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", SCORES)
    (folder / "run-0001/config.yaml").write_text("learning_rate: 1e-3\ngradient_clip: .nan\n")
    with (folder / "run-0001/metrics.jsonl").open("a") as file:
        file.write('{"step": Infinity}\n{"step": 100, "val_loss": 1' + "0" * 400 + "}\n")
    results = read_results([folder])
    assert results.runs[0].settings == {"learning_rate": 0.001}
    notes = " ".join(results.notes)
    assert "run-0001: config.yaml: --gradient-clip: got 'nan'" in notes
    assert "run-0001: 1 lines of metrics.jsonl cannot be read" in notes


def test_notes_are_shown_as_text(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", SCORES)
    assert read_results([folder]).remarks == ""
    (folder / "notes.md").write_text("the <b>fast</b> rates\x1b[31m diverge")
    results = read_results([folder])
    assert results.remarks.startswith("the <b>fast")
    page = make_page(results)
    assert "the \\u003cb>fast\\u003c/b> rates" in page
    assert "\x1b" not in page


def test_names_of_runs_are_unique(tmp_path: Path) -> None:
    for machine in ("a", "b"):
        write_sweep(tmp_path / machine / "lr", {0.001: [1.5]})
    places = [tmp_path / machine / "lr/run-0001" for machine in ("a", "b")]
    assert [run.name for run in read_results(places).runs] == ["a/lr/run-0001", "b/lr/run-0001"]
    write_sweep(tmp_path / "a" / "wide", {0.001: [1.5], 0.002: [1.4]})
    both = ["lr/run-0001", "wide/run-0001", "wide/run-0002"]  # alike in depth
    assert [run.name for run in read_results([tmp_path / "a"]).runs] == both
    twice = [places[0], tmp_path / "b/../a/lr/run-0001"]  # the same by another way
    assert len(read_results(twice).runs) == 2
    with pytest.raises(ReportError, match="not a folder"):
        read_results([places[0] / "config.yaml"])


def test_an_unreadable_folder_is_noted(tmp_path: Path, ordinary_user: list[str]) -> None:
    write_sweep(tmp_path / "runs/s", SCORES)
    (tmp_path / "runs/a").mkdir(mode=0)
    words = [*ordinary_user, sys.executable, "-m", "fundamentallm"]
    done = subprocess.run(
        [*words, "explain", "runs"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "runs/a: cannot be read (Permission denied)" in done.stderr
    for command in (["explain", "runs/a"], ["evaluate", "runs/a", "x.txt"]):
        done = subprocess.run(
            [*words, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_a_folder_is_refused_as_the_page(tmp_path: Path, run: Run) -> None:
    write_sweep(tmp_path / "s", SCORES)
    done = run("report", "s", "--output", ".")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "train.py"]


def test_watching_ends_with_a_run_that_was_killed(tmp_path: Path, run: Run) -> None:
    folder = write_sweep(tmp_path / "s", {0.001: [1.5]}) / "run-0001"
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    who = {"status": "running", "host": socket.gethostname(), "process": gone.pid}
    (folder / "summary.json").write_text(json.dumps(who))
    assert run("report", folder, "--watch").returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_stdout_that_is_full_is_one_line(tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", SCORES)
    words = [sys.executable, "-m", "fundamentallm", "explain", "s"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "fundamentallm: stdout: No space left on device\n")
