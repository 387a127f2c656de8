"""A run that an agent hands out again and that cannot go on loses nothing by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run

from fundamentallm.files.run_folder import RunFolder


@pytest.fixture
def requeued(
    run: Run,
    text_file: Path,
    tiny_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RunFolder:
    """The folder of a run of a sweep that has trained; every process is now told to do it."""
    values = tmp_path / "config-abc.yaml"
    values.write_text("wandb_version: 1\nseed: {value: 1}\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(values))
    assert run("train", text_file, *tiny_flags).returncode == 0
    return RunFolder(tmp_path / "runs/abc")


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.files if file.exists()}


def test_when_its_text_is_gone(
    requeued: RunFolder, run: Run, text_file: Path, tiny_flags: list[str]
) -> None:
    before = contents(requeued)
    assert before["metrics.jsonl"].count(b"\n") >= 3
    text_file.rename(text_file.with_suffix(".away"))
    refused = run("train", text_file, *tiny_flags)
    assert refused.returncode == 2, refused.stderr
    assert "cats.txt" in refused.stderr
    assert contents(requeued) == before
    text_file.with_suffix(".away").rename(text_file)
    assert run("train", text_file, *tiny_flags).returncode == 0


def test_while_it_still_goes_on(
    requeued: RunFolder, run: Run, text_file: Path, tiny_flags: list[str]
) -> None:
    before = contents(requeued)
    with requeued.held():
        refused = run("train", text_file, *tiny_flags)
    assert refused.returncode == 2, refused.stderr
    assert "a run is in progress there" in refused.stderr
    assert contents(requeued) == before
