"""Check that files in a run's folder were written by a run; no others are overwritten or removed.

A name such as best.pt or config.yaml proves nothing. A file proves itself by its content, or fits
what a run writes and lies beside a file that proves itself. An empty file, as a power cut may leave
it, contains nothing that could be lost.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import IO, Any

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.parsing import DATA_KEYS
from fundamentallm.files.held_folder import HeldFolder, Root, why_misplaced
from fundamentallm.files.samples import HEADING
from fundamentallm.metrics import METRICS
from fundamentallm.status import RECORDED

MARK = b"fundamentallm\x01\n"
"""Closing mark: the last bytes of a checkpoint."""
LOCK = ".lock"
FEWEST_NAMES = 20
"""Hyperparameters in every config.yaml and checkpoint, also of the first version, which had 28."""
OF_A_RUN = ("stopped_by", "total_steps", "process")
"""Keys of summary.json, of which it has at least one."""
PROGRAM_CONFIG = "# Settings of a run of another program, recorded by fundamentallm.\n"
"""First line of config.yaml in the folder of such a run."""
HEAD = 1 << 16
"""Bytes to read from the start of a file."""


class Verdict(Enum):
    """Judgment of who wrote a file, by its content."""

    FOREIGN = "not a run"
    FITS = "a run, if a file beside it proves itself"
    PROVES = "a run"


def why_foreign(folder: Path, root: Root | None = None) -> str:
    """Return why a run must not write into `folder`: it has a file that no run wrote.

    Args:
        folder: The run's folder; it need not exist.
        root: Below it no link is followed; by default `folder`.

    Returns:
        One line that names the file; "" if every file with a run's name was written by a run.
    """
    if misplaced := why_misplaced(folder, files=FILES):
        return misplaced
    try:
        with HeldFolder(folder, root) as held:
            contents = {name: _content(held, name) for name in JUDGES}
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{error.filename}: {error.strerror}; nothing is written beside it"
    contents = {name: content for name, content in contents.items() if content.strip(b"\0")}
    verdicts = {name: JUDGES[name](content) for name, content in contents.items()}
    if _is_of_another_program(contents) and "metrics.jsonl" in verdicts:
        verdicts["metrics.jsonl"] = Verdict.FITS
    if verdicts.get("config.yaml") == Verdict.FITS and not _never_trained(contents):
        verdicts["config.yaml"] = Verdict.FOREIGN
    if Verdict.PROVES not in verdicts.values():
        verdicts = dict.fromkeys(verdicts, Verdict.FOREIGN)
    for name, verdict in verdicts.items():
        if verdict == Verdict.FOREIGN:
            return (
                f"{folder / name}: not written by a run of fundamentallm; move it away, or give "
                "another folder"
            )
    return ""


def _content(folder: HeldFolder, name: str) -> bytes:
    """Return the file's first and last bytes; empty if it is missing."""
    if not folder.has(name):
        return b""
    with folder.open(name, "rb") as file:
        content = file.read(HEAD)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(len(content), size - len(MARK)))
        return content + file.read()


def ends_with_mark(file: IO[bytes]) -> bool:
    """Return whether an open file ends with a checkpoint's mark, without reading the rest."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - len(MARK)))
    return file.read() == MARK


def _judge_config(content: bytes) -> Verdict:
    """Judge a configuration: complete, it proves itself; a run that never trained leaves a part."""
    if content.startswith(PROGRAM_CONFIG.encode()):
        return Verdict.PROVES
    names = {name.decode() for name in re.findall(rb"^(\w+): ", content, re.MULTILINE)}
    if len(names & set(HYPERPARAMETERS)) >= FEWEST_NAMES and names >= set(DATA_KEYS):
        return Verdict.PROVES
    known = names <= {*HYPERPARAMETERS, *DATA_KEYS}
    return Verdict.FITS if known else Verdict.FOREIGN


def _judge_checkpoint(content: bytes) -> Verdict:
    """Judge a checkpoint by its mark or, if it was cut short, by its hyperparameters' names."""
    named = sum(name.encode() in content for name in HYPERPARAMETERS)
    whole = content.endswith(MARK)
    return Verdict.PROVES if whole or named >= FEWEST_NAMES else Verdict.FOREIGN


def _judge_summary(content: bytes) -> Verdict:
    summary = _parsed(content)
    if summary.get("status") not in RECORDED:
        return Verdict.FOREIGN
    return Verdict.PROVES if any(key in summary for key in OF_A_RUN) else Verdict.FITS


def _judge_metrics(content: bytes) -> Verdict:
    """Judge metrics by the first row; later ones may be cut short by a power cut."""
    line, end, _ = content.partition(b"\n")
    if not line.startswith(b'{"step": '):
        return Verdict.FOREIGN
    fits = not end or any(key in METRICS for key in _parsed(line))
    return Verdict.FITS if fits else Verdict.FOREIGN


def _judge_samples(content: bytes) -> Verdict:
    first, end, _ = content.decode("utf-8", "replace").partition("\n")
    fits = HEADING.match(first + "\n") if end else first.startswith("step ")
    return Verdict.FITS if fits else Verdict.FOREIGN


def _judge_wandb_id(content: bytes) -> Verdict:
    return Verdict.FITS if len(content.split(b"\n")) <= 2 else Verdict.FOREIGN


def _judge_lock(content: bytes) -> Verdict:
    """Judge a lock: ours is empty, and taking it would empty any other file."""
    return Verdict.FOREIGN


JUDGES: Mapping[str, Callable[[bytes], Verdict]] = {
    "config.yaml": _judge_config,
    "metrics.jsonl": _judge_metrics,
    "summary.json": _judge_summary,
    "samples.txt": _judge_samples,
    "best.pt": _judge_checkpoint,
    "last.pt": _judge_checkpoint,
    "trunk.pt": _judge_checkpoint,
    "wandb-id.txt": _judge_wandb_id,
    LOCK: _judge_lock,
}
FILES = "|".join(map(re.escape, (*JUDGES, "output.txt", "wandb-sweep.yaml")))
FILES = rf"({FILES})(\.part)?"
"""Pattern of the names of a run's files."""


def _never_trained(contents: Mapping[str, bytes]) -> bool:
    """Return whether a summary says that the run never trained, e.g. refused or impossible."""
    content = contents.get("summary.json", b"")
    proved = bool(content) and _judge_summary(content) == Verdict.PROVES
    return proved and not _parsed(content).get("total_steps")


def _is_of_another_program(contents: Mapping[str, bytes]) -> bool:
    """Return whether metrics.jsonl may hold any metric: another program's, in rows of ours."""
    content, rows = contents.get("summary.json", b""), contents.get("metrics.jsonl", b"")
    has_rows = rows.startswith(b'{"step": ')
    return has_rows and "program" in _parsed(content) and _judge_summary(content) == Verdict.PROVES


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
