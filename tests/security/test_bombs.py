"""Untrusted files that expand, nest deeply or are of a wrong kind get one error line at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fundamentallm.cli.storage import lease_seconds
from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import DataError, Text, read_lasting_text
from fundamentallm.files.atomic import DiskError
from fundamentallm.files.ownership import MARK
from fundamentallm.files.run_folder import RunFolder, RunFolderError, read_flat_yaml
from fundamentallm.report.read_runs import read_run
from fundamentallm.report.results import plain_summary
from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.diagnostics import Diagnostics, SweepError
from fundamentallm.sweep.file.parameters import read_distribution
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.file.yaml_reader import parse_sweep_yaml
from fundamentallm.sweep.store.records import score_of
from fundamentallm.sweep.wandb_agent import Assignment
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError
from fundamentallm.training.loop import train
from fundamentallm.training.reuse import adopt

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
        "a: &a {<<: *a}",
        "a: " + "[" * 40 + "]" * 40,
        "a: &a0 [1]\n" + "\n".join(f"b{n}: &a{n + 1} [*a{n}]" for n in range(40)),
        "a: [" + "1, " * 60_000 + "1]\nb: [" + "1, " * 60_000 + "1]",
        "a: " + "9" * 6000,
        "a: *b",
        "a: 1\n5: 2",
        "a: [{b: 1, 2: 3}]",
        "a: [[{b: 1}]]",
    ],
    ids=["aliases", "a circle", "a circle of mappings", "a merge of itself", "deep",
         "deep by aliases", "wide", "digits", "an alias of nothing", "a key of another kind",
         "a mapping in a list", "deeper"],
)  # fmt: skip
def test_settings_that_expand_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=r"config\.yaml"):
        read_flat_yaml(path)


def test_settings_with_aliases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a [1, 2]\nb: *a\nc: &c x\nd: *c\n")
    assert read_flat_yaml(path) == {"a": [1, 2], "b": [1, 2], "c": "x", "d": "x"}


def sparse(path: Path, size: int = 12 << 30) -> None:
    """Create a sparse file of `size` bytes that ends like a checkpoint."""
    with path.open("wb") as file:
        file.seek(size - len(MARK))
        file.write(MARK)


def refused(read: Callable[[], object]) -> None:
    with pytest.raises(RunFolderError):
        read()


READERS: dict[str, Callable[[RunFolder], object]] = {
    "config.yaml": lambda folder: refused(folder.read_config),
    "summary.json": lambda folder: not folder.read_summary() or pytest.fail("accepted"),
    "metrics.jsonl": lambda folder: not list(folder.rows()) or pytest.fail("accepted"),
    "samples.txt": lambda folder: not list(folder.read_samples()) or pytest.fail("accepted"),
}


@pytest.mark.parametrize("create", [sparse, os.mkfifo, os.mkdir], ids=["sparse", "pipe", "folder"])
@pytest.mark.parametrize("name", READERS)
def test_readers_refuse_what_is_not_a_file_of_a_run(
    name: str, create: Callable[[Path], None], tmp_path: Path
) -> None:
    create(tmp_path / name)
    READERS[name](RunFolder(tmp_path))


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt"])
def test_an_unreadable_file_is_not_rewound(name: str, tmp_path: Path) -> None:
    sparse(tmp_path / name)
    with pytest.raises(DiskError, match="larger than"):
        RunFolder(tmp_path).rewind(5)
    assert (tmp_path / name).stat().st_size == 12 << 30


def test_a_sparse_checkpoint_is_refused_by_its_end(tmp_path: Path) -> None:
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
def test_a_metric_that_is_not_a_number_is_ignored(value: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = [f'{{"step": 1, "val_loss": {value}}}', '{"step": 2, "val_loss": 1.5}']
    folder.metrics.write_text("\n".join(rows) + "\n")
    assert list(folder.rows()) == [{"step": 1}, {"step": 2, "val_loss": 1.5}]
    assert score_of(folder, RunStatus.DONE, LOSS) == 1.5
    folder.metrics.write_text(rows[0] + "\n")
    folder.summary.write_text(f'{{"val_loss": {value}}}')
    assert score_of(folder, RunStatus.DONE, LOSS) is None
    assert score_of(folder, RunStatus.DIVERGED, LOSS) is None


@pytest.mark.parametrize("step", [-1, 10**400, True, "1", None, 1.5])
def test_a_row_with_an_invalid_step_is_ignored(step: object, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(json.dumps({"step": step, "val_loss": 1}) + "\n")
    assert not list(folder.rows())


def test_a_quantum_too_small_for_floats_is_refused() -> None:
    diagnostics = Diagnostics("x.yaml")
    entry = {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 1.0e-320}
    assert read_distribution(entry, ("parameters", "dropout"), diagnostics) is None
    assert "q" in str(vars(diagnostics))


@pytest.mark.parametrize("lease", ["²", "٣٣", "1" * 5000, "x"])
def test_an_invalid_lease_is_refused(lease: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNDAMENTALLM_LEASE", lease)
    with pytest.raises(SweepError, match="give whole seconds"):
        lease_seconds()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def aliases(path: Path) -> None:
    path.write_text(doubled(30))


def digits(path: Path) -> None:
    path.write_text("seed: {value: " + "9" * 6000 + "}")


def not_utf_8(path: Path) -> None:
    path.write_bytes(b"seed: {value: \xff}")


@pytest.mark.parametrize("create", [sparse, fifo, os.mkdir, aliases, digits, not_utf_8])
def test_an_invalid_values_file_of_an_agent_is_refused(
    create: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    create(path)
    names = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
    with pytest.raises(ConfigError, match="not a file of sweep values"):
        Assignment.from_environment(dict(zip(names, ("s", "r", str(path)), strict=True)))


def test_a_pipe_is_refused_as_text_of_a_sweep(tmp_path: Path) -> None:
    """The pipe has no writer, so reading it would block forever."""
    os.mkfifo(tmp_path / "text")
    with pytest.raises(DataError, match="it can be read only once"):
        read_lasting_text(tmp_path / "text")


def test_a_summary_with_wrong_types() -> None:
    odd = {"status": ["done"], "stopped_by": {"a": 1}, "device": 5, "step": "x", "threads": 2}
    assert plain_summary(odd) == {"threads": 2}


@pytest.mark.parametrize("value", ["1" + "0" * 400, ".nan", "-.inf"])
@pytest.mark.parametrize("name", ["seed", "of_another_program"])
def test_a_setting_out_of_range_is_dropped(name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"{name}: {value}\nnum_heads: 2\n")
    notes: list[str] = []
    assert read_run(tmp_path, "a", LOSS, notes).settings == {"num_heads": 2}
    assert any("config.yaml: " in note and "it is left out" in note for note in notes)


def test_an_invalid_run_is_not_continued(tiny: Config, text: str, tmp_path: Path) -> None:
    before, after = RunFolder(tmp_path / "before"), RunFolder(tmp_path / "after")
    before.create()
    after.create()
    config = replace(tiny, lr_schedule="wsd", max_steps=10, eval_every=5)
    train(config, text, folder=before, trackers=[FolderTracker(before)], device="cpu")
    longer = replace(config, max_steps=0, epochs=1_000_000)
    dataset = prepare(Text.of(text), longer)

    def adopted() -> Checkpoint | None:
        return adopt(before, after, longer, dataset, torch.device("cpu"))

    trunk = Checkpoint.load(before.trunk)
    wide = {name: each.unsqueeze(0) for name, each in trunk.best["model"].items()}
    bombs: list[dict[str, object]] = [
        {"progress": {**trunk.progress, "step": 10**8}},
        {"progress": {**trunk.progress, "reused_from": 1}},
        {"best": {}},
        {"best": {"model": 1, "progress": {}}},
        {"best": {**trunk.best, "model": {}}},
        {"best": {**trunk.best, "model": wide}},
        {"best": {**trunk.best, "progress": {}}},
    ]
    for bomb in bombs:
        replace(trunk, **bomb).save(before.trunk)  # pyright: ignore[reportArgumentType]
        assert adopted() is None
        assert list(after.path.iterdir()) == []
    trunk.save(before.trunk)
    assert adopted() is not None
    assert after.last.exists()


@pytest.mark.parametrize("text", ["a: &a {<<: *a}", "a: &a {<<: [*a, *a]}"])
def test_a_mapping_that_merges_itself(text: str) -> None:
    with pytest.raises(SweepError, match=r"s\.yaml:1: &a contains itself"):
        parse_sweep_yaml(text, "s.yaml")
