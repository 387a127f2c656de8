"""Warm start: a script in a forked process finds and leaves what a new process would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from fundamentallm.sweep.file.sweep_file import read_sweep
from fundamentallm.sweep.program.script import NotWarmError, installed_imports, python_script

STARTS = '''
import json, multiprocessing, os, signal, sys, time

def start_all(script, folder, starts, pipe):
    """Start a script with words, warm and cold; return exit code and output of each."""
    from fundamentallm.sweep.program.process import ProgramProcess
    from fundamentallm.sweep.program.warm import WarmProcess

    os.environ["OF_THE_RUN"] = "1"
    found = []
    for words in starts:
        command = [sys.executable, script, *words]
        for is_warm in (True, False):
            place = (command, folder, dict(os.environ))
            process = WarmProcess(*place, 1).start() if is_warm else ProgramProcess(*place)
            output = b""
            while (data := process.read()) is not None:
                if b"ready" in data:
                    process.signal(signal.SIGINT)
                output += data
                time.sleep(0.005)
            found.append((process.wait(), output.decode()))
            process.close()
    pipe.send(found)

if __name__ == "__main__":
    script, folder, starts = json.loads(sys.argv[1])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        "fundamentallm.sweep.program.search_path", "fundamentallm.sweep.program.preloaded"
    ])
    ours, theirs = context.Pipe()
    process = context.Process(target=start_all, args=(script, folder, starts, theirs))
    process.start()
    theirs.close()
    print(json.dumps(ours.recv()))
'''
SCRIPT = """
import atexit, json, multiprocessing, os, random, signal, sys, threading, time
import numpy
import sibling, yaml

class Point:
    def __init__(self, x):
        self.x = x

def double(point):
    return Point(2 * point.x)

def fail():
    raise ValueError("no such case")

def facts():
    main = {name: type(value).__name__ for name, value in globals().items() if name[:2] == "__"}
    streams = [(s.encoding, s.errors, s.line_buffering, s.write_through) for s in
               (sys.stdout, sys.stderr)]
    print(json.dumps({
        "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "main": main,
        "executable": sys.executable, "flags": str(sys.flags), "file": __file__,
        "folder": os.getcwd(), "environment": dict(os.environ),
        "stdin": [sys.stdin.read(), sys.stdin.encoding, sys.stdin.errors],
        "leads": os.getpgrp() == os.getpid(), "sibling": sibling.VALUE, "yaml": yaml.VALUE,
        "open": sorted(os.listdir("/proc/self/fd")), "streams": streams,
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "threads": [t.name for t in threading.enumerate()],
        "process": multiprocessing.current_process().name,
        "daemon": multiprocessing.current_process().daemon,
        "parent": str(multiprocessing.parent_process()),
        "method": multiprocessing.get_start_method(allow_none=True),
        "excepthook": sys.excepthook is sys.__excepthook__,
    }))

def pickles():
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, [point.x for point in pool.map(double, [Point(1), Point(2)])])

def stays_open():
    global file
    file = open(sys.argv[2], "w")
    file.write("all of it")

def ends_late():
    atexit.register(print, "atexit")
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
    print("main")

def stops():
    print("ready", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped")
        sys.exit(5)

CASES = {
    "facts": facts,
    "exit": lambda: sys.exit(3),
    "negative": lambda: sys.exit(-2),
    "text": lambda: sys.exit("a text"),
    "raise": fail,
    "os_exit": lambda: os._exit(7),
    "signal": lambda: os.kill(os.getpid(), signal.SIGUSR1),
    "interrupt": lambda: (print("ready", flush=True), time.sleep(60)),
    "stops": stops,
    "random": lambda: print(random.random(), numpy.random.rand()),
    "ends_late": ends_late,
    "stays_open": stays_open,
    "pickles": pickles,
}
if __name__ == "__main__":
    CASES[sys.argv[1]]()
"""
CASES = (
    "facts",
    "exit",
    "negative",
    "text",
    "raise",
    "os_exit",
    "signal",
    "interrupt",
    "stops",
    "ends_late",
    "pickles",
)
"""Cases whose output is the same in each process."""
Ends = list[tuple[int, str]]


def starts(script: Path, folder: Path, *words: list[str], **environment: str) -> list[Ends]:
    """Start a script with each list of words; return the ends of the warm and the cold process."""
    code = folder / "starts.py"
    code.write_text(STARTS)
    done = subprocess.run(
        [sys.executable, code, json.dumps([script.name, str(script.parent), words])],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "FUNDAMENTALLM_PRELOAD": str(script), **environment},
    )
    assert done.returncode == 0, done.stderr
    ends = [(code, output) for code, output in json.loads(done.stdout)]
    return [ends[k : k + 2] for k in range(0, len(ends), 2)]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ends]:
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(SCRIPT)
    (folder / "sibling.py").write_text("VALUE = 'ours'\n")
    (folder / "yaml.py").write_text("VALUE = 'not the library'\n")
    words = [[case] for case in CASES]
    words += [["random"], ["random"], ["stays_open", "first"], ["stays_open", "second"]]
    found = starts(folder / "program.py", folder, *words, PYTHONUNBUFFERED="1")
    names = [*CASES, "random", "again", "stays_open", "stays_open"]
    assert (folder / "first").read_text() == "all of it"
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_warm_process_does_what_a_new_one_does(case: str, ends: dict[str, Ends]) -> None:
    warm, cold = ends[case]
    if case == "facts":
        assert json.loads(warm[1]) == json.loads(cold[1])
    else:
        assert warm == cold
    codes = {"exit": 3, "negative": 254, "text": 1, "raise": 1, "os_exit": 7, "stops": 5}
    killed = {"signal": -signal.SIGUSR1, "interrupt": -signal.SIGINT}
    assert warm[0] == (codes | killed).get(case, 0)


def test_random_states_differ(ends: dict[str, Ends]) -> None:
    numbers = [output.split() for _, output in (*ends["random"], *ends["again"])]
    for column in zip(*numbers, strict=True):
        assert len(set(column)) == 4


def test_a_script_with_an_error_says_what_python_says(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("x = 1\nprint(x\n")
    [(warm, cold)] = starts(script, tmp_path, [])
    assert warm == cold
    assert "SyntaxError" in warm[1]


def test_a_script_and_its_modules_are_read_at_each_start(tmp_path: Path) -> None:
    script = tmp_path / "changes.py"
    script.write_text(
        "import os, sys, other\n"
        "print(other.VALUE, 'first')\n"
        "open('other.py', 'w').write('VALUE = \"changed\"\\n')\n"
        "open('changes.py', 'w').write('import other; print(other.VALUE, 2)')\n"
    )
    (tmp_path / "other.py").write_text("VALUE = 'one'\n")
    [(warm, cold)] = starts(script, tmp_path, [])
    assert (warm, cold) == ((0, "one first\n"), (0, "changed 2\n"))


def test_a_module_that_no_fork_can_use_is_left_out(tmp_path: Path) -> None:
    """Each package notes the process that imported it."""
    site = tmp_path / "site-packages"
    site.mkdir()
    packages = {
        "usable": "",
        "starts_thread": "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
        "exits": "import sys\nsys.exit(1)\n",
        "fails": "raise RuntimeError\n",
    }
    for name, code in packages.items():
        (site / f"{name}.py").write_text(f"import os\nPROCESS = os.getpid()\n{code}")
    script = tmp_path / "program.py"
    script.write_text(
        "import os, usable, starts_thread\n"
        "for name in ('exits', 'fails'):\n"
        "    try:\n"
        "        __import__(name)\n"
        "    except BaseException as error:\n"
        "        print(type(error).__name__)\n"
        "print(usable.PROCESS == os.getpid(), starts_thread.PROCESS == os.getpid())\n"
        "if not os:\n    import exits, fails\n"
    )
    [(warm, cold)] = starts(script, tmp_path, [], PYTHONPATH=f"{site}")
    assert cold == (0, "SystemExit\nRuntimeError\nTrue True\n")
    assert warm == (0, "SystemExit\nRuntimeError\nFalse True\n")


LOADER = """
import os, sys
import torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return torch.tensor([index, torch.get_num_threads()])

if __name__ == "__main__":
    for method in ("fork", "spawn"):
        loader = DataLoader(Numbers(), 4, num_workers=2, multiprocessing_context=method)
        print(method, [batch.tolist() for batch in loader])
    a = torch.randn(300, 300)
    print(torch.get_num_threads(), (a @ a).isfinite().all().item())
    print(torch.initial_seed(), file=open(f"seed-{os.getpid()}", "w"))
"""


@pytest.mark.nightly
def test_torch_works(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(LOADER)
    found = starts(script, tmp_path, [], [], OMP_NUM_THREADS="2")
    for warm, cold in found:
        assert warm == cold
        assert warm[0] == 0
        assert warm[1].splitlines()[-1] == "2 True"
    seeds = {path.read_text() for path in tmp_path.glob("seed-*")}
    assert len(seeds) == 4


WANDB = """
import argparse, sys
import wandb

imported = "wandb.sdk.launch" in sys.modules
parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int)
width = parser.parse_args().width
with wandb.init() as run:
    assert wandb.config.width == width
    for k in range(5):
        run.log({"loss": 1 / (k + width), "imported": int(imported)})
    run.log({"table": wandb.Table(columns=["a"], data=[[1]])})  # through a folder of the client
sys.exit(3 if width == 3 else 0)
"""


def run_sweep(folder: Path, *flags: str, **content: Any) -> str:
    """Run a sweep of program.py; return what it prints."""
    file = folder / "sweep.yaml"
    default = {
        "program": "program.py",
        "method": "grid",
        "metric": {"name": "loss"},
        "parameters": {"width": {"values": [1, 2, 3]}},
    }
    file.write_text(yaml.safe_dump(default | content))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "fundamentallm", "sweep", file, "--output-dir", "out", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
    ).stdout


@pytest.mark.parametrize("is_warm", [True, False])
def test_a_sweep_logs_the_same(is_warm: bool, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WANDB)
    run_sweep(tmp_path, "--workers", "1", *["--warm"] * is_warm)
    for k, run in enumerate(sorted((tmp_path / "out").glob("run-*"))):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["loss"] for row in rows] == [1 / (step + k + 1) for step in range(5)]
        assert {row["imported"] for row in rows} == {int(is_warm)}
        summary = json.loads((run / "summary.json").read_text())
        assert summary["exit_code"] == (3 if k == 2 else 0)
        assert (run / "config.yaml").read_text().splitlines()[-1] == f"width: {k + 1}"


def test_another_command_is_started_as_without_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('{\"loss\": 1}')")
    command = ["bash", "-c", "python program.py"]
    output = run_sweep(tmp_path, "--warm", command=command)
    note = "--warm has no effect: the command starts bash and not a Python script"
    assert output.count(note) == 1
    assert output.count(" of 3 done") == 3


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (None, 2),
        (["${env}", "python3", "-u", "${program}", "${args}"], 3),
        (["${interpreter}", "program.py", "${args}"], 1),
        ([sys.executable, "${program}"], 1),
        (["python", "-m", "program"], "the command gives Python no script but -m"),
        (["python", "missing.py"], "the command gives Python no script but missing.py"),
        (["uv", "run", "program.py"], "the command starts uv and not a Python script"),
        (["/usr/bin/python3", "program.py"], "/usr/bin/python3 is not the Python that runs"),
        (["${args}"], "the command starts ${args} and not a Python script"),
    ],
)
def test_a_plain_script_is_found_in_a_command(
    command: list[str] | None,
    found: int | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "program.py").touch()
    content = {"program": "program.py", "method": "random", "parameters": {"a": {"value": 1}}}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(content | ({"command": command} if command else {})))
    if isinstance(found, int):
        script = python_script(read_sweep(file))
        assert (script.index, script.path) == (found, str(tmp_path / "program.py"))
    else:
        with pytest.raises(NotWarmError, match=re.escape(found)):
            python_script(read_sweep(file))


def test_imports_of_a_script_are_those_that_it_runs_from_installed_packages(
    tmp_path: Path,
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text("import scipy.stats\n")
    (tmp_path / "own/part.py").write_text("from . import other\nimport own\nimport pytest\n")
    (tmp_path / "click.py").touch()
    (tmp_path / "wandb").mkdir()
    script = tmp_path / "program.py"
    script.write_text(
        "import json, numpy as np, absent\n"
        "from typing import TYPE_CHECKING\n"
        "import click\n"
        "from own import part\n"
        "try:\n    import yaml\nexcept ImportError:\n    from rich import print\n"
        "if TYPE_CHECKING:\n    import optuna\n"
        "if __name__ == '__main__':\n    from wandb.sdk import wandb_run\n"
        "def f():\n    import requests\n"
    )
    found = {each.module: each.names for each in installed_imports(str(script))}
    assert found == {
        "numpy": (),
        "yaml": (),
        "rich": ("print",),
        "wandb.sdk": ("wandb_run",),
        "wandb.sdk.launch.inputs.internal": (),
        "scipy.stats": (),
        "pytest": (),
    }
