"""A sweep on W&B is reported as its run folders are: the real client and agent, the test server."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from client_environments import environment
from conftest import ROOT
from results_on_disk import write_sweep
from tiny_sweep import FLAGS
from wandb_client import VARYING, Client
from wandb_server import Run, Sweep, WandbServer

from fundamentallm.cli.main import main
from fundamentallm.files.samples import Sample
from fundamentallm.report import wandb_download
from fundamentallm.report.explain import explain
from fundamentallm.report.read_runs import ReportError
from fundamentallm.report.read_wandb import read_wandb_sweep
from fundamentallm.trackers.wandb_presentation import samples_page

DUMP = """
import json, os, sys
from dataclasses import asdict
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.read_wandb import read_wandb_sweep
from fundamentallm.trackers.wandb_presentation import samples_page

def plain(run):
    curves = {name: [curve.steps, curve.values] for name, curve in run.curves.items()}
    found = asdict(run)
    return found | {"curves": curves, "samples": found["samples"][-1:]}

on_wandb = read_wandb_sweep(sys.argv[1])
here = read_results(["runs"]).runs if os.path.exists("runs") else []
found = {"wandb": list(map(plain, on_wandb.runs)), "here": list(map(plain, here))}
print(json.dumps(found | {"sweep": dict(on_wandb.sweep.content), "notes": on_wandb.notes}))
"""

PROGRAM = """
import time, wandb
run = wandb.init()
run.config.update({"started": time.time()})
for step in range(3):
    bonus = {"sgd": 0.2, "adam": 0.1}[run.config["opt"]["name"]]
    run.log({"eval": {"acc": bonus + run.config["net"]["width"] / 10 - 0.01 * step}})
"""


@pytest.mark.nightly
@pytest.mark.parametrize("version", ["", "0.28.2", "0.21.4"])
def test_a_sweep_on_wandb(tmp_path: Path, text_file: Path, version: str) -> None:
    parameters = {
        "learning_rate": {"values": [0.001, 0.003]},
        "shape": {"values": [{"num_heads": 2}, {"num_heads": 5}]},  # 5 is impossible
        "data": {"value": str(text_file)},
    }
    flags = [flag for flag in FLAGS if "heads" not in flag] + ["--max-steps=24", "--eval-every=8"]
    metric = {"name": "val_loss", "goal": "minimize"}
    with WandbServer() as server:
        python = environment(version) if version else sys.executable
        client = Client(server, tmp_path, python, WANDB_PROJECT="my p")
        sweep = client.sweep(
            {"method": "grid", "metric": metric, "parameters": parameters,
             "command": ["${env}", "${interpreter}", "${program}", "${args}", *flags]}
        )  # fmt: skip
        empty = client.run("fundamentallm", "report", sweep.path, code=2)
        assert "no run of this sweep has started; start one with wandb agent " in empty.stdout
        assert f"wandb agent '{sweep.path}'" in empty.stdout
        client.run("wandb", "agent", sweep.path)

        client.run("fundamentallm", "report", sweep.path)
        page = (tmp_path / "report.html").read_text()
        said = client.run("fundamentallm", "explain", sweep.path).stdout
        following = client.run("fundamentallm", "compare", sweep.path, "--json").stdout
        dumped = client.run("python", "-c", DUMP, sweep.path).stdout
        missing = client.run("fundamentallm", "report", "tester/p/none", code=2)
        assert server.refused == []
    assert missing.stdout.count("\n") == 1
    assert "tester/p/none" in missing.stdout
    assert "What the models wrote" in page
    assert "best val_loss" in said
    assert len(json.loads(following)["learning_rate"]) == 4
    found = json.loads(dumped.splitlines()[-1])
    assert found["notes"] == []
    assert found["sweep"]["parameters"] == parameters
    trained = [run for run in found["wandb"] if run["status"] == "done"]
    assert len(trained) == 2
    assert [run["status"] for run in found["wandb"]].count("impossible") == 2

    def rate(run: dict) -> float:
        return run["settings"]["learning_rate"]

    here = sorted((run for run in found["here"] if run["status"] == "done"), key=rate)
    for ours, theirs in zip(here, sorted(trained, key=rate), strict=True):
        assert ours["samples"] == theirs["samples"] != []
        assert ours["score"] == theirs["score"]
        assert ours["settings"].items() <= theirs["settings"].items()
        for name, curve in ours["curves"].items():
            assert theirs["curves"][name] == curve or name in VARYING, name


@pytest.mark.nightly
@pytest.mark.parametrize("version", ["", "0.28.2", "0.21.4"])
def test_another_program_on_wandb(tmp_path: Path, version: str) -> None:
    """Values that are mappings, and nested names; the client is of any version."""
    (tmp_path / "theirs.py").write_text(PROGRAM)
    choices = [{"name": "sgd", "momentum": 0.9}, {"name": "adam"}]
    parameters = {"opt": {"values": choices}, "net": {"parameters": {"width": {"values": [1, 2]}}}}
    config = {
        "program": "theirs.py", "method": "grid", "parameters": parameters,
        "metric": {"name": "eval.acc", "goal": "maximize"},
    }  # fmt: skip
    with WandbServer() as server:
        client = Client(server, tmp_path, environment(version) if version else sys.executable)
        sweep = client.sweep(config)
        client.run("wandb", "agent", sweep.path)
        dumped = client.run("python", "-c", DUMP, sweep.path).stdout
        said = client.run("fundamentallm", "explain", sweep.path).stdout
        client.run("fundamentallm", "report", sweep.path)
        following = client.run("fundamentallm", "next", sweep.path, code=None).stdout
        assert server.refused == []
    found = json.loads(dumped.splitlines()[-1])["wandb"]
    settings = [{n: run["settings"][n] for n in ("opt", "net.width")} for run in found]
    assert settings == [{"opt": opt, "net.width": width} for width in (1, 2) for opt in choices]
    assert [run["score"] for run in found] == pytest.approx([0.3, 0.2, 0.4, 0.3])
    assert "best eval.acc: 0.4000" in said
    assert "opt (sgd, momentum=0.9)" in " ".join(said.split())
    assert "val_loss" not in said + following


SWEEP = {
    "program": "train.py",
    "method": "grid",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "parameters": {"learning_rate": {"values": [0.001, 0.003, 0.01, 0.03]}},
}
SETTINGS = {"data": "cats.txt", "data_sha256": "0" * 64, "seed": 0}
SAMPLE = [24, "The", 0.8, " cats </script> sat"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that this process would ask."""
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def new_sweep(server: WandbServer, called: str = "s", **content: Any) -> Sweep:
    sweep = Sweep("p", called, {**SWEEP, **content})
    server.store.sweeps["p", called] = sweep
    return sweep


def add_run(
    server: WandbServer, sweep: Sweep, name: str, losses: Sequence[float] = (), **fields: Any
) -> Run:
    """Store a run of our trainer that logged these losses, best first or not."""
    settings = {**SETTINGS, "learning_rate": 0.001 * (1 + len(sweep.runs))}
    rows = [
        {"_step": 8 * n, "train_loss": loss + 0.1, "val_loss": loss}
        for n, loss in enumerate(losses)
    ]
    config = {key: {"value": value} for key, value in settings.items()}
    ended = {"status": "done", "val_loss": losses[-1], "best_val_loss": min(losses)} if rows else {}
    run = Run(
        sweep.project,
        name,
        display_name=fields.pop("display_name", f"run of {name}"),
        state=fields.pop("state", "finished"),
        config={**config, **fields.pop("config", {})},
        summary={**ended, "_runtime": 3, **fields.pop("summary", {})},
        history=rows,
        history_lines=len(rows),
        sweep=sweep.name,
        **fields,
    )
    sweep.runs.append(run)
    server.store.runs[sweep.project, name] = run
    return run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command and returns what it prints."""

    def run(*words: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = "".join(capsys.readouterr())
        assert ended.value.code == code, said
        return said

    return run


def test_runs_in_every_state(server: WandbServer, tmp_path: Path, cli: Callable[..., str]) -> None:
    sweep = new_sweep(server)
    add_run(server, sweep, "a", [2.0, 1.5, 1.7])
    add_run(server, sweep, "b", [1.9], display_name="", state="running", summary={"status": ""})
    add_run(server, sweep, "c", [1.8], state="failed", summary={"status": ""})
    add_run(server, sweep, "d", [], state="crashed", summary={"samples": "none"})
    add_run(server, sweep, "e", [], state="pending", display_name="run of c", summary={"_step": 0})
    add_run(server, sweep, "f", [1.6], tags=["diverged"], config={"x": 1, "y": {"value": {}}})
    results = read_wandb_sweep(sweep.path)
    found = {run.name: (run.status, run.score) for run in results.runs}
    assert found == {
        "run of a": ("done", 1.5),
        "b": ("running", 1.9),
        "run of c (c)": ("failed", 1.8),
        "run of d": ("interrupted", None),
        "run of c (e)": ("unfinished", None),
        "run of f": ("diverged", 1.6),
    }
    assert results.notes == []
    assert [run.location for run in results.ranked] == ["tester/p/a"]
    said = cli("report", sweep.path, "--output", tmp_path / "r.html")
    assert "3 runs, 1 running" in said  # of a grid of four
    assert server.refused == []


def test_a_new_sweep_learns_from_one_on_wandb(
    server: WandbServer, tmp_path: Path, text_file: Path, cli: Callable[..., str]
) -> None:
    sweep = new_sweep(server)
    sha256 = hashlib.sha256(text_file.read_bytes()).hexdigest()
    for name, text in (("a", sha256), ("b", sha256), ("c", "0" * 64)):
        add_run(server, sweep, name, [2.0, 1.5], config={"data_sha256": {"value": text}})
    add_run(server, sweep, "d", [1.8], state="running")
    file = tmp_path / "new.yaml"
    rate = {"min": 0.0001, "max": 0.0015}
    file.write_text(json.dumps({**SWEEP, "method": "bayes", "parameters": {"learning_rate": rate}}))
    (tmp_path / "train.py").write_text((ROOT / "train.py").read_text())
    command = ("sweep", file, text_file, "--dry-run", "--output-dir", tmp_path / "new", "--from")
    said = cli(*command, sweep.path)
    assert (
        f"{sweep.path}: 1 of 4 runs used; 1 has learning_rate 0.002, outside this sweep's 0.0001 "
        "to 0.0015; 1 was trained on another text; 1 has not finished"
    ) in said
    assert "--learning-rate=0.001" not in said.splitlines()[-5]  # the defaults, which it knows
    assert server.refused == []


def test_a_sweep_without_results(server: WandbServer, cli: Callable[..., str]) -> None:
    sweep = new_sweep(server)
    said = cli("explain", sweep.path, code=2)
    assert said.endswith(
        f"run of this sweep has started; start one with wandb agent {sweep.path}\n"
    )
    add_run(server, sweep, "a", state="running")
    assert cli("explain", sweep.path).endswith("note: no run has logged a metric yet\n")
    assert cli("next", sweep.path, code=2).count("\n") == 1


def test_many_runs_over_a_network_that_breaks(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each page is asked for again where it failed, and nothing before it."""
    sweep = new_sweep(server)
    for n in range(250):
        add_run(server, sweep, f"r{n}", [2 + n / 1000, 1 + n / 1000])
    asked: list[str] = []
    faults = {
        ("Runs", 2): 500,
        ("Runs", 3): -1,
        ("HistoryPage", 100): 429,
        ("HistoryPage", 200): -1,
    }

    def fault(operation: str) -> int:
        asked.append(operation)
        return faults.get((operation, asked.count(operation)), 0)

    server.fault = fault
    lines: list[str] = []
    results = read_wandb_sweep(sweep.path, progress=lines.append)
    assert [run.score for run in results.runs] == [1 + n / 1000 for n in range(250)]
    assert (asked.count("Sweep"), asked.count("Runs"), asked.count("HistoryPage")) == (1, 5, 252)
    assert results.notes == []
    assert lines[:3] == ["100 of 250 runs", "200 of 250 runs", "250 of 250 runs"]
    assert lines[-1] == "250 runs, curves of 250"
    (warning,) = caplog.messages
    assert warning.endswith("HTTP 500: fault set by the test; trying again for at most 90 s")


def lost_from(operation: str, number: int = 1) -> Callable[[str], int]:
    """Return a fault: the connection is lost for ever at this request."""
    asked: list[str] = []

    def fault(name: str) -> int:
        asked.append(name)
        return -1 if asked.count(operation) >= number else 0

    return fault


def test_scores_come_from_summaries_if_histories_cannot_be_read(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_download, "OUTAGE_SECONDS", 0.5)
    sweep = new_sweep(server)
    for n in range(12):
        add_run(server, sweep, f"r{n}", [2.0, 1.5 + n / 100, 1.9])
    server.fault = lost_from("HistoryPage")
    results = read_wandb_sweep(sweep.path)
    assert [run.score for run in results.ranked] == [1.5 + n / 100 for n in range(12)]
    (note,) = results.notes
    assert note.startswith("the curves of 12 of 12 runs cannot be read from W&B (http://")
    assert note.endswith("W&B's summaries give their scores, if they have any")
    assert len(server.requests) < 50  # the runs do not wait for W&B one after the other


def test_a_run_that_is_deleted_meanwhile(server: WandbServer) -> None:
    sweep = new_sweep(server)
    for name in "abc":
        add_run(server, sweep, name, [1.5])

    def fault(operation: str) -> int:
        if operation == "HistoryPage":
            server.store.runs.pop(("p", "b"), None)
        return 0

    server.fault = fault
    results = read_wandb_sweep(sweep.path)
    assert [len(run.curves) for run in results.runs] == [2, 0, 2]
    (note,) = results.notes
    assert note.startswith("the curves of 1 of 3 runs cannot be read from W&B (")


def test_a_time_limit_for_everything(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_download, "TOTAL_SECONDS", -1)
    sweep = new_sweep(server)
    add_run(server, sweep, "a", [1.5])
    with pytest.raises(ReportError, match="not within -1 s"):
        read_wandb_sweep(sweep.path)


def test_an_outage_between_pages(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_download, "OUTAGE_SECONDS", 0.5)
    sweep = new_sweep(server)
    for n in range(150):
        add_run(server, sweep, f"r{n}")
    server.fault = lost_from("Runs", 2)
    with pytest.raises(ReportError, match=r"does not answer \(.*\), after 100 runs$"):
        read_wandb_sweep(sweep.path)


def test_no_connection_at_all(monkeypatch: pytest.MonkeyPatch, cli: Callable[..., str]) -> None:
    """Before W&B has answered once, a failure is final."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    said = cli("report", "e/p/s", code=2)
    assert said.count("\n") == 1
    assert "e/p/s: cannot be read from W&B: http://127.0.0.1:9 does not answer (" in said


@pytest.mark.parametrize(
    ("status", "said"), [(401, "see wandb login"), (404, "check the address"), (500, "HTTP 500")]
)
def test_wandb_refuses(server: WandbServer, status: int, said: str) -> None:
    server.status = status
    with pytest.raises(ReportError, match=f"^tester/p/abc: cannot be read from W&B: .*{said}"):
        read_wandb_sweep("tester/p/abc")


@pytest.mark.parametrize("runs", [{"edges": [{}]}, {"edges": 1}, []])
def test_answers_of_another_form(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, runs: object
) -> None:
    sweep = new_sweep(server)
    monkeypatch.setattr(
        server.operations, "Runs", lambda v: {"project": {"runs": runs}}, raising=False
    )
    with pytest.raises(ReportError):
        read_wandb_sweep(sweep.path)


def test_no_such_sweep_and_no_key(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReportError, match="has no such sweep; check the address"):
        read_wandb_sweep("tester/p/none")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", "none")
    with pytest.raises(ReportError, match="no W&B key was found; see wandb login"):
        read_wandb_sweep("tester/p/none")


def page(*rows: Sequence[Any]) -> bytes:
    return samples_page([(step, Sample(*rest)) for step, *rest in rows]).encode()


@pytest.mark.parametrize(
    ("path", "content", "count"),
    [
        ("media/table/samples_24_ab.table.json", json.dumps({"data": [SAMPLE]}).encode(), 1),
        ("media/html/samples_24_ab.html", page(SAMPLE, SAMPLE), 2),
        ("media/html/samples_24_ab.html", page(*[SAMPLE] * 10_000), 0),
        ("media/html/samples_24_ab.html", b"\xff", 0),
        ("media/html/samples_24_ab.html", b"<p>another program's", 0),
        ("media/html/../../config.yaml", page(SAMPLE), 0),
        ("media/table/x.table.json", b"[" * 100_000, 0),
    ],
)
def test_samples(server: WandbServer, path: str, content: bytes, count: int) -> None:
    sweep = new_sweep(server)
    run = add_run(server, sweep, "a", [1.5], summary={"samples": {"path": path}})
    run.files.append(path)
    server.store.blobs[f"runs/a/{path}"] = content
    (found,) = read_wandb_sweep(sweep.path).runs
    assert [(step, *vars(sample).values()) for step, sample in found.samples] == [
        tuple(SAMPLE)
    ] * count


def test_several_sweeps_and_a_folder(
    server: WandbServer, tmp_path: Path, cli: Callable[..., str]
) -> None:
    first, second = new_sweep(server, "s1"), new_sweep(server, "s2", name="other")
    add_run(server, first, "a", [1.5], display_name="same")
    add_run(server, second, "b", [1.4], display_name="same")
    add_run(server, second, "c", [1.6])
    folder = write_sweep(tmp_path, {0.001: [1.3], 0.01: [1.7]})
    page = tmp_path / "r.html"
    assert "3 runs" in cli("report", first.path, second.path, first.path, "--output", page)
    assert "tester/p/s1/same" in page.read_text()
    said = cli("explain", folder, second.path, first.path)
    assert "best val_loss: 1.3000 (run-0001" in said
    assert "refine" not in said
    assert "give one sweep" in cli("next", first.path, second.path, code=2)


def test_several_sweeps_with_other_metrics(server: WandbServer, cli: Callable[..., str]) -> None:
    first = new_sweep(server, "s1", metric={"name": "train_loss"})
    second = new_sweep(server, "s2")
    add_run(server, first, "a", [1.5])
    add_run(server, second, "b", [1.7])
    said = cli("compare", first.path, second.path)
    assert "different metrics: train_loss (minimize), val_loss (minimize)" in " ".join(said.split())
    assert "1.5000" in said
    assert "1.7000" in said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["refine", "--epochs=1"], "for a sweep on W&B, repeat the best with more seeds there"),
        (["agent"], "for a sweep on W&B, start runs with wandb agent e/p/s"),
        (["check"], "give a sweep file"),
        (["sweep"], "give a sweep file"),
        (["train"], "give a UTF-8 text file"),
        (["find", "learning-rate"], "give a UTF-8 text file"),
        (["generate"], "give a run or a checkpoint"),
    ],
)
def test_commands_that_take_no_sweep_on_wandb(
    command: list[str], said: str, cli: Callable[..., str]
) -> None:
    line = cli(*command, "e/p/s", code=2)
    assert line.count("\n") == 1
    assert "e/p/s: " in line
    assert line.endswith(f"{said}\n")


def test_no_advice_that_a_sweep_on_wandb_refuses(server: WandbServer) -> None:
    """Such as `refine`; and a tie is no lead of 0.0000."""
    sweep = new_sweep(server)
    for name, loss in (("a", 1.5), ("b", 1.6), ("c", 1.5)):
        add_run(server, sweep, name, [loss])
    winner = next(c for c in explain(read_wandb_sweep(sweep.path)) if c.rule == "winner")
    assert winner.verdict == "tied"
    assert winner.says == (
        "best val_loss: 1.5000 (run of a: learning_rate 0.001), tied with 1.5000 "
        "(run of c: learning_rate 0.003); nothing tells them apart"
    )
    add_run(server, sweep, "d", [1.4])
    winner = next(c for c in explain(read_wandb_sweep(sweep.path)) if c.rule == "winner")
    assert winner.says.endswith("by 0.1000; this may be chance: no seed was repeated")


def test_only_runs_that_have_more_rows_are_read_again(server: WandbServer) -> None:
    sweep = new_sweep(server)
    for name in "ab":
        grown = add_run(server, sweep, name, [2.0, 1.5])
    read_wandb_sweep(sweep.path)
    grown.history.append({"_step": 16, "val_loss": 1.4})
    grown.history_lines += 1
    server.requests.clear()
    assert [run.score for run in read_wandb_sweep(sweep.path).runs] == [1.5, 1.4]
    assert server.requests.count("HistoryPage") == 1


def test_watching_through_an_outage(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., str], tmp_path: Path
) -> None:
    sweep = new_sweep(server, parameters={"learning_rate": {"value": 0.001}}, run_cap=1)
    run = add_run(server, sweep, "a", [1.5], state="running", summary={"status": ""})
    asked: list[str] = []

    def fault(operation: str) -> int:
        asked.append(operation)
        if asked.count("Sweep") == 2:
            return 503
        if asked.count("Sweep") == 3:
            run.state = "finished"
        return 0

    server.fault = fault
    said = cli("report", sweep.path, "--output", tmp_path / "r.html", "--watch", 1)
    assert "r.html: 0 of 1 run, 1 running\n" in said
    assert "r.html: 1 run\n" in said
    assert said.count("HTTP 503: fault set by the test; the page stays as it is") == 1


def test_a_sweep_is_read_without_the_client_and_torch(server: WandbServer) -> None:
    sweep = new_sweep(server)
    add_run(server, sweep, "a", [1.5])
    code = (
        "import sys\n"
        "sys.modules['wandb'] = sys.modules['torch'] = None\n"
        "from fundamentallm.cli.main import main\n"
        f"main(['explain', {sweep.path!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "best val_loss: 1.5000" in done.stdout
    assert done.stderr == ""


def test_progress_in_a_terminal(server: WandbServer) -> None:
    sweep = new_sweep(server)
    add_run(server, sweep, "a", [1.5])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fundamentallm", "explain", sweep.path]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "tester/p/s: 1 of 1 runs " in shown
    assert "tester/p/s: 1 runs, curves of 1 " in shown
    assert shown.endswith(" \r")


@pytest.mark.parametrize("told", [True, False])
def test_long_histories_come_whole(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """W&B samples a page with more rows than asked for, and may not say how many there are."""
    monkeypatch.setattr(wandb_download, "ROWS_PER_PAGE", 20)
    sweep = new_sweep(server)
    losses = [2 - n / 100 for n in range(50)]
    run = add_run(server, sweep, "a", losses)
    history_page = server.operations.HistoryPage

    def sampled(v: dict[str, Any]) -> dict[str, Any]:
        answer = history_page(v)
        rows = answer["project"]["run"]["history"]
        rows[:] = rows[:: -(-len(rows) // v["pageSize"]) or 1]
        return answer

    monkeypatch.setattr(server.operations, "HistoryPage", sampled, raising=False)
    if not told:
        run.history_lines = 0
    (found,) = read_wandb_sweep(sweep.path).runs
    assert list(found.curve("val_loss").values) == losses
