"""A folder that is moved or removed while it is written: nothing is made anew in its old place."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from optuna.trial import TrialState
from tiny_sweep import FLAGS, grid, start, summaries, trials, wait_for

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.sweep.file.diagnostics import DisplacedError
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder


def remove(folder: Path) -> None:
    """Remove a folder in which something may still be made."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


MOVES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "renamed": (lambda root: (root / "runs/a").rename(root / "runs/b"), "runs/b"),
    "its parent renamed": (lambda root: (root / "runs").rename(root / "other"), "other/a"),
    "removed": (lambda root: remove(root / "runs/a"), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", MOVES)
def test_a_live_sweep(how: str, run: Run, tmp_path: Path, text_file: Path) -> None:
    move, now = MOVES[how]
    (tmp_path / "tiny.yaml").write_text(grid(rates=2, seeds=4, steps=200, every=20))
    words = ("tiny.yaml", text_file, "--output-dir=runs/a", "--workers=2")
    live = start(tmp_path, "sweep", *words, "--", *FLAGS)
    wait_for(lambda: list(tmp_path.glob("runs/a/run-0003/last.pt")))
    move(tmp_path)
    joined = run("agent", now, "--workers=1") if now else None
    said = live.communicate(timeout=120)[0]
    assert live.returncode == 1, said
    assert "Traceback" not in said
    assert not (tmp_path / "runs/a").exists()
    last = said.splitlines()[-1]
    if now is None or joined is None:
        assert f"{tmp_path}/runs/a: moved away or removed while the sweep ran" in last
        return
    assert f"moved to {tmp_path}/{now} while the sweep ran" in last
    assert last.endswith(f"resume with: fundamentallm agent {tmp_path}/{now}")
    assert joined.returncode == 0, joined.stderr
    folder = tmp_path / now
    assert [each["status"] for each in summaries(folder).values()] == ["done"] * 8
    ended = [each for each in trials(folder, "a") if each.state == TrialState.COMPLETE]
    assert Counter(each.user_attrs["run"] for each in ended) == Counter(range(8))


def test_what_a_worker_holds_is_not_what_has_come_into_its_place(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.mkdir()
    folder = SweepFolder(place)
    store = RunStore(folder.url, "a", place, lease=60, goal="minimize")
    claim = {"next_values": lambda number, runs: {}, "retries": 0, "parameters": []}
    assert store.claim(**claim) is not None
    with folder.held():
        folder.create_run(0)
        place.rename(tmp_path / "b")
        place.mkdir()
        folder.create_run(1)
        folder.run(0).write_summary({"status": "done", "total_steps": 1})
        with pytest.raises(DisplacedError, match=f"moved to {tmp_path}/b while the sweep ran"):
            store.claim(**claim)
        with pytest.raises(DisplacedError, match=f"resume with: fundamentallm agent {tmp_path}/b"):
            folder.check_in_place()
    assert not list(place.iterdir())
    assert (tmp_path / "b/run-0002").is_dir()
    assert RunFolder(tmp_path / "b/run-0001").read_summary()["status"] == "done"
    store.close()
    assert not list(place.iterdir())
    assert list((tmp_path / "b/workers").iterdir())  # it holds a run: the next sees that it is gone


def test_a_database_that_was_replaced_is_not_written(tmp_path: Path) -> None:
    store = RunStore(SweepFolder(tmp_path).url, "a", tmp_path, lease=60, goal="minimize")
    for file in tmp_path.glob("study.db*"):
        file.unlink()
    with pytest.raises(DisplacedError, match=r"study\.db: removed or replaced while the sweep ran"):
        store.define({})
    assert not list(tmp_path.glob("study.db*"))
    store.close()


@pytest.mark.parametrize("how", MOVES)
def test_a_run_in_progress(
    how: str, tiny_flags: list[str], tmp_path: Path, text_file: Path
) -> None:
    move, now = MOVES[how]
    flags = (*tiny_flags, "--max-steps=1500", "--eval-every=100", "--epochs=100")
    live = start(tmp_path, "train", text_file, *flags, "--output-dir=runs/a")
    wait_for((tmp_path / "runs/a/last.pt").exists)
    move(tmp_path)
    said = live.communicate(timeout=120)[0]
    assert not (tmp_path / "runs/a").exists()
    assert "Traceback" not in said
    if now is None:
        assert live.returncode == 1
        assert "runs/a: removed while the run was writing to it" in said.splitlines()[-1]
        return
    assert live.returncode == 0, said
    assert f"try: fundamentallm generate {tmp_path}/{now}" in said
    folder = RunFolder(tmp_path / now)
    assert folder.read_summary()["status"] == "done"
    assert [row["step"] for row in folder.rows()][-1] == 1500
    assert folder.best.exists()
