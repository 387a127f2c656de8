"""Metrics of programs with the real W&B client, read from its transaction log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from offline_program import run, start

from fundamentallm.sweep.program import transaction_log
from fundamentallm.sweep.program.logged import Logged, LoggedRow
from fundamentallm.sweep.program.transaction_log import (
    TransactionLogError,
    TransactionLogs,
    inspect_program,
)

EVERYTHING = """
import argparse, math, numpy, wandb
arguments = argparse.Namespace(seed=None, layers=[1, 2], deep={"a": {"b": 1}}, of=[{"x": 1}])
run = wandb.init(config=arguments)
run.config.update({"later": {"text": "größe", "big": 2**53 + 1}})
run.config["0"] = True
run.define_metric("epoch")
run.define_metric("val/*", step_metric="epoch")
run.define_metric("acc", summary="max")
run.log({"loss": 1 / 3, "acc": 0.9, "eval": {"loss": 1e-7, "deep": {"x": 5e-324}}})
run.log({"val/loss": 3.5, "epoch": 1, "acc": 0.5, "flag": True, "note": "5"})
run.log({"big": 2**62 + 1, "f": 0.1 + 0.2, "größe": -1e300, "0": 2, "a.b": 4, "n" * 300: 1})
run.log({"nan": math.nan, "inf": math.inf, "numpy": numpy.float32(0.1), "int": numpy.int64(-7)})
run.log({"nan": math.nan, "none": None, "list": [1, 2]})
table = wandb.Table(columns=["a"], data=[[1]])
run.log({"h": wandb.Histogram([1, 2]), "html": wandb.Html("<b>"), "table": table, "x": 1})
run.log({"q": 1}, step=50)
run.log({"q": 2}, step=20)  # out of order: W&B ignores it
run.log({"r": 1}, commit=False)
run.log({"s": 2, "step": 99, "_own": 3, 'a"b\\\\c': 4})
run.summary["final"] = 7.25
run.summary["nested"] = {"k": {"z": 1}}
run.summary.update({"text": "hello", "flag": False, "list": [1, 2], "f": 8})
del run.summary["s"]
"""
ROWS = [
    (0, {"loss": 1 / 3, "acc": 0.9, "eval.loss": 1e-7, "eval.deep.x": 5e-324}),
    (1, {"val/loss": 3.5, "epoch": 1, "acc": 0.5}),
    (2, {"big": 2**62 + 1, "f": 0.1 + 0.2, "größe": -1e300, "0": 2, "a.b": 4, "n" * 300: 1}),
    (3, {"numpy": 0.10000000149011612, "int": -7}),
    (5, {"x": 1}),
    (50, {"q": 1, "r": 1, "s": 2, "step": 99, "_own": 3, 'a"b\\c': 4}),
]
CONFIG = {"lr": 0.3, "sizes": [8, 8], "seed": None, "layers": [1, 2], "deep.a.b": 1} | {
    "of": '[{"x": 1}]',
    "later.text": "größe",
    "later.big": 2**53 + 1,
    "0": True,
}
SUMMARY = (
    {"loss": 1 / 3, "acc.max": 0.9, "eval.loss": 1e-7, "val/loss": 3.5, "big": 2**62 + 1}
    | {"nan": "NaN", "inf": "Infinity", "final": 7.25, "nested.k.z": 1, "text": "hello"}
    | {"flag": False, "f": 8, "s": None, "note": "5"}
)
"""Some of the summary."""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that logged everything."""
    folder = tmp_path_factory.mktemp("everything")
    run(EVERYTHING, folder, "r1", {"lr": 0.3, "sizes": [8, 8]})
    return folder


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[TransactionLogs]:
    """Logs of a run `r1` in `tmp_path`."""
    logs = TransactionLogs(tmp_path, "r1")
    yield logs
    logs.close()


def all_of(folder: Path, run_id: str = "r1") -> Logged:
    """Return what a finished run logged."""
    logs = TransactionLogs(folder, run_id)
    logged = logs.finish(60)
    assert not any(log.process for log in logs.logs.values())
    return logged


def plain(rows: list[LoggedRow]) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.metrics) for row in rows]


def read_until(logs: TransactionLogs, enough: Callable[[Logged], bool]) -> Logged:
    """Read until there is enough, which hangs if it never comes."""
    logged = Logged()
    while not enough(logged):
        logged.add(logs.read())
        time.sleep(0.02)
    return logged


def log_file(folder: Path) -> Path:
    (file,) = (folder / "wandb").glob("*run-*/*.wandb")
    return file


def test_every_number_equals_what_the_program_logged(everything: Path) -> None:
    logged = all_of(everything)
    assert plain(logged.rows) == ROWS
    assert logged.config == CONFIG
    assert {name: logged.summary[name] for name in SUMMARY} == SUMMARY
    others = ("_step", "_runtime", "_timestamp", "_wandb.runtime", "list", "none")
    media = [name for name in logged.summary if name.startswith(("h.", "html", "table"))]
    assert not media
    assert not set(others) & logged.summary.keys()
    assert all(type(row.metrics.get("big", 1)) is int for row in logged.rows)


def test_the_python_command_prints_the_same(
    everything: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used where the client has no binary of its own."""
    binary = inspect_program()
    assert binary[0].endswith("wandb-core")
    before = all_of(everything)
    command = (sys.executable, "-m", "wandb", "leet", "inspect")
    monkeypatch.setattr(transaction_log, "inspect_program", lambda: command)
    assert all_of(everything) == before


def test_rows_arrive_while_the_program_runs(tmp_path: Path, logs: TransactionLogs) -> None:
    code = (
        "import os, time, wandb\nrun = wandb.init()\n"
        "for i in range(3):\n"
        "    run.log({'loss': i})\n"
        "    run.log({}, commit=True)\n"
        "    while not os.path.exists(f'go{i}'): time.sleep(0.01)\n"
    )
    assert logs.read() == Logged()
    assert not logs.exists
    program = start(code, tmp_path, "r1", {"lr": 0.5})
    for i in range(3):
        logged = read_until(logs, lambda logged: bool(logged.rows))
        assert plain(logged.rows) == [(2 * i, {"loss": i})]
        assert logs.exists
        (tmp_path / f"go{i}").touch()
    assert program.wait() == 0
    assert logs.finish(60).rows == []


def test_a_follower_that_ended_starts_again(
    tmp_path: Path, logs: TransactionLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may log once an hour, and no process waits for it."""
    monkeypatch.setattr(transaction_log, "QUIET_SECONDS", 0.1)
    code = (
        "import os, time, wandb\n"
        "run = wandb.init(settings=wandb.Settings(x_disable_stats=True))\n"
        "run.log({'loss': 1})\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "run.log({'loss': 2})\n"
        "while not os.path.exists('end'): time.sleep(0.01)\n"
    )
    program = start(code, tmp_path, "r1")
    logged = read_until(logs, lambda logged: bool(logged.rows))
    (log,) = logs.logs.values()
    while log.process is not None:
        logged.add(logs.read())
        time.sleep(0.02)
    (tmp_path / "go").touch()
    logged.add(read_until(logs, lambda logged: bool(logged.rows)))
    (tmp_path / "end").touch()
    assert program.wait() == 0
    logged.add(logs.finish(60))
    assert [row.metrics["loss"] for row in logged.rows] == [1, 2]


def test_rows_of_a_killed_program_are_read(tmp_path: Path, logs: TransactionLogs) -> None:
    code = (
        "import itertools, time, wandb\nrun = wandb.init()\n"
        "for i in itertools.count():\n    run.log({'loss': i})\n    time.sleep(0.05)\n"
    )
    program = start(code, tmp_path, "r1")
    logged = read_until(logs, lambda logged: len(logged.rows) >= 30)
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    logged.add(logs.finish(60))
    assert plain(logged.rows) == [(i, {"loss": i}) for i in range(len(logged.rows))]
    assert logged == all_of(tmp_path)


def test_all_runs_of_a_program_are_read(tmp_path: Path) -> None:
    """A sweep's run has one id, whatever the program asks for."""
    run(
        "import wandb\nfor i, name in enumerate([None, None, 'own']):\n"
        "    with wandb.init(id=name, config={f'c{i}': i}) as run: run.log({'a': i})\n",
        tmp_path,
        "r1",
    )
    logged = all_of(tmp_path)
    assert plain(logged.rows) == [(0, {"a": 0}), (0, {"a": 1}), (0, {"a": 2})]
    assert logged.config == {"c0": 0, "c1": 1, "c2": 2}
    assert logged.summary == {"a": 2}


def test_runs_of_other_ids_count_only_without_one_of_the_right_id(tmp_path: Path) -> None:
    """The folds of a cross-validation are runs of their own, beside the sweep's run."""
    fold = (
        "import os, wandb\nfor name in list(os.environ):\n"
        "    if name in ('WANDB_RUN_ID', 'WANDB_SWEEP_ID', 'WANDB_SWEEP_PARAM_PATH'):\n"
        "        del os.environ[name]\n"
        "with wandb.init(id='fold') as run:\n    run.log({'a': 1})\n"
    )
    run(fold, tmp_path, "r1")
    assert plain(all_of(tmp_path).rows) == [(0, {"a": 1})]
    run("import wandb\nwandb.init().log({'a': 5})", tmp_path, "r1")
    assert plain(all_of(tmp_path).rows) == [(0, {"a": 5})]


def test_a_log_in_a_folder_of_the_programs_choice_is_found(tmp_path: Path) -> None:
    """PyTorch Lightning writes below its working folder, whatever WANDB_DIR says."""
    code = (
        "import os, time, wandb\n"
        "run = wandb.init(dir='..', settings=wandb.Settings(x_disable_stats=True))\n"
        "run.log({'a': 1})\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    (tmp_path / "run").mkdir()
    logs = TransactionLogs(tmp_path / "run", "r1")
    program = start(code, tmp_path / "run", "r1")
    logged = read_until(logs, lambda logged: bool(logged.rows))
    (tmp_path / "run/go").touch()
    assert program.wait() == 0
    logged.add(logs.finish(60))
    assert plain(logged.rows) == [(0, {"a": 1})]
    assert log_file(tmp_path / "run").samefile(log_file(tmp_path))


def test_a_log_below_the_working_folder_is_found_at_the_end(tmp_path: Path) -> None:
    for i in range(2):  # the first one is an earlier attempt's
        logs = TransactionLogs(tmp_path / "run", "r1", working_folder=tmp_path)
        run(f"import wandb\nwandb.init().log({{'a': {i}}})", tmp_path, "r1")
        run("import wandb\nwandb.init().log({'a': 5})", tmp_path, "other")
        assert plain(logs.finish(60).rows) == [(0, {"a": i})]
        shutil.rmtree(tmp_path / "run")


def test_logs_of_earlier_attempts_are_ignored(everything: Path) -> None:
    logs = TransactionLogs(everything, "r1", ignore=[log_file(everything).parent])
    assert logs.finish(60) == Logged()
    assert not logs.exists


def test_a_log_that_grows_in_odd_pieces_gives_the_same(everything: Path, tmp_path: Path) -> None:
    source = log_file(everything)
    content = source.read_bytes()
    copy = tmp_path / "wandb" / source.parent.name / source.name
    copy.parent.mkdir(parents=True)
    logs = TransactionLogs(tmp_path, "r1")
    logged = Logged()
    for end in (0, 3, 7, 8, len(content) // 3, len(content) // 2, len(content) - 1, len(content)):
        copy.write_bytes(content[:end])
        logged.add(logs.read())
        time.sleep(0.05)
    logged.add(logs.finish(60))
    assert logged == all_of(everything)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_log_that_is_cut_short_gives_its_beginning(
    everything: Path, tmp_path: Path, share: float
) -> None:
    source = log_file(everything)
    copy = tmp_path / "wandb" / source.parent.name / source.name
    shutil.copytree(source.parent, copy.parent)
    os.truncate(copy, int(source.stat().st_size * share))
    rows = plain(all_of(tmp_path).rows)
    assert rows == ROWS[: len(rows)]
    assert bool(rows) == (share >= 0.5)


def test_the_end_of_a_long_log_comes_from_its_follower(
    tmp_path: Path, logs: TransactionLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take long to read it again."""
    monkeypatch.setattr(transaction_log, "SHORT_LOG", 0)
    monkeypatch.setattr(transaction_log, "FOLLOWER_SECONDS", 60.0)
    code = (
        "import os, time, wandb\nrun = wandb.init()\nrun.log({'a': 0})\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "for i in range(1, 500): run.log({'a': i, 'text': 'x' * 1000})\n"
    )
    program = start(code, tmp_path, "r1")
    logged = read_until(logs, lambda logged: bool(logged.rows))
    (log,) = logs.logs.values()
    follower = log.process
    assert follower is not None
    (tmp_path / "go").touch()
    assert program.wait() == 0
    logged.add(logs.finish(60))
    assert follower.returncode is not None
    assert plain(logged.rows) == [(i, {"a": i}) for i in range(500)]


def test_nothing_is_left_running_after_close(tmp_path: Path, logs: TransactionLogs) -> None:
    program = start("import time, wandb\nwandb.init()\ntime.sleep(1000)", tmp_path, "r1")
    read_until(logs, lambda logged: any(log.process for log in logs.logs.values()))
    (log,) = logs.logs.values()
    follower = log.process
    assert follower is not None
    logs.close()
    assert follower.returncode is not None
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def test_an_unreadable_log_is_an_error_with_the_command_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "wandb/offline-run-20260101_000000-r1/run-r1.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no log of the client")
    with pytest.raises(TransactionLogError) as caught:
        TransactionLogs(tmp_path, "r1").finish(60)
    reason, _, command = str(caught.value).partition("; see why with: ")
    assert "cannot read it" in reason
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode
    assert done.stderr


def test_reading_imports_no_client() -> None:
    code = (
        "import sys, json\n"
        "from fundamentallm.sweep.program.transaction_log import inspect_program\n"
        "inspect_program()\nprint(json.dumps([m for m in sys.modules if m.startswith('wandb')]))"
    )
    printed: Any = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert printed == []
