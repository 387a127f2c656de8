"""Does each version of W&B's client keep our promises? Operations with real clients, as marks.

    python tests/client_operations.py                            # all, in about half an hour
    python tests/client_operations.py --only 0.28.2 -- train     # some

Writes the marks to docs/wandb_clients.json, from which docs/generate.py makes a table. A nightly
test compares them. They say nothing of W&B's real service: all talk to the test server.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from client_environments import NIGHTLY, environment
from conftest import ROOT, TEXT, TINY
from wandb_client import Client, check_same, child_of, wait_until
from wandb_server import Sweep, WandbServer

MARKS = ROOT / "docs/wandb_clients.json"
SECONDS = 400
"""Time limit of an operation; one that takes longer does not work."""
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
OUT = "--output-dir=out"
LONG = ("--max-steps=3000", "--eval-every=300")
UNENDING = ("--max-steps=1000000", "--epochs=1000000")
IMPATIENT = {"WANDB_INIT_TIMEOUT": "2", "WANDB_FINISH_TIMEOUT": "5"}


@dataclass(frozen=True)
class Mark:
    """Result of an operation with one version of the client."""

    works: bool
    note: str = ""
    """Difference from the newest client, or the reason why it does not work."""


# --- operations: each returns a note, or raises


def train(client: Client) -> str:
    done = client.train("cats.txt", *FLAGS, OUT)
    check_told(client, done.stdout)
    (model,) = [a for a in client.server.store.artifacts.values() if a.kind == "model"]
    best = (client.folder / "out/best.pt").read_bytes()
    assert client.server.store.artifact_files(model) == {"best.pt": best}, "the model differs"
    return ""


def without_key(client: Client) -> str:
    del client.environment["WANDB_API_KEY"]
    done = client.train("cats.txt", *FLAGS, OUT)
    assert done.stdout.count("no W&B key was found") == 1, done.stdout
    assert client.server.store.runs == {}
    return ""


def agent(client: Client) -> str:
    sweep = sweep_of(client, {"seed": {"values": [1, 2]}})
    output, _ = client.agent(sweep).communicate(timeout=SECONDS)
    assert [run.values["seed"] for run in sweep.runs] == [1, 2], output
    for run in sweep.runs:
        assert (run.state, run.exit_code) == ("finished", 0), output
        check_same(client.server, run, client.folder / "runs" / run.name)
    return ""


def stop(client: Client) -> str:
    """Stop a single run by the button, and a sweep's run by its agent."""
    process = start_training(client, *UNENDING)
    client.only_run().stop()
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert client.only_run().summary["stopped_by"] == "wandb", output
    check_told(client, output)
    client.server.store.runs.clear()
    client.server.store.stop_timeout = 0.0  # the agent ends it at its next heartbeat
    sweep = sweep_of(client, {"seed": {"value": 1}, **unending_parameters()})
    process = client.agent(sweep)
    wait_until(lambda: sweep.runs and len(sweep.runs[0].history) > 2, process)
    (run,) = sweep.runs
    run.stop()
    output, _ = process.communicate(timeout=SECONDS)
    assert (run.state, run.exit_code, run.summary["stopped_by"]) == ("finished", 0, "wandb"), output
    check_same(client.server, run, client.folder / "runs" / run.name)
    return ""


def preempt(client: Client) -> str:
    """Preempt a sweep's run, which the next agent resumes."""
    sweep = sweep_of(client, {"seed": {"value": 1}, "max_steps": {"value": 2000}})
    process = client.agent(sweep, "--count", "1")
    wait_until(lambda: sweep.runs and len(sweep.runs[0].history) > 4, process)
    (run,) = sweep.runs
    child = child_of(process)
    assert child is not None
    os.kill(child, signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    assert (run.state, run.exit_code) == ("preempted", 143), output
    output, _ = client.agent(sweep).communicate(timeout=SECONDS)
    assert (run.state, run.exit_code, run.starts) == ("finished", 0, 2), output
    check_same(client.server, run, client.folder / "runs" / run.name)
    return ""


def resume(client: Client) -> str:
    """Kill a run with its client, and resume it: W&B gets the rows that it lacks."""
    process = start_training(client, *UNENDING)
    process.kill()
    process.communicate(timeout=SECONDS)
    end_processes(client.folder)
    client.train(OUT, "--resume", "--max-steps=1000000", "--max-minutes=0.03")
    check_told(client, "", varying=("perf/tokens_per_second", "perf/memory_gb"))
    return ""


def offline(client: Client) -> str:
    done = client.train("cats.txt", *FLAGS, OUT, WANDB_MODE="offline")
    assert client.server.requests == []
    deliver(client, done.stdout)
    check_told(client, "")
    return ""


def sync_twice(client: Client) -> str:
    """Send a run twice that W&B has in part."""
    process = start_training(client, *LONG, **IMPATIENT)
    client.server.down()
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    client.server.up()
    deliver(client, output)
    deliver(client, output)
    check_told(client, "")
    return ""


def silent_at_start(client: Client) -> str:
    client.server.down()
    return away(client, "closed port")


def failing_at_start(client: Client) -> str:
    client.server.status = 500
    return away(client, "HTTP 500")


def away(client: Client, fault: str) -> str:
    begin = time.monotonic()
    done = client.train("cats.txt", *FLAGS, OUT, **IMPATIENT)
    assert time.monotonic() - begin < 100, f"{fault}: {time.monotonic() - begin:.0f} s"
    client.server.status = 0
    if client.server.away:
        client.server.up()
    deliver(client, done.stdout)
    check_told(client, "")
    return ""


def away_in_mid_run(client: Client) -> str:
    process = start_training(client, *LONG, **IMPATIENT)
    client.server.down()
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    client.server.up()
    deliver(client, output)
    check_told(client, "")
    return ""


def back_in_mid_run(client: Client) -> str:
    process = start_training(client, *UNENDING)
    client.server.down()
    time.sleep(8)
    client.server.up()
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, output
    note = ""
    if "send it with" in output:
        deliver(client, output)
        note = "the rest is sent by the command that the run prints"
    check_told(client, "", state=None)
    return note


def client_killed(client: Client) -> str:
    process = start_training(client, *LONG)
    killed = [pid for pid in processes(client.folder) if is_service(pid)]
    assert killed, "the client has no process of its own"
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    note = ""
    if "send it with" in output:
        deliver(client, output)
        note = "the rest is sent by the command that the run prints"
    check_told(client, output)
    return note


def report(client: Client) -> str:
    sweep = sweep_of(client, {"learning_rate": {"values": [0.001, 0.003]}})
    client.agent(sweep).communicate(timeout=SECONDS)
    client.run("fundamentallm", "report", sweep.path)
    page = (client.folder / "report.html").read_text()
    assert "What the models wrote" in page, "no samples"
    compared = client.run("fundamentallm", "compare", sweep.path, "--json").stdout
    assert json.loads(compared)["learning_rate"] == [0.001, 0.003], compared
    assert "best val_loss" in client.run("fundamentallm", "explain", sweep.path).stdout
    return ""


OPERATIONS: dict[str, tuple[Callable[[Client], str], str]] = {
    "train": (train, "train: rows, samples, model"),
    "no-key": (without_key, "no key: one line, no prompt"),
    "agent": (agent, "`wandb agent`"),
    "stop": (stop, "stop button, and an agent's stop"),
    "preempt": (preempt, "preempted, requeued, resumed"),
    "resume": (resume, "killed, resumed"),
    "offline": (offline, "offline, sent later"),
    "sync-twice": (sync_twice, "sent in part, then twice"),
    "closed-port": (silent_at_start, "W&B away at the start"),
    "http-500": (failing_at_start, "HTTP 500 at the start"),
    "away": (away_in_mid_run, "W&B away from mid-run on"),
    "back": (back_in_mid_run, "W&B away for a while"),
    "client-killed": (client_killed, "the client's process killed"),
    "report": (report, "`report`, `compare`, `explain`"),
}


# --- parts of operations


def sweep_of(client: Client, parameters: dict[str, object]) -> Sweep:
    fixed = {name: {"value": value} for name, value in TINY.items()}
    return client.sweep(
        {
            "method": "grid",
            "metric": {"name": "val_loss", "goal": "minimize"},
            "parameters": {**fixed, "data": {"value": "cats.txt"}, **parameters},
        }
    )


def unending_parameters() -> dict[str, object]:
    return {name: {"value": 1_000_000} for name in ("max_steps", "epochs")}


def start_training(client: Client, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """Start a run, and return once W&B has some rows of it."""
    words = [client.python, ROOT / "train.py", "cats.txt", *FLAGS, OUT, *flags]
    process = client.popen(*words, **environment)
    wait_until(lambda: client.server.store.runs and len(client.only_run().history) > 3, process)
    return process


def check_told(
    client: Client, output: str, *, state: str | None = "finished", varying: tuple[str, ...] = ()
) -> None:
    """Check that W&B has all of the run once, and that nothing alarmed the user."""
    assert "Traceback" not in output, output
    run = client.only_run()
    assert state is None or run.state == state, f"{run.state}: {output}"
    check_same(client.server, run, client.folder / "out", varying=varying)


def deliver(client: Client, output: str) -> None:
    """Run the command that a run printed to send what W&B lacks."""
    command = re.search(r"send .*?with: (.+)$", output, flags=re.M)
    assert command, output
    client.run(*command[1].split())


# --- limits


def processes(folder: Path) -> Iterator[int]:
    """Yield the processes whose home is `folder`."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def is_service(pid: int) -> bool:
    """Return whether a process belongs to W&B's client."""
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"wandb-core" in command or b"wandb-service" in command
    return False


def end_processes(folder: Path) -> None:
    for pid in processes(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def mark(version: str, operation: str) -> Mark:
    """Try an operation with one version of the client, within a time limit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        words = [sys.executable, __file__, "--one", name, "--only", version, operation]
        output = Path(name) / "said.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end_processes(Path(name) / "work")
        said = output.read_text(errors="replace")
        last = said.rpartition("\nMARK ")[2]
        finished = process.returncode == 0
        found = Mark(**json.loads(last)) if finished else Mark(False, f"no end in {SECONDS} s")
        if not found.works:
            print(f"--- {version} {operation}\n{said[-8000:]}", file=sys.stderr)
        return found


def try_one(version: str, operation: str, folder: Path) -> None:
    """Try an operation in this process, and print its mark on the last line."""
    work = folder / "work"
    work.mkdir()
    (work / "cats.txt").write_text(TEXT, "utf-8")
    with WandbServer() as server:
        client = Client(server, work, environment(version), XDG_STATE_HOME=str(work / "state"))
        try:
            result = Mark(True, OPERATIONS[operation][0](client))
            said = [run.config["_wandb"]["value"] for run in server.store.runs.values()]
            assert {each["cli_version"] for each in said} <= {version_of(version)}, said
        except Exception as error:
            traceback.print_exc()
            line = traceback.extract_tb(error.__traceback__)[-1].line
            result = Mark(False, (str(error).strip() or line or "").splitlines()[-1])
        if server.refused:
            print("refused by the server:", *server.refused, sep="\n")
    print(f"\nMARK {json.dumps(asdict(result))}")


def version_of(version: str) -> str:
    """Return the number of a version, which may be `NEWEST`."""
    words = [environment(version), "-c", "import wandb; print(wandb.__version__)"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def stored() -> dict[str, dict[str, Mark]]:
    """Return the marks in the docs, by description of the operation and number of the client."""
    content = json.loads(MARKS.read_text("utf-8"))
    return {
        shown: {number: Mark(**each) for number, each in marks.items()}
        for shown, marks in content.items()
    }


def store(found: dict[str, dict[str, Mark]]) -> None:
    """Write the marks of `found`, and keep the others of known operations."""
    known = stored() if MARKS.exists() else {}
    content: dict[str, dict[str, dict[str, object]]] = {}
    for _, shown in OPERATIONS.values():
        marks = known.get(shown, {}) | found.get(shown, {})
        numbers = sorted(marks, key=lambda number: [int(part) for part in number.split(".")])
        content[shown] = {number: asdict(marks[number]) for number in numbers}
    MARKS.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("operation", nargs="*", help=", ".join(OPERATIONS))
    parser.add_argument("--only", nargs="+", default=NIGHTLY, metavar="VERSION")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--one", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    operations = arguments.operation or list(OPERATIONS)
    if arguments.one:
        try_one(arguments.only[0], operations[0], arguments.one)
        return
    numbers = {version: version_of(version) for version in arguments.only}
    cells = [(version, operation) for version in arguments.only for operation in operations]
    marks: dict[str, dict[str, Mark]] = {}
    with ThreadPoolExecutor(arguments.jobs) as pool, tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # all share the built kernels
        found = pool.map(lambda cell: mark(*cell), cells)
        for (version, operation), each in zip(cells, found, strict=True):
            print(numbers[version], operation, "yes" if each.works else "NO", each.note, flush=True)
            marks.setdefault(OPERATIONS[operation][1], {})[numbers[version]] = each
    store(marks)


if __name__ == "__main__":
    main()
