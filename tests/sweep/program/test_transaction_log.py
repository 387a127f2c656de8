"""Metrics of programs with the real W&B client, read from its transaction log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client_environments import NIGHTLY, environment
from conftest import ROOT
from offline_program import run, start

from fundamentallm.sweep.program.log_records import (
    BLOCK,
    CHUNK,
    FULL,
    HEADER,
    LogRecords,
    TransactionLogError,
    chunk_checksum,
)
from fundamentallm.sweep.program.logged import Logged, LoggedRow, numbers
from fundamentallm.sweep.program.transaction_log import TransactionLogs, without_own_names

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
def logs(tmp_path: Path) -> TransactionLogs:
    """Logs of a run `r1` in `tmp_path`."""
    return TransactionLogs(tmp_path, "r1")


def all_of(folder: Path, run_id: str = "r1") -> Logged:
    """Return what a finished run logged."""
    return TransactionLogs(folder, run_id).finish(60)


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


def test_a_log_of_an_old_client_gives_the_same() -> None:
    """Wandb 0.17.9 wrote this one: the summary comes last, and without two values."""
    logged = all_of(ROOT / "tests/fixtures/wandb-0.17")
    assert plain(logged.rows) == ROWS
    assert logged.config == CONFIG
    known = {name: value for name, value in SUMMARY.items() if name not in ("eval.loss", "s")}
    assert {name: logged.summary[name] for name in known} == known


@pytest.mark.nightly
@pytest.mark.parametrize("version", NIGHTLY)
def test_other_clients_write_the_same(tmp_path: Path, version: str) -> None:
    """A table is left out, for which wandb 0.18 asks W&B even offline."""
    code = EVERYTHING.replace('"table": table, ', "")
    run(code, tmp_path, "r1", {"lr": 0.3, "sizes": [8, 8]}, python=environment(version))
    logged = all_of(tmp_path)
    assert plain(logged.rows) == ROWS
    assert logged.config == CONFIG
    assert {name: logged.summary[name] for name in SUMMARY} == SUMMARY


@pytest.mark.nightly
@pytest.mark.parametrize("version", NIGHTLY)
def test_other_clients_store_all_rows_when_interrupted(tmp_path: Path, version: str) -> None:
    """SIGINT comes first when a run is stopped, because SIGTERM loses what is not yet written."""
    code = (
        "import pathlib, time, wandb\nrun = wandb.init()\n"
        "for i in range(40): run.log({'loss': i})\n"
        "pathlib.Path('ready').touch()\ntime.sleep(1000)\n"
    )
    program = start(code, tmp_path, "r1", python=environment(version))
    while not (tmp_path / "ready").exists():
        assert program.poll() is None
        time.sleep(0.05)
    os.killpg(program.pid, signal.SIGINT)
    program.wait()
    assert plain(all_of(tmp_path).rows) == [(i, {"loss": i}) for i in range(40)]


def test_rows_are_those_that_the_client_prints(everything: Path) -> None:
    """Another reader of the same log confirms ours."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", log_file(everything)]
    printed = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
    histories = [line["history"] for line in map(json.loads, printed.splitlines())
                 if line["type"] == "history"]  # fmt: skip
    metrics = [without_own_names(numbers(each["item"])) for each in histories]
    steps = [each["step"]["num"] for each in histories]
    assert [row for row in zip(steps, metrics, strict=True) if row[1]] == ROWS


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


def test_a_damaged_log_loses_no_more_than_a_block(tmp_path: Path) -> None:
    """Rows before the damage are read while the program runs, and those after it later."""
    code = (
        "import wandb\nrun = wandb.init()\n"
        "for i in range(500): run.log({'a': i, 'text': 'x' * 1000})"
    )
    run(code, tmp_path, "r1")
    file = log_file(tmp_path)
    with file.open("r+b") as damaged:
        damaged.seek(2 * BLOCK + 999)
        damaged.write(b"damaged")
    steps = [row.step for row in all_of(tmp_path).rows]
    assert steps == sorted(set(steps))
    assert 500 - BLOCK // 1000 - 2 <= len(steps) < 500
    assert (steps[0], steps[-1]) == (0, 499)


def test_a_record_of_many_blocks_is_read_and_a_huge_one_is_left_out(tmp_path: Path) -> None:
    code = (
        "import wandb\nrun = wandb.init()\n"
        "for i, size in enumerate([100_000, 18_000_000, 1]): run.log({'a': i, 'text': 'x' * size})"
    )
    run(code, tmp_path, "r1")
    assert plain(all_of(tmp_path).rows) == [(0, {"a": 0}), (2, {"a": 2})]


def packed(record: bytes) -> bytes:
    """Return a record that is one chunk."""
    return CHUNK.pack(chunk_checksum(FULL, record), len(record), FULL) + record


def test_records_of_other_kinds_are_skipped(everything: Path, tmp_path: Path) -> None:
    """Later clients may add kinds of records, and write some as no protocol buffer at all."""
    source = log_file(everything)
    copy = tmp_path / "wandb" / source.parent.name / source.name
    copy.parent.mkdir(parents=True)
    content = HEADER
    others = (b"\xff" * 30, b"\x0b\x01", b"\xf2\x3f\x02hi")
    for chunks in LogRecords(source).read():
        for record in (*others, b"".join(chunk.data for chunk in chunks)):
            left = BLOCK - len(content) % BLOCK
            if left < CHUNK.size + len(record):  # fill the block with a record of zeros
                content += packed(bytes(left - CHUNK.size))
            content += packed(record)
    copy.write_bytes(content)
    assert all_of(tmp_path) == all_of(everything)


@pytest.mark.parametrize("start", [b"this is no log of the client", b":W&B\xe1\xbe\x01 and so on"])
def test_an_unknown_layout_is_an_error_that_says_what_to_do(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "wandb/offline-run-20260101_000000-r1/run-r1.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(start)
    with pytest.raises(TransactionLogError, match=rf"{path}: not a transaction log.*--metrics"):
        TransactionLogs(tmp_path, "r1").finish(60)


def test_reading_needs_no_client() -> None:
    code = (
        "import sys, json, fundamentallm.sweep.program.transaction_log\n"
        "print(json.dumps([m for m in sys.modules if m.startswith('wandb')]))"
    )
    printed: Any = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert printed == []
