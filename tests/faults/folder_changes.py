"""Random changes of a folder's files: links, special files, sizes, values, tables, tensors, names.

What is changed, and how, is drawn from the seed of a `Case` and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import socket
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import TEXT

from fundamentallm.files.ownership import MARK

HUGE = 12 << 30  # bytes of a file that is all hole
DIGITS = "9" * 5000
PLACEHOLDER = 7777777770777
"""Stands for `DIGITS` until it is written: Python writes no such number."""
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
