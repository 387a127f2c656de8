"""Whole folders of sweeps and runs, changed at random, and a command on each in a forked child.

A folder from others may hold anything in the place of anything. A command may use it or refuse it;
it may not end by a traceback or a signal, take longer than `SECONDS` or more than `MOST_MEMORY`, or
change anything in the home folder beside it. A case is drawn from its seed and nothing else.
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
"""Of processor time. A clock on the wall would measure how busy the machine is."""
LONGEST_WAIT = 90
"""Seconds on the wall, after which a command waits for what will never come."""
MOST_MEMORY = 1e9  # bytes, at the highest
SPARE_MEMORY = 4 << 30  # bytes of addresses; beyond, a command meets MemoryError, not this machine
COMMANDS: dict[str, tuple[str, str]] = {  # what is changed, and the command line
    "agent": ("runs/t", "agent runs/t --wait=0 --workers=1"),
    "sweep": ("runs/t", "sweep t.yaml cats.txt --wait=0 --workers=1 -- " + " ".join(FLAGS)),
    "refine": ("runs/t", "refine runs/t --top=1 --seeds=1 --max-steps=20 --wait=0 --workers=1"),
    "report": ("runs/t", "report runs/t"),
    "explain": ("runs/t", "explain runs/t --json"),
    "next": ("runs/t", "next runs/t"),
    "compare": ("runs/t", "compare runs/t/run-0001 runs/t/run-0002"),
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
"""What a folder may ask to work for longer, so long as it ends when it is asked to."""


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    """As `wait` has it."""
    said: str
    seconds: float
    """Of processor time, with its children."""
    memory: float
    """Bytes at the highest, of the largest process."""
    waited: float

    @property
    def fault(self) -> str:
        """What is wrong with that; empty if nothing is."""
        if "Traceback" in self.said or re.search(r"\.py:\d+: \w*Warning", self.said):
            return "traceback"
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            return "hang" if number == signal.SIGKILL else signal.Signals(number).name
        if self.memory > MOST_MEMORY:
            return f"memory ({self.memory / 1e9:.1f} GB)"
        code = os.WEXITSTATUS(self.status)
        if code not in (0, 1, 2, 143):
            return f"exit code {code}"
        if code == 2 and not self.said.strip():
            return "silence"
        return ""


class Fuzzer:
    """Folders that were made once, and commands on changed copies of them."""

    def __init__(self, place: Path) -> None:
        """Make them, by real runs, below `place`."""
        self.place = place
        self.home, self.seeds = place / "home", place / "seeds"
        for folder in (self.home / "album", self.seeds, place / "cache", place / "tmp"):
            folder.mkdir(parents=True)
        os.environ.update(
            HOME=str(self.home), XDG_CACHE_HOME=str(place / "cache"), TMPDIR=str(place / "tmp"),
            XDG_STATE_HOME=str(place / "cache"), WANDB_MODE="disabled", FUNDAMENTALLM_LEASE="3",
            TORCH_COMPILE_DISABLE="1",  # which takes half a minute of processor time by itself
        )  # fmt: skip
        tempfile.tempdir = None
        torch.set_num_threads(1)
        # A folder for the text's tokens, though it is short; and a fork, where a server would take
        # seconds to start for each case.
        token_cache.WORTH_KEEPING = 0
        trial_process.forkserver.ensure_running = lambda: None
        fork = trial_process.multiprocessing.get_context("fork")
        trial_process.multiprocessing.get_context = lambda _=None: fork  # pyright: ignore
        self._make_home()
        self._make_seeds()
        self.at_home = snapshot(self.home)

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
            ended = self.call(words, work, limited=False)  # it builds the kernels first
            assert ended.status == 0, ended.said
        (work / "runs/alone/wandb-id.txt").write_text("me/cats/abc123\n")
        (work / "runs/t/workers").mkdir(exist_ok=True)
        (work / "runs/t/tokens").mkdir(exist_ok=True)
        (work / "runs/t/wandb/offline-run-1-x/files").mkdir(parents=True)
        (work / "runs/t/wandb/offline-run-1-x/files/config.yaml").write_text("a: {value: 1}\n")
        for name, (_, words) in COMMANDS.items():  # also shows that each works on what it is for
            with self._case(f"unchanged {name}", name) as case:
                ended = self.call(words.split(), case.work, stops=name in TRAINING)
            assert not ended.fault, f"{words}: {ended.said}"
            assert ended.status == 0, f"{words}: {ended.said}"
            for module in sorted(self._imported()):  # so that the next one forks with it
                with contextlib.suppress(ImportError):
                    importlib.import_module(module)

    def _imported(self) -> list[str]:
        return (self.place / "modules").read_text().splitlines()

    @contextlib.contextmanager
    def _case(self, seed: str, name: str) -> Iterator[Case]:
        """A copy of the seeds, in a folder that is removed again."""
        work = self.place / "case/work"
        remove_all(work.parent)
        shutil.copytree(self.seeds, work)
        yield Case(seed, work, work / COMMANDS[name][0], self.home)
        remove_all(work.parent)

    def run(self, seed: str) -> tuple[str, str, Outcome]:
        """The fault that a case shows, if any, how it was made, and how its command ended."""
        name = random.Random(f"command {seed}").choice(list(COMMANDS))
        with self._case(seed, name) as case:
            change(case)
            ended = self.call(COMMANDS[name][1].split(), case.work, stops=name in TRAINING)
            fault = ended.fault
            if self._has_changed_home(case):
                fault = fault or "the home folder has changed"
            if snapshot(self.home) != self.at_home:
                remove_all(self.home)
                (self.home / "album").mkdir(parents=True)
                self._make_home()
                self.at_home = snapshot(self.home)
            if not fault:
                fault = _of_trials(case.work)
        return fault, f"{COMMANDS[name][1]}\n    {'; '.join(case.changes)}", ended

    def _has_changed_home(self, case: Case) -> bool:
        """Whether anything of the home folder is not as it was.

        A command may write into the folder that it is given, also where that is a link: then it
        may add files behind the link, and change none.
        """
        before, now = self.at_home, snapshot(self.home)
        if case.target.is_symlink() and case.target.is_dir():
            before = {path: each for path, each in before.items() if stat.S_ISREG(each[0])}
            now = {path: now.get(path) for path in before}
        return now != before

    def call(
        self, words: Sequence[str], work: Path, *, stops: bool = False, limited: bool = True
    ) -> Outcome:
        """Run a command in a child of its own, in `work`, and kill it where it is over its limits.

        One that `stops` may have much to do, and has to end soon after it is asked to.
        """
        output = self.place / "output"
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            self._become(words, work, output)
        asked, used, status = False, None, 0
        while used is None:
            found, status, usage = os.wait4(child, os.WNOHANG)
            if found:
                used = usage
                break
            waited = time.monotonic() - began
            if not limited:
                pass
            elif _processor_time(child) > (3 if stops else 1) * SECONDS or waited > LONGEST_WAIT:
                os.kill(child, signal.SIGKILL)
            elif waited > 2 * SECONDS and stops and not asked:
                asked = True
                os.kill(child, signal.SIGTERM)
            time.sleep(0.002 if waited < 1 else 0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it left
        said = output.read_bytes().decode("utf-8", "replace")
        seconds = used.ru_utime + used.ru_stime
        memory = used.ru_maxrss * 1024
        return Outcome(status, said, seconds, memory, time.monotonic() - began)

    def _become(self, words: Sequence[str], work: Path, output: Path) -> None:
        """Be the command; does not return."""
        try:
            os.setsid()
            os.chdir(work)
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_MEMORY,) * 2)
            nowhere = os.open(os.devnull, os.O_RDONLY)
            told = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for old, new in ((nowhere, 0), (told, 1), (told, 2)):
                os.dup2(old, new)
            known = set(sys.modules)
            code = 0
            try:
                main(words)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            new = sorted(set(sys.modules) - known)
            (self.place / "modules").write_text("\n".join(new))
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _processor_time(child: int) -> float:
    """Seconds of it that a child and those of its own children that have ended have used."""
    words = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def _of_trials(work: Path) -> str:
    """What a trial of a sweep has printed that it should not have."""
    for path in work.glob("runs/*/run-*/output.txt"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.lstat().st_size < 1 << 20 and not path.is_symlink():
                text = path.read_text("utf-8", "replace")
                if "Traceback" in text:
                    return "traceback of a trial: " + text[text.index("Traceback") :]
    return ""


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """All that is in a folder: names, kinds, sizes, times, and what files hold."""
    found: dict[str, tuple[int, int, int, str]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        known = path.lstat()
        is_file = stat.S_ISREG(known.st_mode)
        content = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
        found[str(path)] = known.st_mode, known.st_size, known.st_mtime_ns, content
    return found


def remove_all(folder: Path) -> None:
    """Remove a folder, whatever may not be entered in it."""
    if not folder.exists():
        return
    os.chmod(folder, 0o700)
    for path, folders, _ in os.walk(folder):
        for name in folders:
            if not os.path.islink(os.path.join(path, name)):
                os.chmod(os.path.join(path, name), 0o700)
    shutil.rmtree(folder)


def fuzz(folders: int, seed: int, *, most: int = 20) -> tuple[list[str], str]:
    """Change `folders` folders; the faults, each with how to repeat it, and a table of figures."""
    faults: list[str] = []
    counts: Counter[str] = Counter()
    slowest = largest = 0.0
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        fuzzer = Fuzzer(place)
        for number in range(seed, seed + folders):
            fault, how, ended = fuzzer.run(str(number))
            counts["taken" if ended.status == 0 else "refused"] += 1
            slowest, largest = max(slowest, ended.seconds), max(largest, ended.memory)
            if fault:
                faults.append(
                    f"seed {number}: {fault}\n    fundamentallm {how}\n{_end_of(ended.said)}\n"
                    f"    again: python tests/faults/fuzz.py --folders 1 --seed {number}"
                )
                print(faults[-1], flush=True)
                if len(faults) >= most:
                    break
    finally:
        remove_all(place)
    return faults, (
        "| folders | from seed | taken | refused | faults | slowest, seconds | most memory, GB |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {sum(counts.values()):,} | {seed} | {counts['taken']:,} | {counts['refused']:,} | "
        f"{len(faults)} | {slowest:.1f} | {largest / 1e9:.2f} |"
    )


def _end_of(said: str) -> str:
    return "\n".join(f"    > {line[:300]}" for line in said.splitlines()[-12:])
