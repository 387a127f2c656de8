"""`run_sweep` and `load_sweep`, with the real W&B client offline."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import wandb
from conftest import ROOT, Run
from tiny_sweep import metric_rows, summaries, trials, wait_for

import fundamentallm
from fundamentallm import FundamentallmError, SweepResults, load_sweep, run_sweep
from fundamentallm.trackers import wandb_client

# W&B's client leaves a file of parameters open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
RUNS = ["run-0001", "run-0002", "run-0003"]
GRID = {
    "method": "grid",
    "metric": {"name": "loss"},
    "parameters": {
        "lr": {"values": [0.1, 0.4, 0.2]},
        "optimizer": {"parameters": {"beta": {"value": 0.9}}},
    },
}


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write runs/ into the test's folder, and leave no session of the client."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb_client.end()


def of(**changes: Any) -> dict[str, Any]:
    """Return the grid with other fields."""
    return {**GRID, **changes}


def of_one(value: Any) -> dict[str, Any]:
    """Return a grid of one run."""
    return of(parameters={"lr": {"value": value}})


def table(results: SweepResults) -> list[dict[str, Any]]:
    """Return the runs as dicts, whether pandas is installed or not."""
    runs = results.runs
    return runs if isinstance(runs, list) else runs.to_dict("records")


def test_a_function_runs_in_this_thread_with_state_that_stays(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    lock = threading.Lock()  # cannot be pickled
    threads: set[int] = set()
    streams: list[Any] = []

    def train() -> None:
        with lock:
            threads.add(threading.get_ident())
        run = wandb.init()
        seen.append(dict(wandb.config))
        for step in range(4):
            run.log({"loss": (wandb.config.lr - 0.25) ** 2 + 1 / (step + 1), "eval/acc": step / 10})
        print("a line of run", run.id)
        streams.append(sys.stdout)  # as a logger would keep it
        print("a line by an earlier stream", file=streams[0])
        # It forgets run.finish().

    before = dict(os.environ)
    results = run_sweep(of(), train)
    assert dict(os.environ) == before
    assert [each["lr"] for each in seen] == [0.1, 0.4, 0.2]
    assert all(each["optimizer"] == {"beta": 0.9} for each in seen)
    assert threads == {threading.get_ident()}
    folder = tmp_path / "runs/train"
    assert sorted(path.name for path in folder.glob("run-*")) == [
        "run-0001",
        "run-0002",
        "run-0003",
    ]
    first = folder / "run-0001"
    assert metric_rows(first) == [
        {"step": step, "loss": (0.1 - 0.25) ** 2 + 1 / (step + 1), "eval/acc": step / 10}
        for step in range(4)
    ]
    output = (first / "output.txt").read_text()
    assert "a line of run" in output
    assert output.count("a line by an earlier stream") == 1
    assert "optimizer.beta: 0.9" in (first / "config.yaml").read_text()
    summary = summaries(folder)["run-0001"]
    assert (summary["status"], summary["program"], summary["exit_code"]) == ("done", "train()", 0)
    assert len(list(first.glob("wandb/offline-run-*/*.wandb"))) == 1
    assert [trial.value for trial in trials(folder)] == pytest.approx([0.2725, 0.2725, 0.2525])
    check_results(results, folder)
    check_results(load_sweep("runs/train"), folder)


def test_seeds_repeat_the_best_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[float, int]] = []

    def train() -> None:
        run = wandb.init()
        lr, seed = wandb.config.lr, wandb.config.seed
        seen.append((lr, seed))
        run.log({"loss": lr + (0.0, 0.09, 0.03)[seed]})

    config = of(parameters={"lr": {"values": [0.1, 0.15, 9.0]}, "seed": {"value": 0}})
    results = run_sweep(config, train, seeds=3)
    assert seen[:3] == [(0.1, 0), (0.15, 0), (9.0, 0)]
    assert seen[3:5] == [(0.1, 1), (0.1, 2)]
    assert set(seen[5:]) <= {(0.15, 1), (0.15, 2)}
    assert "at most 9 runs, up to 3 seeds a configuration" in capsys.readouterr().err
    assert results.best is not None
    assert results.best.name == "run-0001"
    assert results.best.score == pytest.approx(0.1)
    assert "best loss 0.1400" in repr(results)  # the mean
    assert "mean of 3 seeds" in results.explain()
    run_sweep(config, train, seeds=3)  # resumes, and has nothing left
    assert len(seen) == len(set(seen))
    with pytest.raises(FundamentallmError, match="seeds was 3 and is 2"):
        run_sweep(config, train, seeds=2)
    with pytest.raises(FundamentallmError, match="several seeds need a parameter"):
        run_sweep(of(), train, seeds=3)


def check_results(results: SweepResults, folder: Path) -> None:
    assert results.best is not None
    assert (results.best.name, results.best.config["lr"]) == ("run-0003", 0.2)
    assert results.best.score == pytest.approx(0.2525)
    assert results.best.summary["eval/acc"] == 0.3
    assert results.best.folder.samefile(folder / "run-0003")
    assert results.folder.samefile(folder)
    rows = table(results)
    assert [(row["run"], row["status"], row["lr"]) for row in rows] == [
        ("run-0001", "done", 0.1),
        ("run-0002", "done", 0.4),
        ("run-0003", "done", 0.2),
    ]
    assert [row["loss"] for row in rows] == pytest.approx([0.2725, 0.2725, 0.2525])
    for run in (3, "run-0003", results.best):
        history = results.history(run)
        assert (
            [int(step) for step in history["step"]] == [0, 1, 2, 3]
            if not isinstance(history, list)
            else [row["step"] for row in history] == [0, 1, 2, 3]
        )
    with pytest.raises(KeyError, match="run-0004: no run of"):
        results.history(4)
    assert "The best" in results.explain()
    assert "run-0003" in results.explain()
    assert "3 runs, best loss 0.2525 (run-0003)" in repr(results)


@pytest.mark.slow
def test_other_commands_read_the_folder_but_do_not_resume_it(run: Run, tmp_path: Path) -> None:
    def train() -> None:
        with wandb.init() as started:
            started.log({"loss": started.config.lr})

    run_sweep(of(), train)
    assert "run-0001: lr 0.1" in run("explain", "runs/train").stdout
    assert run("report", "runs/train").returncode == 0
    refused = run("agent", "runs/train")
    assert refused.returncode == 2
    assert "Python started this sweep with the function train" in refused.stderr
    refused = run("sweep", "runs/train/sweep.yaml")
    assert refused.returncode == 2
    assert "only Python can start this sweep" in refused.stderr
    with pytest.raises(FundamentallmError, match="it ran the function train, not"):
        run_sweep(of(name="train"), other)


def other() -> None:
    """Do nothing."""


@pytest.mark.slow
def test_bayes_maximizes_and_a_second_call_adds_runs(tmp_path: Path) -> None:
    tried: list[float] = []

    def train() -> None:
        with wandb.init() as run:
            tried.append(run.config.x)
            run.log({"val/acc": 1 - (run.config.x - 0.7) ** 2})

    config = {
        "name": "peak",
        "method": "bayes",
        "metric": {"name": "val/acc", "goal": "maximize"},
        "run_cap": 8,
        "parameters": {"x": {"min": 0.0, "max": 1.0}},
    }
    run_sweep(config, train, count=3)
    assert len(tried) == 3
    results = run_sweep(config, train)
    assert len(tried) == 8
    assert results.best is not None
    assert results.best.config["x"] == min(tried, key=lambda x: abs(x - 0.7))


def test_an_endless_search_warns_unless_it_is_counted() -> None:
    config = {"method": "random", "parameters": {"lr": {"min": 0.1, "max": 0.2}}}
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="random never ends"):
        run_sweep(config, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.warns(UserWarning, match="no run has logged a metric yet"):
        results = load_sweep("runs/lambda")
    assert table(results)[0]["status"] == "interrupted"
    assert results.best is None


@pytest.mark.slow
def test_hyperband_stops_a_run_and_keeps_its_score() -> None:
    ends: list[str] = []

    def train() -> None:
        with wandb.init() as run:
            try:
                is_good = run.config.level > 0
                for _ in range(500 if is_good else 1000):
                    run.log({"acc": run.config.level})
                    time.sleep(0 if is_good else 0.05)
                if is_good:
                    return
                ends.append("never stopped")
            except Exception:
                ends.append("stopped by an ordinary exception")
            finally:
                ends.append("cleaned up")

    results = run_sweep(
        {
            "method": "grid",
            "metric": {"name": "acc", "goal": "maximize"},
            "early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 2},
            "parameters": {"level": {"values": [3, 2, -1, 4]}},
        },
        train,
    )
    assert ends == ["cleaned up"] * 4
    assert [row["status"] for row in table(results)] == ["done", "done", "stopped", "done"]
    assert [row["acc"] for row in table(results)] == [3, 2, -1, 4]
    stopped = summaries(results.folder)["run-0003"]
    assert (stopped["status"], stopped["stopped_by"]) == ("interrupted", "hyperband")


TRACED = """import sys, time
from fundamentallm import run_sweep

def train():
    for level in levels.pop():
        print('{"loss": %s}' % level, flush=True)
        time.sleep(0.05)

levels = [[2.0] * 1000, [1.0] * 9, [1.0] * 9]
stops = {"type": "hyperband", "min_iter": 3, "eta": 2}
grid = {"method": "grid", "metric": {"name": "loss"}, "parameters": {"n": {"values": [1, 2, 3]}}}
run_sweep({**grid, "early_terminate": stops}, train)

def trace(frame, event, argument):
    frame.f_trace_opcodes = True
    return trace

sys.settrace(trace)
(lambda: None)()
print("traced")
"""


@pytest.mark.slow
def test_a_debugger_works_after_a_sweep(tmp_path: Path) -> None:
    """Python 3.11 traces no function while an exception is pending in any thread."""
    (tmp_path / "script.py").write_text(TRACED)
    words = [sys.executable, "script.py"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.endswith("traced\n")
    statuses = [each["status"] for each in summaries(tmp_path / "runs/train").values()]
    assert statuses == ["done", "done", "interrupted"]


def test_an_error_fails_its_run_only(capsys: pytest.CaptureFixture[str]) -> None:
    is_right = False

    def train() -> None:
        with wandb.init() as run:
            run.log({"loss": 1.0})
            if run.config.lr == 0.4 and not is_right:
                raise ZeroDivisionError("as planned")

    results = run_sweep(of(), train)
    assert [row["status"] for row in table(results)] == ["done", "failed", "done"]
    output = (results.folder / "run-0002/output.txt").read_text()
    for text in (output, capsys.readouterr().err):
        assert 'raise ZeroDivisionError("as planned")' in text
        assert "function_trial.py" not in text
    assert summaries(results.folder)["run-0002"]["stopped_by"] == "ZeroDivisionError: as planned"
    is_right = True
    results = run_sweep(of(), train, retries=1)
    assert [row["status"] for row in table(results)] == ["done"] * 3


def test_three_failures_at_the_start_stop_the_sweep() -> None:
    calls: list[int] = []

    def train() -> None:
        calls.append(1)
        sys.exit(3)

    config = of(parameters={"seed": {"values": list(range(9))}})
    with pytest.raises(FundamentallmError, match=r"all of the first 3 runs.*SystemExit: 3"):
        run_sweep(config, train)
    assert len(calls) == 3


def test_ctrl_c_interrupts_the_run_and_the_same_call_resumes() -> None:
    calls: list[float] = []

    def train() -> None:
        with wandb.init() as run:
            calls.append(run.config.lr)
            run.log({"loss": run.config.lr})
            if len(calls) == 2:
                signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(of(), train)
    assert signal.getsignal(signal.SIGINT) is handler
    assert wandb.run is None
    assert [row["status"] for row in table(load_sweep("runs/train"))] == ["done", "interrupted"]
    results = run_sweep(of(), train)
    assert calls == [0.1, 0.4, 0.4, 0.2]
    assert [row["status"] for row in table(results)] == ["done"] * 3
    assert [len(metric_rows(results.folder / f"run-{n:04}")) for n in (1, 2, 3)] == [1, 1, 1]


def test_ctrl_c_outside_the_function_ends_the_sweep_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(code: int) -> None:
        signal.raise_signal(signal.SIGINT)
        wandb.finish(code)

    monkeypatch.setattr(wandb_client, "finish_active_run", finish)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(of(), lambda: wandb.init().log({"loss": 1.0}))
    assert [row["status"] for row in table(load_sweep("runs/lambda"))] == ["done"]


@pytest.mark.slow
def test_a_function_that_catches_everything_ends_at_its_own_end() -> None:
    def train() -> None:
        with wandb.init() as run:
            try:
                run.log({"loss": 1.0})
                signal.raise_signal(signal.SIGINT)
            except:  # noqa: E722 - as Lightning's trainer does
                run.log({"loss": 0.5})

    with pytest.raises(KeyboardInterrupt):
        run_sweep(of(), train)
    (row,) = table(load_sweep("runs/train"))
    assert (row["status"], row["loss"]) == ("interrupted", 0.5)


def test_a_wrong_config_is_refused_with_every_error() -> None:
    config = {"method": "bays", "parameters": {"lr": {"mean": 1}, "depth": {"values": "three"}}}
    with pytest.raises(FundamentallmError) as caught:
        run_sweep(config, other)
    lines = str(caught.value).splitlines()
    assert "config: method: W&B has no method bays; did you mean bayes?" in lines
    assert any(line.startswith("config: parameters.depth") for line in lines)
    with pytest.raises(FundamentallmError, match="config: Object of type set is not JSON"):
        run_sweep(of_one({1, 2}), other)
    with pytest.raises(TypeError, match="give a function without arguments"):
        run_sweep(of(), 3)  # pyright: ignore
    assert not Path("runs").exists()


def test_an_active_run_or_sweep_is_refused() -> None:
    with (
        wandb.init(mode="offline", project="mine"),
        pytest.raises(FundamentallmError, match=r"is active in this process.*wandb\.finish\(\)"),
    ):
        run_sweep(of(), other)
    errors: list[str] = []

    def nested() -> None:
        try:
            run_sweep(of(), other)
        except FundamentallmError as error:
            errors.append(str(error))
        wandb.init().log({"loss": 1.0})

    run_sweep(of_one(1), nested)
    assert [error.partition(";")[0] for error in errors] == [
        "a sweep is in progress in this process"
    ]


def test_the_package_shows_its_api_and_imports_nothing_heavy() -> None:
    code = (
        "import json, sys, fundamentallm\n"
        "heavy = ['torch', 'optuna', 'wandb', 'numpy', 'pandas', 'click']\n"
        "print(json.dumps([dir(fundamentallm), [m for m in heavy if m in sys.modules]]))\n"
        "from fundamentallm import load_sweep, run_sweep\n"
        "print(json.dumps(['torch' in sys.modules, 'wandb' in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (shown, heavy), has_loaded = map(json.loads, done.stdout.splitlines())
    assert heavy == []
    assert {"run_sweep", "load_sweep", "SweepResults", "Config", "train"} <= set(shown)
    assert set(shown) == set(fundamentallm.__all__)
    assert has_loaded == [False, False]


SCRIPT = """\
import time, wandb
from pathlib import Path
from fundamentallm import run_sweep

def train():
    with wandb.init() as run:
        for step in range(run.config.steps):
            run.log({"loss": 1 / (step + 1)})
            time.sleep(0.05)

parameters = {"steps": {"value": 60}, "seed": {"values": [1, 2]}}
config = {"method": "grid", "metric": {"name": "loss"}, "parameters": parameters}
print(run_sweep(config, train))
"""


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_every_process_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "script.py"]
    first = subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "runs/train/run-0001"
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(metric_rows(run)) > 5)
    os.killpg(first.pid, signal.SIGINT)
    _, errors = first.communicate()
    assert first.returncode != 0
    assert "the same call resumes the sweep" in errors
    assert summaries(run.parent)["run-0001"]["status"] == "interrupted"
    second = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "2 runs, best loss" in second.stdout
    assert [len(metric_rows(run.parent / f"run-000{n}")) for n in (1, 2)] == [60, 60]


@pytest.mark.slow
def test_a_killed_process_leaves_a_sweep_that_resumes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "script.py"]
    first = subprocess.Popen(words, start_new_session=True)
    run = tmp_path / "runs/train/run-0001"
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(metric_rows(run)) > 5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    subprocess.run(words, capture_output=True, text=True, check=True)
    assert [len(metric_rows(run.parent / f"run-000{n}")) for n in (1, 2)] == [60, 60]
    assert {each["status"] for each in summaries(run.parent).values()} == {"done"}


CELLS = (
    "import wandb; from fundamentallm import run_sweep, load_sweep; seen = []; import time",
    """def train():
    run = wandb.init()
    seen.append(run.config.lr)
    for step in range(3 if run.config.lr < 1 or len(seen) > 3 else 2000):
        run.log({"loss": run.config.lr})
        time.sleep(0.05)
    print("trained with", run.config.lr)
config = {"method": "grid", "metric": {"name": "loss"}}
config["parameters"] = {"lr": {"values": [0.1, 0.2, 3.0]}}""",
    "results = run_sweep(config, train)",
    "print(seen, load_sweep('runs/train'))",
    "results = run_sweep(config, train)",
    "print(seen, results)",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's client
def test_a_notebook_is_stopped_and_resumed_with_its_state(tmp_path: Path) -> None:
    need("ipykernel")
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    try:
        printed = [execute(client, cell) for cell in CELLS[:2]]
        cell = client.execute(CELLS[2])
        run = tmp_path / "runs/train/run-0003"
        wait_for(lambda: (run / "metrics.jsonl").exists() and len(metric_rows(run)) > 5)
        manager.interrupt_kernel()
        printed += [output(client, cell), *(execute(client, cell) for cell in CELLS[3:])]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "trained with 0.2" in printed[2]
    assert "run 3 of 3 interrupted" in printed[2]
    assert "KeyboardInterrupt" in printed[2]
    assert "[0.1, 0.2, 3.0] <SweepResults" in printed[3]
    assert "run 3 of 3 restarts" in printed[4]
    assert "[0.1, 0.2, 3.0, 3.0] <SweepResults" in printed[5]
    assert {each["status"] for each in summaries(run.parent).values()} == {"done"}
    assert len(metric_rows(run)) == 3
    assert "trained with 3.0" in (run / "output.txt").read_text()


@pytest.mark.slow
def test_the_example_of_the_docs_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/your-program.md").read_text("utf-8").partition("## From Python")[2]
    code = re.search(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert code is not None
    (tmp_path / "example.py").write_text(code[1])
    done = subprocess.run(
        [sys.executable, "example.py"], capture_output=True, text=True, check=True
    )
    assert "best loss" in done.stdout
    assert len(list(tmp_path.glob("runs/descent/run-*"))) == 10


def test_tables_are_lists_without_pandas_and_frames_with_it() -> None:
    results = run_sweep(of_one(0.5), lambda: wandb.init().log({"loss": 1.0}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pandas", None)
        rows = results.runs
        assert results.history(1) == [{"step": 0, "loss": 1.0}]
    assert [(row["run"], row["status"], row["loss"]) for row in rows] == [("run-0001", "done", 1.0)]
    need("pandas")
    import pandas

    assert list(pandas.DataFrame(rows).columns) == list(results.runs.columns)
    assert isinstance(results.history(1), pandas.DataFrame)


def need(module: str) -> None:
    """Skip the test without a package of the test extra; CI allows no skip."""
    if find_spec(module) is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(f"needs {module}, and REQUIRE_ALL=1 allows no skip")
        pytest.skip(f"{module} is not installed")


def execute(client: Any, code: str) -> str:
    """Run a cell in the kernel and return its output."""
    return output(client, client.execute(code))


def output(client: Any, cell: str) -> str:
    """Return what a cell prints, and its error, once it is idle."""
    texts: list[str] = []
    while True:
        message = client.get_iopub_msg(timeout=120)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != cell:
            continue
        if kind == "stream":
            texts.append(content["text"])
        elif kind == "error":
            texts.append("\n".join(content["traceback"]))
        elif kind == "status" and content["execution_state"] == "idle":
            return "".join(texts)
