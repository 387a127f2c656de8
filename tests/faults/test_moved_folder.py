"""A folder is moved or removed while a run writes there; nothing reappears at its old path."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, nightly
from optuna.trial import TrialState
from tiny_sweep import FLAGS, grid, start, summaries, trials, wait_for

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.sweep.file.diagnostics import DisplacedError
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder


def remove(folder: Path) -> None:
    """Remove a folder to which a process may still write."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


MOVES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "renamed": (lambda root: (root / "runs/a").rename(root / "runs/b"), "runs/b"),
    "its parent renamed": (lambda root: (root / "runs").rename(root / "other"), "other/a"),
    "removed": (lambda root: remove(root / "runs/a"), None),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "move_kind",
    [nightly("renamed"), nightly("its parent renamed"), "removed"],
)
def test_a_folder_moved_during_a_sweep(
    move_kind: str, run: Run, tmp_path: Path, text_file: Path
) -> None:
    move, new_path = MOVES[move_kind]
    (tmp_path / "tiny.yaml").write_text(grid(rates=2, seeds=4, steps=200, every=20))
    words = ("tiny.yaml", text_file, "--output-dir=runs/a", "--workers=2")
    process = start(tmp_path, "sweep", *words, "--", *FLAGS)
    wait_for(lambda: list(tmp_path.glob("runs/a/run-0003/last.pt")))
    move(tmp_path)
    joined = run("agent", new_path, "--workers=1") if new_path else None
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert not (tmp_path / "runs/a").exists()
    last = output.splitlines()[-1]
    if new_path is None or joined is None:
        assert f"{tmp_path}/runs/a: moved away or removed while the sweep ran" in last
        return
    assert f"moved to {tmp_path}/{new_path} while the sweep ran" in last
    assert last.endswith(f"resume with: fundamentallm agent {tmp_path}/{new_path}")
    assert joined.returncode == 0, joined.stderr
    folder = tmp_path / new_path
    assert [each["status"] for each in summaries(folder).values()] == ["done"] * 8
    complete = [each for each in trials(folder, "a") if each.state == TrialState.COMPLETE]
    assert Counter(each.user_attrs["run"] for each in complete) == Counter(range(8))


def test_a_worker_does_not_use_a_new_folder_at_the_old_path(tmp_path: Path) -> None:
    old_path = tmp_path / "a"
    old_path.mkdir()
    folder = SweepFolder(old_path)
    store = RunStore(folder.url, "a", old_path, lease=60, goal="minimize")
    claim = {"next_values": lambda number, runs: {}, "retries": 0, "parameters": []}
    assert store.claim(**claim) is not None
    with folder.held():
        folder.create_run(0)
        old_path.rename(tmp_path / "b")
        old_path.mkdir()
        folder.create_run(1)
        folder.run(0).write_summary({"status": "done", "total_steps": 1})
        with pytest.raises(DisplacedError, match=f"moved to {tmp_path}/b while the sweep ran"):
            store.claim(**claim)
        with pytest.raises(DisplacedError, match=f"resume with: fundamentallm agent {tmp_path}/b"):
            folder.check_in_place()
    assert not list(old_path.iterdir())
    assert (tmp_path / "b/run-0002").is_dir()
    assert RunFolder(tmp_path / "b/run-0001").read_summary()["status"] == "done"
    store.close()
    assert not list(old_path.iterdir())
    assert list(
        (tmp_path / "b/workers").iterdir()
    )  # its lock shows the next worker that it is gone


def test_a_replaced_database_is_not_written(tmp_path: Path) -> None:
    store = RunStore(SweepFolder(tmp_path).url, "a", tmp_path, lease=60, goal="minimize")
    for file in tmp_path.glob("study.db*"):
        file.unlink()
    with pytest.raises(DisplacedError, match=r"study\.db: removed or replaced while the sweep ran"):
        store.define({})
    assert not list(tmp_path.glob("study.db*"))
    store.close()


@pytest.mark.parametrize("move_kind", MOVES)
def test_a_folder_moved_during_a_run(
    move_kind: str, tiny_flags: list[str], tmp_path: Path, text_file: Path
) -> None:
    move, new_path = MOVES[move_kind]
    flags = (*tiny_flags, "--max-steps=1500", "--eval-every=100", "--epochs=100")
    process = start(tmp_path, "train", text_file, *flags, "--output-dir=runs/a")
    wait_for((tmp_path / "runs/a/last.pt").exists)
    move(tmp_path)
    output = process.communicate(timeout=120)[0]
    assert not (tmp_path / "runs/a").exists()
    assert "Traceback" not in output
    if new_path is None:
        assert process.returncode == 1
        assert "runs/a: removed while the run was writing to it" in output.splitlines()[-1]
        return
    assert process.returncode == 0, output
    assert f"try: fundamentallm generate {tmp_path}/{new_path}" in output
    folder = RunFolder(tmp_path / new_path)
    assert folder.read_summary()["status"] == "done"
    assert [row["step"] for row in folder.rows()][-1] == 1500
    assert folder.best.exists()
