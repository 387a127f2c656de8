"""Messages at the end of a sweep, and about a sweep file edited during it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from tiny_sweep import FLAGS, grid, summaries

from fundamentallm.cli import worker
from fundamentallm.cli.worker import check_file
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.definition import SweepDefinition, differences
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder

RANDOM = grid().replace("grid", "random")


def definition(text: str) -> SweepDefinition:
    space = SearchSpace(parse_sweep(text, "t.yaml"), {})
    return SweepDefinition(space, device="auto", seed=0, sampler="auto", lease=60.0)


@pytest.mark.parametrize("rates", [2, 5], ids=["a grid that ends", "more than are tried"])
def test_all_runs_fail_for_one_reason(
    rates: int, run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=rates, seeds=1))
    command = ("sweep", "t.yaml", text_file, "--workers=1")
    done = run(*command, "--", *FLAGS, "--device=mps")
    assert done.returncode == 1
    assert f"all {rates} runs failed: " in done.stderr
    assert "mps" in done.stderr
    assert "then run: fundamentallm agent runs/t --retries 1 (to change --device" in done.stderr
    assert "resume with" not in done.stderr
    assert "runs failed; see output.txt" not in done.stderr
    if rates == 2:  # the advice is right
        mended = run(*command, "--retries=1", "--", *FLAGS, "--device=cpu")
        assert mended.returncode == 0, mended.stderr
        assert {each["status"] for each in summaries(tmp_path / "runs/t").values()} == {"done"}


def test_a_run_cap_may_grow_vanish_and_return() -> None:
    capped = {n: definition(RANDOM.replace("metric", f"run_cap: {n}\nmetric")) for n in (2, 3)}
    without = definition(RANDOM)
    assert differences(capped[2], without) == []
    assert differences(without, capped[2]) == []
    assert differences(capped[2], capped[3]) == []
    assert differences(capped[3], capped[2]) == ["run_cap was 3 and is 2"]


def test_an_edited_sweep_file_is_refused(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    check_file(folder, parse_sweep(RANDOM, "t.yaml"))
    assert folder.file.read_text() == RANDOM
    commented = "# mine\n" + RANDOM
    folder.file.write_text(commented)
    check_file(folder, parse_sweep(RANDOM, "t.yaml"))
    assert folder.file.read_text() == commented
    folder.file.write_text("run_cap: 9\n" + RANDOM.replace("values: [0, 1]", "values: [0, 2]"))
    with pytest.raises(
        SweepError, match=r"edited since the sweep was created: .*run_cap is new \(9\)"
    ):
        check_file(folder, parse_sweep(RANDOM, "t.yaml"))
    folder.file.write_text("method: [")
    with pytest.raises(SweepError, match=r"sweep.yaml:\d"):
        check_file(folder, parse_sweep(RANDOM, "t.yaml"))


def test_agent_refuses_an_edited_file_and_sweep_keeps_it(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    file, copy = tmp_path / "t.yaml", tmp_path / "runs/t/sweep.yaml"
    file.write_text(RANDOM.replace("metric", "run_cap: 1\nmetric"))
    words = (text_file, "--output-dir=runs/t", "--count=0", "--", *FLAGS)
    assert run("sweep", file, *words).returncode == 0
    edited = RANDOM.replace("metric", "run_cap: 2\nmetric")
    copy.write_text(edited)
    for command in (("agent", "runs/t"), ("sweep", file, *words)):
        done = run(*command)
        assert done.returncode == 2
        assert (
            "sweep.yaml: edited since the sweep was created: run_cap was 1 and is 2" in done.stderr
        )
        assert copy.read_text() == edited
    assert run("sweep", copy, *words).returncode == 0  # as the line says
    done = run("agent", "runs/t")
    assert done.returncode == 0, done.stderr
    assert len(summaries(tmp_path / "runs/t")) == 2


def test_a_joining_agent_keeps_the_lease(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leases: list[tuple[float, float]] = []

    def work(definition: SweepDefinition, store: RunStore, folder: SweepFolder, **_: Any) -> int:
        leases.append((store.lease, store.heartbeats.lease))
        return 0

    monkeypatch.setattr(worker, "work", work)
    space = SearchSpace(parse_sweep(grid(), "t.yaml"), {})
    for lease in (600.0, 60.0):
        folder = SweepFolder(tmp_path / "t")
        definition = SweepDefinition(space, device="auto", seed=0, sampler="auto", lease=lease)
        worker.start_sweep(definition, folder, None, data=None, wait=0.0)
    assert leases == [(600.0, 600.0)] * 2


def test_runs_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("fundamentallm.machine.cores_and_memory.usable_cores", lambda: 8)
    for runs, expected in ((2, (2, 4)), (None, (8, 1)), (0, (8, 1)), (50, (8, 1))):
        found = worker.resources_here(None, None, "cpu", runs)
        assert (found.workers, found.threads) == expected
