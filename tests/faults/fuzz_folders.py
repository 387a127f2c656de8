"""Whole folders of sweeps and runs, changed at random, and a command on each in a forked child.

A folder from others may hold anything in the place of anything. A command may use it or refuse it;
it may not end by a traceback or a signal, take longer than `SECONDS` or more than `MOST_MEMORY`, or
change anything in the home folder beside it. A case is drawn from its seed and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import ROOT, TEXT
from tiny_sweep import FLAGS, grid

from fundamentallm.cli.main import main
from fundamentallm.data import token_cache
from fundamentallm.files.ownership import MARK
from fundamentallm.sweep.engine import trial_process

SECONDS = 10
"""Of processor time. A clock on the wall would measure how busy the machine is."""
LONGEST_WAIT = 90
"""Seconds on the wall, after which a command waits for what will never come."""
MOST_MEMORY = 1e9  # bytes, at the highest
SPARE_MEMORY = 4 << 30  # bytes of addresses; beyond, a command meets MemoryError, not this machine
HUGE = 12 << 30  # bytes of a file that is all hole
DIGITS = "9" * 5000
PLACEHOLDER = 7777777770777
"""Stands for `DIGITS` until it is written: Python writes no such number."""
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
EVIL: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e308, -1e308, 5e-324, 1e-320, 1e30),
    *(2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 10**400, PLACEHOLDER),
    *(float("nan"), float("inf"), -float("inf"), "", "x", "²", "1e5", "nan", "-", "0x10", "\0"),
    *("\x1b]0;x\x07\x1b[2J", "a\nb\r\nc", "\ud800", "é" * 300, "x" * 100_000, "%s{0}{x}", "--help"),
    *("../../home", "/dev/zero", "~", "$(touch x)", "2026-01-01", "=1+1", "val_loss", "run-0001"),
    *([], {}, [[]], [None], {"x": None}, {"": ""}, {"value": 3}, [1, "x"], {"a": {"b": {"c": 1}}}),
)
LINKED = (
    *("", ".bashrc", "album", "album/photo", "bank.db", "nowhere", "nowhere/at/all"),
    *("/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem", "/proc/self/fd/0", ".", ".."),
)
ADDED = (
    *("run-0003", "run-0004", "run-9999", "run-²", "run-" + "9" * 60, "run-0001/output.txt"),
    *(".run-0002-left-1", ".run-0002-part-1", "run-0002/last.pt.part", "run-0002/.lock"),
    *("tokens/new-1", "tokens/x.json", "workers/x.lock", "wandb/run-1", "wandb/cache-1"),
    *("study.db-wal", "study.db-shm", "study.db-journal", "storage.txt", "ledger.lock"),
    *("report.html", "wandb-sweep.yaml", "run-0001/wandb-sweep.yaml", "config.yaml.part", ".lock"),
    *("runs", "run-0001/run-0001", "a\nb", "\x1b[2J", "é", "x" * 250, "summary.json"),
)  # fmt: skip


@dataclass
class Case:
    """A folder that is to be changed: its own dice, and where it lies."""

    seed: str
    work: Path
    target: Path
    """What is changed: a folder, or one file."""
    home: Path
    changes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def entry(self, *suffixes: str, folders: bool = False) -> Path | None:
        """A file or folder of the target at random."""
        found = [self.target] if self.is_own(self.target) else []
        found += sorted(self.target.rglob("*")) if found else []
        fits = [
            path
            for path in found
            if not path.is_symlink()
            and (path.is_file() or (folders and path.is_dir()))
            and (not suffixes or path.suffix in suffixes)
        ]
        return self.dice.choice(fits) if fits else None

    def is_own(self, path: Path) -> bool:
        """Whether no link leads there: what lies behind one is not changed."""
        return not any(each.is_symlink() for each in (path, *path.parents))

    def is_free(self, path: Path) -> bool:
        """Whether something can be put there."""
        return not os.path.lexists(path) and path.parent.is_dir() and self.is_own(path.parent)

    def evil(self) -> Any:
        """A value that nobody expects, or one drawn from nearby."""
        if self.dice.random() < 0.05:
            deep: Any = 1
            for _ in range(self.dice.choice([20, 40, 200])):
                deep = [deep] if self.dice.random() < 0.5 else {"x": deep}
            return deep
        return self.dice.choice(EVIL)


Change = Callable[[Case, Path], None]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_link(case: Case, path: Path) -> None:
    """A link to something in the home folder, to a device, or back into the folder."""
    _remove(path)
    where = case.dice.choice(LINKED)
    path.symlink_to(case.home / where if not where.startswith((".", "/")) else where)


def put_special(case: Case, path: Path) -> None:
    """A pipe, a socket, a device, or a link to one."""
    _remove(path)
    kind = case.dice.choice(["pipe", "socket", "zero", "full"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        folder = os.open(path.parent, os.O_RDONLY)  # its path may be too long for a socket
        with socket.socket(socket.AF_UNIX) as made, contextlib.suppress(OSError):
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    else:
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5 if kind == "zero" else 7))
        except PermissionError:
            path.symlink_to(f"/dev/{kind}")


def put_other_kind(case: Case, path: Path) -> None:
    """A folder in the place of a file, or the other way round."""
    was_folder = path.is_dir()
    _remove(path)
    if was_folder:
        path.write_bytes(case.dice.choice([b"", b"x", bytes(100), TEXT.encode()]))
    else:
        path.mkdir()
        if case.dice.random() < 0.5:
            (path / "x").write_text("x")


def change_size(case: Case, path: Path) -> None:
    """None, less, twice as much, or more than any disk has."""
    size = path.stat().st_size
    kind = case.dice.choice(["empty", "cut", "cut", "twice", "zeros", "hole", "far hole"])
    if kind == "twice":
        path.write_bytes(2 * path.read_bytes())
    elif kind == "zeros":
        path.write_bytes(bytes(size))
    else:
        new = {"empty": 0, "cut": case.dice.randrange(size + 1), "hole": HUGE}.get(kind, 1 << 41)
        os.truncate(path, new)


def change_bytes(case: Case, path: Path) -> None:
    """Some bytes replaced, put in or taken out; a checkpoint keeps a hash that is right."""
    content = path.read_bytes()
    body = content[: -32 - len(MARK)] if content.endswith(MARK) else content
    for _ in range(case.dice.randint(1, 4)):
        place = case.dice.randrange(len(body) + 1)
        new = case.dice.choice(
            [case.dice.randbytes(4), b"\xff\xfe", b"\0", b"\n", b"\x1b[2J", b"{", b"&a [*a]", b": "]
        )
        body = body[:place] + new + body[place + case.dice.choice([0, len(new), 30]) :]
    _write_body(path, body, content)


def _write_body(path: Path, body: bytes, before: bytes) -> None:
    """Write a checkpoint's `body` with its hash; what was no checkpoint gets none."""
    mark = hashlib.sha256(body).digest() + MARK if before.endswith(MARK) else b""
    path.write_bytes(body + mark)


def _altered(case: Case, content: Any) -> Any:
    """The same, but for one value, key or kind somewhere within."""
    inner = isinstance(content, dict | list) and len(content) > 0
    if not inner or case.dice.random() < 0.1:
        return case.evil()
    if isinstance(content, list):
        place = case.dice.randrange(len(content))
        new = [_altered(case, content[place])] if case.dice.random() < 0.9 else []
        return [*content[:place], *new, *content[place + 1 :]]
    name = case.dice.choice(list(content))
    kind = case.dice.random()
    if kind < 0.1:
        return {key: value for key, value in content.items() if key != name}
    if kind < 0.2:
        key = case.evil()
        return content | {key if isinstance(key, str | int | float | None) else "x": content[name]}
    return content | {name: _altered(case, content[name])}


def _as_json(content: Any) -> str:
    return json.dumps(content).replace(str(PLACEHOLDER), DIGITS)


def change_values(case: Case, path: Path) -> None:
    """Another value, type or name in a file of YAML, JSON or lines of JSON."""
    text = path.read_text("utf-8", "replace")
    with contextlib.suppress(ValueError, yaml.YAMLError, RecursionError):
        if path.suffix == ".yaml":
            new = _altered(case, yaml.safe_load(text))
            text = yaml.safe_dump(new, allow_unicode=True, sort_keys=False)
            text = text.replace(str(PLACEHOLDER), DIGITS)
        elif path.suffix == ".jsonl":
            rows = text.splitlines()
            for place in range(len(rows)):
                if case.dice.random() < 0.5:
                    rows[place] = _as_json(_altered(case, json.loads(rows[place])))
            text = "".join(row + "\n" for row in rows)
        else:
            text = _as_json(_altered(case, json.loads(text)))
    path.write_text(text, "utf-8", "surrogatepass")


def nest_deeply(case: Case, path: Path) -> None:
    """Brackets within brackets, or names that stand for ten of the name before."""
    many = case.dice.choice([50, 1000, 100_000])
    bomb = "a: &a [x]\n" + "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
        for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    deep = case.dice.choice(
        [
            *("[" * many, "[" * many + "]" * many, '{"a":' * many, "a: " + "{a: " * many),
            *(bomb, "a: &a [*a]\n", "- " * many, "a: {<<: &m {<<: *m}}\n", "? " * many),
        ]
    )  # fmt: skip
    path.write_text(path.read_text("utf-8", "replace") * case.dice.randrange(2) + deep + "\n")


def change_database(case: Case, path: Path) -> None:
    """Another value in a row of SQLite's; or rows, a table or an index gone, or views instead."""
    with contextlib.closing(sqlite3.connect(path)) as opened, contextlib.suppress(sqlite3.Error):
        names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        filled = [
            name
            for (name,) in opened.execute(names).fetchall()
            if opened.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
        ]
        table = case.dice.choice(filled)
        kind = case.dice.random()
        if kind < 0.05:
            opened.execute(f'DROP TABLE "{table}"')
        elif kind < 0.1:
            opened.execute(f'ALTER TABLE "{table}" RENAME TO other')
            opened.execute(f'CREATE VIEW "{table}" AS SELECT * FROM other')
        elif kind < 0.15:
            opened.execute("CREATE TRIGGER x AFTER UPDATE ON trials BEGIN DELETE FROM trials; END")
        else:
            rows = opened.execute(f'SELECT rowid, * FROM "{table}"').fetchall()
            row = case.dice.choice(rows)
            columns = [each[1] for each in opened.execute(f'PRAGMA table_info("{table}")')]
            place = case.dice.randrange(len(columns))
            if kind < 0.25:
                opened.execute(f'DELETE FROM "{table}" WHERE rowid = ?', row[:1])
            else:
                new = _new_cell(case, row[place + 1])
                opened.execute(
                    f'UPDATE "{table}" SET "{columns[place]}" = ? WHERE rowid = ?', (new, row[0])
                )
        opened.commit()


def _new_cell(case: Case, old: object) -> object:
    """What SQLite can keep: JSON that differs, or a value of any kind."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        if isinstance(old, str) and case.dice.random() < 0.8:
            return _as_json(_altered(case, json.loads(old)))
    states = ["RUNNING", "WAITING", "COMPLETE", "FAIL", "PRUNED", "MINIMIZE", "2026-01-01 00:00:00"]
    new = case.dice.choice([case.evil(), case.dice.choice(states), b"\xff\0"])
    if isinstance(new, str):
        new = new.encode("utf-8", "replace").decode()
    if isinstance(new, bool | int) and abs(new) >= 2**63:
        new = float(min(new, 10**300))
    return new if isinstance(new, int | float | str | bytes | None) else _as_json(new)


def change_checkpoint(case: Case, path: Path) -> None:
    """Another value, tensor or name in a checkpoint, with a hash that is right."""
    before = path.read_bytes()
    content = torch.load(io.BytesIO(before), weights_only=True)
    file = io.BytesIO()
    torch.save(_altered_state(case, content), file)
    _write_body(path, file.getvalue(), before)


def _altered_state(case: Case, content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        like = content.detach()
        return case.dice.choice(
            [
                lambda: like.to(torch.float64), lambda: like.to(torch.int8), lambda: like[..., :0],
                lambda: like.reshape(-1), lambda: torch.zeros(1), lambda: torch.tensor(1.0),
                lambda: torch.full_like(like, 9), lambda: like.to("meta"), lambda: like[..., None],
                lambda: torch.empty(1 << 40, device="meta"), lambda: like.to(torch.complex64),
                lambda: torch.zeros(1).expand(1 << 16, 1 << 16), lambda: like.to_sparse(),
                lambda: torch.full(like.shape, float("nan")), lambda: like.tolist(), case.evil,
            ]
        )()  # fmt: skip
    if isinstance(content, dict) and content and case.dice.random() < 0.9:
        name = case.dice.choice(list(content))
        kind = case.dice.random()
        if kind < 0.08:
            return {key: value for key, value in content.items() if key != name}
        if kind < 0.16:
            key = case.evil()
            return content | {key if isinstance(key, str | int) else "x": content[name]}
        return content | {name: _altered_state(case, content[name])}
    if isinstance(content, list | tuple) and content and case.dice.random() < 0.9:
        place = case.dice.randrange(len(content))
        new = [*content]
        new[place] = _altered_state(case, new[place])
        return type(content)(new)
    new = case.evil()
    return 10**200 if new == PLACEHOLDER else new


def rename(case: Case, path: Path) -> None:
    """Another name, one of ours too."""
    if path == case.target:
        return
    new = case.target / case.dice.choice(ADDED)
    if case.is_free(new) and path not in new.parents:
        path.rename(new)


def exchange(case: Case, path: Path) -> None:
    """The content of another file."""
    other = case.entry()
    if other is not None and other != path:
        path.write_bytes(other.read_bytes())


def add(case: Case, path: Path) -> None:
    """Something of any kind that was not there, under a name of ours or of nobody's."""
    new = case.target / case.dice.choice(ADDED)
    if not case.is_free(new):
        return
    kind = case.dice.choice([put_link, put_special, "file", "file", "folder"])
    if isinstance(kind, str):
        new.mkdir() if kind == "folder" else new.write_bytes(path.read_bytes()[:3000])
    else:
        kind(case, new)


def forbid(case: Case, path: Path) -> None:
    """Nobody may read it, write it, or look into it."""
    path.chmod(case.dice.choice([0o000, 0o200, 0o400, 0o444, 0o100]))


def age(case: Case, path: Path) -> None:
    """A time that no file has."""
    when = case.dice.choice([0, -(2**31), 2**33, time.time() + 1e6])
    os.utime(path, (when, when))


CHANGES: tuple[tuple[int, Change, bool, tuple[str, ...]], ...] = (
    # weight, what is done, also to folders, to files of which endings
    (4, put_link, True, ()),
    (3, put_special, True, ()),
    (2, put_other_kind, True, ()),
    (3, change_size, False, ()),
    (4, change_bytes, False, ()),
    (10, change_values, False, (".yaml", ".json", ".jsonl")),
    (2, nest_deeply, False, (".yaml", ".json", ".jsonl", ".txt")),
    (7, change_database, False, (".db",)),
    (7, change_checkpoint, False, (".pt",)),
    (2, rename, True, ()),
    (2, exchange, False, ()),
    (3, add, False, ()),
    (2, forbid, True, ()),
    (1, age, True, ()),
)


def change(case: Case) -> None:
    """Change something once to three times, as far as each change leaves room for the next."""
    weights = [each[0] for each in CHANGES]
    for _ in range(case.dice.choice([1, 1, 2, 3])):
        _, make, folders, suffixes = case.dice.choices(CHANGES, weights)[0]
        try:
            path = case.entry(*suffixes, folders=folders)
        except PermissionError:  # of a folder that `forbid` has closed
            return
        if path is None:
            continue
        case.changes.append(f"{make.__name__} {path.relative_to(case.work)}")
        try:
            if path.is_file() and path.stat().st_size > 1 << 26:  # a hole
                continue
            make(case, path)
        except Exception as error:  # by what is there since the change before
            case.changes[-1] += f" ({type(error).__name__})"


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
            if snapshot(self.home) != self.at_home:
                fault = fault or "the home folder has changed"
                remove_all(self.home)
                (self.home / "album").mkdir(parents=True)
                self._make_home()
                self.at_home = snapshot(self.home)
            if not fault:
                fault = _of_trials(case.work)
        return fault, f"{COMMANDS[name][1]}\n    {'; '.join(case.changes)}", ended

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


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that is in a folder: names, kinds, sizes, times, and what files hold."""
    found: dict[str, tuple[object, ...]] = {}
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
