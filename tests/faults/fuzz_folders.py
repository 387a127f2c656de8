"""Changes folders of sweeps and runs at random and runs a command on each in a forked child.

A command may use or refuse such a folder. It may not end with a traceback or a signal, exceed
`SECONDS` or `MOST_MEMORY`, or change the home folder next to it. The seed alone determines a case.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import ROOT, TEXT
from folder_changes import Case, change
from tiny_sweep import FLAGS, grid

from fundamentallm.cli.main import main
from fundamentallm.data import token_cache
from fundamentallm.sweep.engine import trial_process

SECONDS = 10
"""Limit of processor time. Wall time would depend on the load of the machine."""
LONGEST_WAIT = 90
"""Limit of wall time in seconds; a command that takes longer hangs."""
MOST_MEMORY = 1e9  # bytes, peak
SPARE_MEMORY = 4 << 30  # bytes of address space beyond the parent's
COMMANDS: dict[str, tuple[str, str]] = {  # target of the changes, and the command line
    "agent": ("runs/t", "agent runs/t --wait=0 --workers=1"),
    "sweep": ("runs/t", "sweep t.yaml cats.txt --wait=0 --workers=1 -- " + " ".join(FLAGS)),
    "refine": ("runs/t", "refine runs/t --top=1 --seeds=1 --max-steps=20 --wait=0 --workers=1"),
    "report": ("runs/t", "report runs/t"),
    "explain": ("runs/t", "explain runs/t --json"),
    "next": ("runs/t", "next runs/t"),
    "compare": ("runs/t", "compare runs/t/run-0001 runs/t/run-0002"),
    "list": ("runs/t", "list --json"),
    "export": ("runs/t", "export runs/t --csv --history"),
    "generate of a sweep": ("runs/t", "generate runs/t --max-tokens=5"),
    "check": ("t.yaml", "check t.yaml"),
    "check of a sweep's file": ("runs/t/sweep.yaml", "check runs/t/sweep.yaml"),
    "report of a run": ("runs/alone", "report runs/alone"),
    "evaluate": ("runs/alone", "evaluate runs/alone cats.txt"),
    "generate": ("runs/alone", "generate runs/alone --max-tokens=5"),
    "train --resume": ("runs/alone", "train cats.txt --output-dir=runs/alone --resume --no-wandb"),
    "train --config": (
        "runs/alone/config.yaml",
        "train cats.txt --config=runs/alone/config.yaml --max-steps=4 --output-dir=runs/new "
        "--no-wandb",
    ),
}
TRAINING = ("agent", "sweep", "refine", "train --resume", "train --config")
"""Commands that may work longer, but must end when asked to."""


@dataclass
class Outcome:
    """End of a command."""

    status: int
    """Status as `os.wait` returns it."""
    output: str
    seconds: float
    """Processor time, children included."""
    memory: float
    """Peak bytes of the largest process."""
    waited: float

    @property
    def fault(self) -> str:
        """Fault that this end shows; empty if there is none."""
        if "Traceback" in self.output or re.search(r"\.py:\d+: \w*Warning", self.output):
            return "traceback"
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            return "hang" if number == signal.SIGKILL else signal.Signals(number).name
        if self.memory > MOST_MEMORY:
            return f"memory ({self.memory / 1e9:.1f} GB)"
        code = os.WEXITSTATUS(self.status)
        if code not in (0, 1, 2, 143):
            return f"exit code {code}"
        if code == 2 and not self.output.strip():
            return "silence"
        return ""


class Fuzzer:
    """Seed folders, and commands on changed copies of them."""

    def __init__(self, root: Path) -> None:
        """Create the seed folders by real runs below `root`."""
        self.root = root
        self.home, self.seeds = root / "home", root / "seeds"
        for folder in (self.home / "album", self.seeds, root / "cache", root / "tmp"):
            folder.mkdir(parents=True)
        os.environ.update(
            HOME=str(self.home), XDG_CACHE_HOME=str(root / "cache"), TMPDIR=str(root / "tmp"),
            XDG_STATE_HOME=str(root / "cache"), WANDB_MODE="disabled", FUNDAMENTALLM_LEASE="3",
            TORCH_COMPILE_DISABLE="1",  # importing it takes half a minute of processor time
        )  # fmt: skip
        tempfile.tempdir = None
        torch.set_num_threads(1)
        # Cache even a short text. Fork directly: a fork server would take seconds for each case.
        token_cache.WORTH_KEEPING = 0
        trial_process.forkserver.ensure_running = lambda: None
        fork = trial_process.multiprocessing.get_context("fork")
        trial_process.multiprocessing.get_context = lambda _=None: fork  # pyright: ignore
        self._make_home()
        self._make_seeds()
        self.home_before = snapshot(self.home)

    def _make_home(self) -> None:
        (self.home / ".bashrc").write_text("alias ls='ls -l'\n")
        (self.home / "album/photo").write_text("a photo")
        with contextlib.closing(sqlite3.connect(self.home / "bank.db")) as bank:
            bank.execute("CREATE TABLE accounts (owner TEXT)")
            bank.commit()
        for path in (self.home / "album/photo", self.home / "album"):
            os.utime(path, (time.time() - 3e5,) * 2)

    def _make_seeds(self) -> None:
        work = self.seeds
        shutil.copy2(ROOT / "train.py", work)
        (work / "cats.txt").write_text(TEXT[:3000])
        (work / "t.yaml").write_text(grid(rates=7, seeds=1, steps=4, every=2))
        alone = [*FLAGS, "--max-steps=4", "--eval-every=2", "--no-wandb", "--output-dir=runs/alone"]
        for words in (
            f"sweep t.yaml cats.txt --count=6 --workers=1 -- {' '.join(FLAGS)}".split(),
            ["train", "cats.txt", *alone],
        ):
            outcome = self.call(words, work, limited=False)  # it builds the kernels first
            assert outcome.status == 0, outcome.output
        (work / "runs/alone/wandb-id.txt").write_text("me/cats/abc123\n")
        (work / "runs/t/workers").mkdir(exist_ok=True)
        (work / "runs/t/tokens").mkdir(exist_ok=True)
        (work / "runs/t/wandb/offline-run-1-x/files").mkdir(parents=True)
        (work / "runs/t/wandb/offline-run-1-x/files/config.yaml").write_text("a: {value: 1}\n")
        for name, (_, words) in COMMANDS.items():  # each must work on its unchanged target
            with self._case(f"unchanged {name}", name) as case:
                outcome = self.call(words.split(), case.work, stops=name in TRAINING)
            assert not outcome.fault, f"{words}: {outcome.output}"
            assert outcome.status == 0, f"{words}: {outcome.output}"
            for module in sorted(self._imported()):  # the next command forks with it
                with contextlib.suppress(ImportError):
                    importlib.import_module(module)

    def _imported(self) -> list[str]:
        return (self.root / "modules").read_text().splitlines()

    @contextlib.contextmanager
    def _case(self, seed: str, name: str) -> Iterator[Case]:
        """Give a copy of the seed folders and remove it afterwards."""
        work = self.root / "case/work"
        remove_all(work.parent)
        shutil.copytree(self.seeds, work)
        yield Case(seed, work, work / COMMANDS[name][0], self.home)
        remove_all(work.parent)

    def run(self, seed: str) -> tuple[str, str, Outcome]:
        """Run a case; return its fault if any, the command and changes, and the outcome."""
        name = random.Random(f"command {seed}").choice(list(COMMANDS))
        with self._case(seed, name) as case:
            change(case)
            outcome = self.call(COMMANDS[name][1].split(), case.work, stops=name in TRAINING)
            fault = outcome.fault
            if self._has_changed_home(case):
                fault = fault or "the home folder has changed"
            if snapshot(self.home) != self.home_before:
                remove_all(self.home)
                (self.home / "album").mkdir(parents=True)
                self._make_home()
                self.home_before = snapshot(self.home)
            if not fault:
                fault = _trial_traceback(case.work)
        return fault, f"{COMMANDS[name][1]}\n    {'; '.join(case.changes)}", outcome

    def _has_changed_home(self, case: Case) -> bool:
        """Return True if the home folder changed.

        If the target itself is a link, the command may add files behind it, but change none.
        """
        before, now = self.home_before, snapshot(self.home)
        if case.target.is_symlink() and case.target.is_dir():
            before = {path: each for path, each in before.items() if stat.S_ISREG(each[0])}
            now = {path: now.get(path) for path in before}
        return now != before

    def call(
        self, words: Sequence[str], work: Path, *, stops: bool = False, limited: bool = True
    ) -> Outcome:
        """Run a command in a forked child in `work`, and kill it if it exceeds its limits.

        A command that `stops` may take longer, but must end soon after SIGTERM.
        """
        output_path = self.root / "output"
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            self._become(words, work, output_path)
        asked, used, status = False, None, 0
        while used is None:
            ended, status, usage = os.wait4(child, os.WNOHANG)
            if ended:
                used = usage
                break
            waited = time.monotonic() - start
            if not limited:
                pass
            elif _processor_time(child) > (3 if stops else 1) * SECONDS or waited > LONGEST_WAIT:
                os.kill(child, signal.SIGKILL)
            elif waited > 2 * SECONDS and stops and not asked:
                asked = True
                os.kill(child, signal.SIGTERM)
            time.sleep(0.002 if waited < 1 else 0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # its own children
        output = output_path.read_bytes().decode("utf-8", "replace")
        seconds = used.ru_utime + used.ru_stime
        memory = used.ru_maxrss * 1024
        return Outcome(status, output, seconds, memory, time.monotonic() - start)

    def _become(self, words: Sequence[str], work: Path, output_path: Path) -> None:
        """Turn this process into the command; never return."""
        try:
            os.setsid()
            os.chdir(work)
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_MEMORY,) * 2)
            stdin = os.open(os.devnull, os.O_RDONLY)
            stdout = os.open(output_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for old, new in ((stdin, 0), (stdout, 1), (stdout, 2)):
                os.dup2(old, new)
            known = set(sys.modules)
            code = 0
            try:
                main(words)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            new = sorted(set(sys.modules) - known)
            (self.root / "modules").write_text("\n".join(new))
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _processor_time(child: int) -> float:
    """Return the processor seconds of a child and of its ended children."""
    words = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def _trial_traceback(work: Path) -> str:
    """Return the traceback of a sweep's trial, or an empty string."""
    for path in work.glob("runs/*/run-*/output.txt"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.lstat().st_size < 1 << 20 and not path.is_symlink():
                text = path.read_text("utf-8", "replace")
                if "Traceback" in text:
                    return "traceback of a trial: " + text[text.index("Traceback") :]
    return ""


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Return the mode, size, time and content hash of everything in a folder."""
    entries: dict[str, tuple[int, int, int, str]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        known = path.lstat()
        is_file = stat.S_ISREG(known.st_mode)
        content = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
        entries[str(path)] = known.st_mode, known.st_size, known.st_mtime_ns, content
    return entries


def remove_all(folder: Path) -> None:
    """Remove a folder even if parts of it deny access."""
    if not folder.exists():
        return
    os.chmod(folder, 0o700)
    for path, folders, _ in os.walk(folder):
        for name in folders:
            if not os.path.islink(os.path.join(path, name)):
                os.chmod(os.path.join(path, name), 0o700)
    shutil.rmtree(folder)


def fuzz(folders: int, seed: int, *, most: int = 20) -> tuple[list[str], str]:
    """Fuzz `folders` folders; return the faults, with commands that repeat them, and a table."""
    faults: list[str] = []
    counts: Counter[str] = Counter()
    slowest = largest = 0.0
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        fuzzer = Fuzzer(root)
        for number in range(seed, seed + folders):
            fault, how, outcome = fuzzer.run(str(number))
            counts["taken" if outcome.status == 0 else "refused"] += 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory)
            if fault:
                faults.append(
                    f"seed {number}: {fault}\n    fundamentallm {how}\n"
                    f"{_last_lines(outcome.output)}\n"
                    f"    repeat: python tests/faults/fuzz.py --folders 1 --seed {number}"
                )
                print(faults[-1], flush=True)
                if len(faults) >= most:
                    break
    finally:
        remove_all(root)
    return faults, (
        "| folders | from seed | taken | refused | faults | slowest, seconds | most memory, GB |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {sum(counts.values()):,} | {seed} | {counts['taken']:,} | {counts['refused']:,} | "
        f"{len(faults)} | {slowest:.1f} | {largest / 1e9:.2f} |"
    )


def _last_lines(output: str) -> str:
    return "\n".join(f"    > {line[:300]}" for line in output.splitlines()[-12:])
