"""Random changes of a folder's files: links, special files, sizes, values, tables, tensors, names.

The seed of a `Case` alone determines its changes.
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

HUGE = 12 << 30  # bytes of a sparse file
DIGITS = "9" * 5000
PLACEHOLDER = 7777777770777
"""Replaced by `DIGITS` in the written file: Python refuses to format such a number."""
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
    """Folder to change, with its own random generator."""

    seed: str
    work: Path
    target: Path
    """Folder or file to change."""
    home: Path
    changes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def entry(self, *suffixes: str, folders: bool = False) -> Path | None:
        """Return a random file or folder of the target."""
        paths = [self.target] if self.is_own(self.target) else []
        paths += sorted(self.target.rglob("*")) if paths else []
        fits = [
            path
            for path in paths
            if not path.is_symlink()
            and (path.is_file() or (folders and path.is_dir()))
            and (not suffixes or path.suffix in suffixes)
        ]
        return self.rng.choice(fits) if fits else None

    def is_own(self, path: Path) -> bool:
        """Return True if no link is on the path: nothing behind a link is changed."""
        return not any(each.is_symlink() for each in (path, *path.parents))

    def is_free(self, path: Path) -> bool:
        """Return True if a new entry can be created at `path`."""
        return not os.path.lexists(path) and path.parent.is_dir() and self.is_own(path.parent)

    def evil(self) -> Any:
        """Return an unexpected value, sometimes deeply nested."""
        if self.rng.random() < 0.05:
            deep: Any = 1
            for _ in range(self.rng.choice([20, 40, 200])):
                deep = [deep] if self.rng.random() < 0.5 else {"x": deep}
            return deep
        return self.rng.choice(EVIL)


Change = Callable[[Case, Path], None]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_link(case: Case, path: Path) -> None:
    """Put a link to the home folder, to a device, or back into the folder."""
    _remove(path)
    where = case.rng.choice(LINKED)
    path.symlink_to(case.home / where if not where.startswith((".", "/")) else where)


def put_special(case: Case, path: Path) -> None:
    """Put a pipe, a socket, a device, or a link to a device."""
    _remove(path)
    kind = case.rng.choice(["pipe", "socket", "zero", "full"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        folder = os.open(path.parent, os.O_RDONLY)  # the path may be too long for a socket
        with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    else:
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5 if kind == "zero" else 7))
        except PermissionError:
            path.symlink_to(f"/dev/{kind}")


def put_other_kind(case: Case, path: Path) -> None:
    """Put a folder in place of a file, or a file in place of a folder."""
    was_folder = path.is_dir()
    _remove(path)
    if was_folder:
        path.write_bytes(case.rng.choice([b"", b"x", bytes(100), TEXT.encode()]))
    else:
        path.mkdir()
        if case.rng.random() < 0.5:
            (path / "x").write_text("x")


def change_size(case: Case, path: Path) -> None:
    """Empty, cut, double or zero a file, or extend it beyond any disk."""
    size = path.stat().st_size
    kind = case.rng.choice(["empty", "cut", "cut", "twice", "zeros", "hole", "far hole"])
    if kind == "twice":
        path.write_bytes(2 * path.read_bytes())
    elif kind == "zeros":
        path.write_bytes(bytes(size))
    else:
        new = {"empty": 0, "cut": case.rng.randrange(size + 1), "hole": HUGE}.get(kind, 1 << 41)
        os.truncate(path, new)


def change_bytes(case: Case, path: Path) -> None:
    """Replace, insert or remove some bytes; a checkpoint keeps a valid hash."""
    content = path.read_bytes()
    body = content[: -32 - len(MARK)] if content.endswith(MARK) else content
    for _ in range(case.rng.randint(1, 4)):
        index = case.rng.randrange(len(body) + 1)
        new = case.rng.choice(
            [case.rng.randbytes(4), b"\xff\xfe", b"\0", b"\n", b"\x1b[2J", b"{", b"&a [*a]", b": "]
        )
        body = body[:index] + new + body[index + case.rng.choice([0, len(new), 30]) :]
    _write_body(path, body, content)


def _write_body(path: Path, body: bytes, before: bytes) -> None:
    """Write `body`, with a valid hash if the file was a checkpoint."""
    mark = hashlib.sha256(body).digest() + MARK if before.endswith(MARK) else b""
    path.write_bytes(body + mark)


def _altered(case: Case, content: Any) -> Any:
    """Return `content` with one value, key or type changed."""
    inner = isinstance(content, dict | list) and len(content) > 0
    if not inner or case.rng.random() < 0.1:
        return case.evil()
    if isinstance(content, list):
        index = case.rng.randrange(len(content))
        new = [_altered(case, content[index])] if case.rng.random() < 0.9 else []
        return [*content[:index], *new, *content[index + 1 :]]
    name = case.rng.choice(list(content))
    kind = case.rng.random()
    if kind < 0.1:
        return {key: value for key, value in content.items() if key != name}
    if kind < 0.2:
        key = case.evil()
        return content | {key if isinstance(key, str | int | float | None) else "x": content[name]}
    return content | {name: _altered(case, content[name])}


def _as_json(content: Any) -> str:
    return json.dumps(content).replace(str(PLACEHOLDER), DIGITS)


def change_values(case: Case, path: Path) -> None:
    """Change a value, type or name in a YAML, JSON or JSON-lines file."""
    text = path.read_text("utf-8", "replace")
    with contextlib.suppress(ValueError, yaml.YAMLError, RecursionError):
        if path.suffix == ".yaml":
            new = _altered(case, yaml.safe_load(text))
            text = yaml.safe_dump(new, allow_unicode=True, sort_keys=False)
            text = text.replace(str(PLACEHOLDER), DIGITS)
        elif path.suffix == ".jsonl":
            rows = text.splitlines()
            for index in range(len(rows)):
                if case.rng.random() < 0.5:
                    rows[index] = _as_json(_altered(case, json.loads(rows[index])))
            text = "".join(row + "\n" for row in rows)
        else:
            text = _as_json(_altered(case, json.loads(text)))
    path.write_text(text, "utf-8", "surrogatepass")


def nest_deeply(case: Case, path: Path) -> None:
    """Write deep nesting, or aliases that expand exponentially."""
    many = case.rng.choice([50, 1000, 100_000])
    bomb = "a: &a [x]\n" + "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
        for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    deep = case.rng.choice(
        [
            *("[" * many, "[" * many + "]" * many, '{"a":' * many, "a: " + "{a: " * many),
            *(bomb, "a: &a [*a]\n", "- " * many, "a: {<<: &m {<<: *m}}\n", "? " * many),
        ]
    )  # fmt: skip
    path.write_text(path.read_text("utf-8", "replace") * case.rng.randrange(2) + deep + "\n")


def change_database(case: Case, path: Path) -> None:
    """Change a cell, delete rows or a table, or replace a table with a view."""
    with contextlib.closing(sqlite3.connect(path)) as opened, contextlib.suppress(sqlite3.Error):
        names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        filled = [
            name
            for (name,) in opened.execute(names).fetchall()
            if opened.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
        ]
        table = case.rng.choice(filled)
        kind = case.rng.random()
        if kind < 0.05:
            opened.execute(f'DROP TABLE "{table}"')
        elif kind < 0.1:
            opened.execute(f'ALTER TABLE "{table}" RENAME TO other')
            opened.execute(f'CREATE VIEW "{table}" AS SELECT * FROM other')
        elif kind < 0.15:
            opened.execute("CREATE TRIGGER x AFTER UPDATE ON trials BEGIN DELETE FROM trials; END")
        else:
            rows = opened.execute(f'SELECT rowid, * FROM "{table}"').fetchall()
            row = case.rng.choice(rows)
            columns = [each[1] for each in opened.execute(f'PRAGMA table_info("{table}")')]
            index = case.rng.randrange(len(columns))
            if kind < 0.25:
                opened.execute(f'DELETE FROM "{table}" WHERE rowid = ?', row[:1])
            else:
                new = _new_cell(case, row[index + 1])
                opened.execute(
                    f'UPDATE "{table}" SET "{columns[index]}" = ? WHERE rowid = ?', (new, row[0])
                )
        opened.commit()


def _new_cell(case: Case, old: object) -> object:
    """Return a new value that SQLite can store: altered JSON, or a value of any type."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        if isinstance(old, str) and case.rng.random() < 0.8:
            return _as_json(_altered(case, json.loads(old)))
    states = ["RUNNING", "WAITING", "COMPLETE", "FAIL", "PRUNED", "MINIMIZE", "2026-01-01 00:00:00"]
    new = case.rng.choice([case.evil(), case.rng.choice(states), b"\xff\0"])
    if isinstance(new, str):
        new = new.encode("utf-8", "replace").decode()
    if isinstance(new, bool | int) and abs(new) >= 2**63:
        new = float(min(new, 10**300))
    return new if isinstance(new, int | float | str | bytes | None) else _as_json(new)


def change_checkpoint(case: Case, path: Path) -> None:
    """Change a value, tensor or name in a checkpoint and keep its hash valid."""
    before = path.read_bytes()
    content = torch.load(io.BytesIO(before), weights_only=True)
    file = io.BytesIO()
    torch.save(_altered_state(case, content), file)
    _write_body(path, file.getvalue(), before)


def _altered_state(case: Case, content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        like = content.detach()
        return case.rng.choice(
            [
                lambda: like.to(torch.float64), lambda: like.to(torch.int8), lambda: like[..., :0],
                lambda: like.reshape(-1), lambda: torch.zeros(1), lambda: torch.tensor(1.0),
                lambda: torch.full_like(like, 9), lambda: like.to("meta"), lambda: like[..., None],
                lambda: torch.empty(1 << 40, device="meta"), lambda: like.to(torch.complex64),
                lambda: torch.zeros(1).expand(1 << 16, 1 << 16), lambda: like.to_sparse(),
                lambda: torch.full(like.shape, float("nan")), lambda: like.tolist(), case.evil,
            ]
        )()  # fmt: skip
    if isinstance(content, dict) and content and case.rng.random() < 0.9:
        name = case.rng.choice(list(content))
        kind = case.rng.random()
        if kind < 0.08:
            return {key: value for key, value in content.items() if key != name}
        if kind < 0.16:
            key = case.evil()
            return content | {key if isinstance(key, str | int) else "x": content[name]}
        return content | {name: _altered_state(case, content[name])}
    if isinstance(content, list | tuple) and content and case.rng.random() < 0.9:
        index = case.rng.randrange(len(content))
        new = [*content]
        new[index] = _altered_state(case, new[index])
        return type(content)(new)
    new = case.evil()
    return 10**200 if new == PLACEHOLDER else new


def rename(case: Case, path: Path) -> None:
    """Rename a file or folder, sometimes to a name of ours."""
    if path == case.target:
        return
    new = case.target / case.rng.choice(ADDED)
    if case.is_free(new) and path not in new.parents:
        path.rename(new)


def exchange(case: Case, path: Path) -> None:
    """Replace a file's content with that of another file."""
    other = case.entry()
    if other is not None and other != path:
        path.write_bytes(other.read_bytes())


def add(case: Case, path: Path) -> None:
    """Add a file, folder, link or special file, sometimes under a name of ours."""
    new = case.target / case.rng.choice(ADDED)
    if not case.is_free(new):
        return
    kind = case.rng.choice([put_link, put_special, "file", "file", "folder"])
    if isinstance(kind, str):
        new.mkdir() if kind == "folder" else new.write_bytes(path.read_bytes()[:3000])
    else:
        kind(case, new)


def forbid(case: Case, path: Path) -> None:
    """Remove permissions to read, write or list."""
    path.chmod(case.rng.choice([0o000, 0o200, 0o400, 0o444, 0o100]))


def age(case: Case, path: Path) -> None:
    """Set an impossible modification time."""
    when = case.rng.choice([0, -(2**31), 2**33, time.time() + 1e6])
    os.utime(path, (when, when))


CHANGES: tuple[tuple[int, Change, bool, tuple[str, ...]], ...] = (
    # weight, change, whether it applies to folders, file suffixes
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
    """Make one to three changes, as far as earlier ones permit."""
    weights = [each[0] for each in CHANGES]
    for _ in range(case.rng.choice([1, 1, 2, 3])):
        _, make, folders, suffixes = case.rng.choices(CHANGES, weights)[0]
        try:
            path = case.entry(*suffixes, folders=folders)
        except PermissionError:  # raised below a folder that `forbid` has closed
            return
        if path is None:
            continue
        case.changes.append(f"{make.__name__} {path.relative_to(case.work)}")
        try:
            if path.is_file() and path.stat().st_size > 1 << 26:  # sparse
                continue
            make(case, path)
        except Exception as error:  # an earlier change is in the way
            case.changes[-1] += f" ({type(error).__name__})"
