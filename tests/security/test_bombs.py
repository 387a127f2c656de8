"""Files of others that are larger than they look, deeper, or of another kind: one line, at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fundamentallm.checkpoint import Checkpoint, CheckpointError
from fundamentallm.cli.storage import lease_seconds
from fundamentallm.disk import DiskError
from fundamentallm.ownership import MARK
from fundamentallm.run_folder import RunFolder, RunFolderError, read_flat_yaml
from fundamentallm.sweep.findings import Findings, SweepError
from fundamentallm.sweep.parameters import read_distribution
from fundamentallm.sweep.records import score_of
from fundamentallm.sweep.spec import Metric

LOSS = Metric("val_loss", "minimize")


def doubled(times: int) -> str:
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, times)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        doubled(30),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: " + "[" * 40 + "]" * 40,
        "a: &a0 [1]\n" + "\n".join(f"b{n}: &a{n + 1} [*a{n}]" for n in range(40)),
        "a: [" + "1, " * 60_000 + "1]\nb: [" + "1, " * 60_000 + "1]",
        "a: " + "9" * 6000,
        "a: *b",
    ],
    ids=["aliases", "a circle", "a circle of mappings", "deep", "deep by aliases", "wide", "digits",
         "an alias of nothing"],
)  # fmt: skip
def test_settings_that_are_bombs(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=r"config\.yaml"):
        read_flat_yaml(path)


def test_settings_with_aliases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a [1, 2]\nb: *a\nc: &c x\nd: *c\n")
    assert read_flat_yaml(path) == {"a": [1, 2], "b": [1, 2], "c": "x", "d": "x"}


def sparse(path: Path, size: int = 12 << 30) -> None:
    """A file of `size` bytes that takes no disk, and ends as a checkpoint does."""
    with path.open("wb") as file:
        file.seek(size - len(MARK))
        file.write(MARK)


def refused(read: Callable[[], object]) -> None:
    with pytest.raises(RunFolderError):
        read()


READERS: dict[str, Callable[[RunFolder], object]] = {
    "config.yaml": lambda folder: refused(folder.read_config),
    "summary.json": lambda folder: not folder.read_summary() or pytest.fail("taken"),
    "metrics.jsonl": lambda folder: not list(folder.rows()) or pytest.fail("taken"),
    "samples.txt": lambda folder: not list(folder.written()) or pytest.fail("taken"),
}


@pytest.mark.parametrize("made", [sparse, os.mkfifo, os.mkdir], ids=["sparse", "pipe", "folder"])
@pytest.mark.parametrize("name", READERS)
def test_no_reader_of_a_run_takes_what_is_no_file_of_it(
    name: str, made: Callable[[Path], None], tmp_path: Path
) -> None:
    made(tmp_path / name)
    READERS[name](RunFolder(tmp_path))


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt"])
def test_what_cannot_be_read_is_not_rewound(name: str, tmp_path: Path) -> None:
    sparse(tmp_path / name)
    with pytest.raises(DiskError, match="larger than"):
        RunFolder(tmp_path).rewind(5)
    assert (tmp_path / name).stat().st_size == 12 << 30


def test_a_checkpoint_of_holes_is_refused_by_its_end(tmp_path: Path) -> None:
    with (tmp_path / "best.pt").open("wb") as file:
        file.truncate(12 << 30)
    with pytest.raises(CheckpointError, match="the closing mark is missing"):
        Checkpoint.load(tmp_path / "best.pt")
    sparse(tmp_path / "last.pt", 12 << 40)
    with pytest.raises(CheckpointError, match="larger than"):
        Checkpoint.load(tmp_path / "last.pt")


@pytest.mark.parametrize(
    "value", ['"x"', "null", "NaN", "Infinity", "[1]", "true", "1" + "0" * 400]
)
def test_a_value_that_is_no_number_is_no_value(value: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = [f'{{"step": 1, "val_loss": {value}}}', '{"step": 2, "val_loss": 1.5}']
    folder.metrics.write_text("\n".join(rows) + "\n")
    assert list(folder.rows()) == [{"step": 1}, {"step": 2, "val_loss": 1.5}]
    assert score_of(folder, "done", LOSS) == 1.5
    folder.metrics.write_text(rows[0] + "\n")
    folder.summary.write_text(f'{{"val_loss": {value}}}')
    assert score_of(folder, "done", LOSS) is None
    assert score_of(folder, "diverged", LOSS) is None


@pytest.mark.parametrize("step", [-1, 10**400, True, "1", None, 1.5])
def test_a_step_that_is_none(step: object, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(json.dumps({"step": step, "val_loss": 1}) + "\n")
    assert not list(folder.rows())


def test_steps_too_small_for_numbers() -> None:
    findings = Findings("x.yaml")
    entry = {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 1.0e-320}
    assert read_distribution(entry, ("parameters", "dropout"), findings) is None
    assert "q" in str(vars(findings))


@pytest.mark.parametrize("lease", ["²", "٣٣", "1" * 5000, "x"])
def test_a_lease_that_is_none(lease: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNDAMENTALLM_LEASE", lease)
    with pytest.raises(SweepError, match="give whole seconds"):
        lease_seconds()
