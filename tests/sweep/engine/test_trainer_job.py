"""Jobs: the text and the device of each run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sweep import grid

from fundamentallm.cli import worker
from fundamentallm.sweep.engine.trainer_job import TextSource, TrainerJobs
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run as SweepRun
from fundamentallm.sweep.store.records import Trial
from fundamentallm.sweep.store.sweep_folder import SweepFolder


def test_a_text_that_the_sweep_names_is_looked_for_where_it_was_made(tmp_path: Path) -> None:
    data = TextSource(None, "", "", {"cats.txt": "12"}, str(tmp_path))
    here = str(Path("cats.txt").absolute())
    assert data.text("cats.txt") == (here, "cats.txt", "12")
    (tmp_path / "cats.txt").touch()
    assert data.text("cats.txt") == (str(tmp_path / "cats.txt"), "cats.txt", "12")
    assert data.text("built-in") == (None, "built-in", "")


def test_gpus_are_shared_out_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial sees one, as its first; two on each at a time."""
    monkeypatch.setattr("fundamentallm.machine.gpus.visible_gpus", lambda device: ["3", "GPU-ab"])
    here = worker.resources_here(None, 2, "cuda:1", None)
    assert (here.workers, here.fixed) == (4, True)
    assert worker.resources_here(None, None, "cuda", None).workers == 2 * worker.MAX_WORKERS_PER_GPU
    assert worker.resources_here(None, None, "cuda", 3).workers == 3
    space = SearchSpace(parse_sweep(grid(), "t.yaml"), {})
    folder = SweepFolder(tmp_path)
    folder.create_run(0)
    jobs = TrainerJobs(folder, space, TextSource(None, "t", ""), here, hang_timeout=1.0)
    values = {"learning_rate": 0.1, "seed": 1, "max_steps": 2, "eval_every": 1}
    run = SweepRun(0, (Trial(0, 0, values, "running", "me"),))
    seen = [jobs.job(run, slot) for slot in range(4)]
    assert [job.visible_gpu for job in seen] == ["3", "GPU-ab", "3", "GPU-ab"]
    assert {job.device for job in seen} == {"cuda"}
