"""A sweep in progress is shown as such: by its storage, else by the folders of its runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from results_on_disk import SWEEP, write_run, write_sweep
from tiny_sweep import FLAGS, start, summaries, wait_for

from fundamentallm.report.explain import explain
from fundamentallm.report.figures import best_so_far
from fundamentallm.report.next_sweep import next_sweep
from fundamentallm.report.page import make_page
from fundamentallm.report.page_parts import run_parts
from fundamentallm.report.read_runs import ReportError, read_results
from fundamentallm.report.results import Results
from fundamentallm.report.rules.progress import progress_of
from fundamentallm.report.stored_runs import with_stored_runs
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.sweep.store.worker_locks import is_gone

GRID = SWEEP.replace("[0, 1]", "[0, 1, 2, 3]")
"""A grid of twelve runs."""


def unended(folder: Path, process: int, host: str = "") -> Path:
    """Write the folder of a run without an end."""
    write_run(folder, {"learning_rate": 0.001, "seed": int(folder.name[-4:])}, [3.5])
    summary = {"status": "running", "process": process, "host": host or socket.gethostname()}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Five of twelve runs have ended: three are done, two were stopped early."""
    folder = write_sweep(
        tmp_path / "s", {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51], 0.01: [1.8]}, GRID
    )
    for name in ("run-0002", "run-0004"):
        summary = json.loads((folder / name / "summary.json").read_text())
        stopped = {**summary, "status": "interrupted", "stopped_by": "hyperband"}
        (folder / name / "summary.json").write_text(json.dumps(stopped))
    return folder


def test_folders_show_which_runs_are_in_progress(begun: Path) -> None:
    unended(begun / "run-0006", os.getpid())
    unended(begun / "run-0007", ended_process())
    unended(begun / "run-0008", os.getpid(), "another-machine")
    results = read_results([begun])
    assert [run.status for run in results.runs[5:]] == ["running", "unfinished", "unfinished"]
    stand = (
        "5 of 12 runs, 1 running: 3 done, 2 stopped early, 2 unfinished (in progress, or killed)"
    )
    first = explain(results)[0]
    assert first.rule == "in_progress"
    assert first.says.startswith(stand)
    assert first.says.endswith("these results cover only runs that have ended, and may change")
    page = make_page(results)
    assert page.count(stand) > 1  # in its head, and as explain says it
    with pytest.raises(ReportError, match=r"nothing stood out .* \(5 of 12 runs, 1 running\), so"):
        next_sweep(results)


def test_before_a_run_has_ended(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(GRID)
    unended(tmp_path / "run-0001", os.getpid())
    results = read_results([tmp_path])
    assert explain(results)[0].says == (
        "0 of 12 runs, 1 running; nothing can be said before one has ended"
    )
    with pytest.raises(ReportError, match=r"no run has finished yet \(0 of 12 runs, 1 running\)"):
        next_sweep(results)
    assert "0 of 12 runs, 1 running" in make_page(results)


def test_the_storage_knows_better_than_the_folders(begun: Path) -> None:
    """A run that was just claimed has no folder yet; a dead worker's process id is another's."""
    space, folder = SearchSpace(parse_sweep(GRID, "sweep.yaml"), {}), SweepFolder(begun)
    unended(begun / "run-0006", ended_process())
    unended(begun / "run-0008", os.getpid())
    with closing(RunStore(folder.url, "s", begun, lease=60, goal="minimize")) as store:
        for number, run in enumerate(read_results([begun]).runs[:5]):
            values = {"max_steps": 100, **{n: run.settings[n] for n in ("learning_rate", "seed")}}
            claimed = store.claim(
                next_values=lambda n, runs, v=values: v, retries=0,
                parameters=space.sweep.parameters,
            )  # fmt: skip
            assert claimed is not None
            assert claimed.number == number
            store.finish(claimed.last.id, run.status, score=run.score, seconds=1, note="")
        for seed in (1, 2, 3):
            values = {"learning_rate": 0.01, "seed": seed, "max_steps": 100}
            assert store.claim(
                next_values=lambda n, runs, v=values: v, retries=0,
                parameters=space.sweep.parameters,
            )  # fmt: skip
        store.finish(store.runs()[7].last.id, "interrupted", score=None, seconds=1, note="SIGINT")
        owner = store.owner
        results = with_stored_runs(read_results([begun]), folder, space, store.runs())
        assert [run.status for run in results.runs[5:]] == ["running", "running", "unfinished"]
        assert progress_of(results) == "5 of 12 runs, 2 running"
        assert results.notes == []
        assert not is_gone(begun, owner)
        lock = next((begun / "workers").glob("*.lock")).name
        store.worker_lock.release()  # as if it had been killed
        assert is_gone(begun, owner)
        results = with_stored_runs(read_results([begun]), folder, space, store.runs())
        assert progress_of(results) == "5 of 12 runs, 0 running"
    assert is_gone(begun, owner)
    assert not is_gone(begun, owner.replace(socket.gethostname(), "elsewhere"))
    assert not is_gone(begun, f"{socket.gethostname()}:1:../../{lock}")


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine.lock").touch()
    (tmp_path / "s/workers").mkdir(parents=True)
    (tmp_path / "s/workers/0123456789ab.lock").symlink_to(tmp_path / "mine.lock")
    assert not is_gone(tmp_path / "s", f"{socket.gethostname()}:1:0123456789ab")


@pytest.mark.slow
def test_commands_on_a_running_sweep(tmp_path: Path, run: Run, text_file: Path) -> None:
    parameters = "  max_steps: {values: [8, 100000000]}\n  seed: {values: [0, 1, 2]}\n"
    text = "program: train.py\nmethod: grid\nmetric: {name: val_loss}\nparameters:\n" + parameters
    (tmp_path / "g.yaml").write_text(text + "  eval_every: {value: 4}\n")
    flags = [*FLAGS, "--epochs=1000000"]
    sweep = start(tmp_path, "sweep", "g.yaml", text_file, "--workers=2", "--", *flags)
    folder = tmp_path / "runs/g"

    def has_two_running() -> bool:
        statuses = Counter(str(each["status"]) for each in summaries(folder).values())
        return (statuses["done"], statuses["running"]) == (3, 2)

    wait_for(has_two_running)
    stand = "3 of 6 runs, 2 running"
    assert run("explain", folder).stdout.startswith(f"Not finished\n  {stand}: 3 done; these ")
    assert run("report", folder).stdout == f"{folder}/report.html: {stand}\n"
    assert f"{stand}: 3 done" in (folder / "report.html").read_text()
    assert f"5 are needed ({stand}: 3 done)" in run("next", folder).stderr
    shutil.copytree(folder / "run-0001", folder / "run-0001-copy")
    told = run("explain", folder)
    assert stand in told.stdout
    assert "left out as not of this sweep: run-0001-copy" in told.stderr
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    assert "3 of 6 runs, 0 running" in run("explain", folder).stdout


# --- The page follows the same rules as explain ---


def runs_of(parts: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the parts of the runs, each with its run's name."""
    return [(key[4:], part) for key, part in parts.items() if key.startswith("run/")]


def copied(folder: Path) -> Results:
    """Return the sweep's results with a copy of its best run, in a folder without a storage."""
    shutil.copytree(folder / "run-0003", folder / "run-0003-copy")
    return read_results([folder])


def test_copies_count_once_on_the_page(begun: Path) -> None:
    results = copied(begun)
    parts = run_parts(results)
    assert parts["about"]["summary"].startswith(
        "5 of 12 runs, 0 running: 3 done, 2 stopped early; 1 more repeats others"
    )
    assert parts["run/run-0003-copy"]["cells"][1] == ["done, repeats run-0003", "done"]
    assert [name for name, part in runs_of(parts) if part["repeats"]] == ["run-0003-copy"]
    plot = best_so_far(results)
    assert plot is not None
    assert sum(len(trace.x) for trace in plot.figure.data if trace.mode == "markers") == 5


def test_what_was_stopped_early_is_not_the_best_on_the_page(begun: Path) -> None:
    write_run(begun / "run-0004", {"learning_rate": 0.001, "seed": 1}, [3.0, 1.2])
    summary = json.loads((begun / "run-0004/summary.json").read_text())
    stopped = {**summary, "status": "interrupted", "stopped_by": "hyperband"}
    (begun / "run-0004/summary.json").write_text(json.dumps(stopped))
    results = read_results([begun])
    assert explain(results)[1].says.startswith("best val_loss: 1.5000 (run-0003")
    early = [name for name, part in runs_of(run_parts(results)) if part["early"]]
    assert early == ["run-0002", "run-0004"]
    plot = best_so_far(results)
    assert plot is not None
    assert min(plot.figure.data[-1].y[2:]) == 1.5


@pytest.mark.slow
def test_the_table_in_a_browser(begun: Path, browser: Any, tmp_path: Path) -> None:
    """The best that went on to its end comes first; a copy has a row, and no curve."""
    write_run(begun / "run-0004", {"learning_rate": 0.001, "seed": 1}, [3.0, 1.2])
    summary = json.loads((begun / "run-0004/summary.json").read_text())
    stopped = {**summary, "status": "interrupted", "stopped_by": "hyperband"}
    (begun / "run-0004/summary.json").write_text(json.dumps(stopped))
    (tmp_path / "page.html").write_text(make_page(copied(begun)))
    page = browser.new_page()
    page.goto(f"file://{tmp_path}/page.html")
    page.wait_for_selector("#curves .legendtext")
    names = page.eval_on_selector_all("#table tbody tr", "rows => rows.map((r) => r.dataset.run)")
    assert names[:2] == ["run-0003", "run-0003-copy"]
    assert names[-2:] == ["run-0004", "run-0002"]
    legend = page.eval_on_selector_all(
        "#curves .legendtext", "all => all.map((e) => e.textContent)"
    )
    assert sum("run-0003" in name for name in legend) == sum("run-0001" in name for name in legend)
    assert not any("copy" in name for name in legend)
    page.close()


def test_running_runs_are_no_faults_in_the_charts(begun: Path) -> None:
    unended(begun / "run-0006", os.getpid())
    plot = best_so_far(read_results([begun]))
    assert plot is not None
    markers = {trace.name: trace.marker.symbol for trace in plot.figure.data[:-1]}
    assert markers == {"done": "circle", "stopped early": "circle-open", "running": "diamond-open"}
