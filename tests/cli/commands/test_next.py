"""`next`: prints the next sweep file, or why there is none."""

from __future__ import annotations

from pathlib import Path

from conftest import Run
from results_on_disk import SWEEP, write_sweep


def test_the_next_sweep_passes_check_and_gives_reasons(run: Run, tmp_path: Path) -> None:
    edge = {0.0001: [2.0, 2.01], 0.001: [1.7, 1.71], 0.01: [1.5, 1.51]}
    inside = {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51], 0.01: [1.7, 1.71]}
    for name, scores, why in (("a", edge, "# widened"), ("b", inside, "# closer to 0.001")):
        done = run("next", write_sweep(tmp_path / name, scores))
        assert (done.returncode, why in done.stdout) == (0, True), done.stderr
        file = tmp_path / f"{name}.yaml"
        file.write_text(done.stdout)
        assert run("check", file).returncode in ((0, 1) if name == "a" else (0,))
    few = run("next", write_sweep(tmp_path / "c", {0.001: [1.5]}))
    assert (few.returncode, few.stderr.count("\n")) == (2, 1)


def test_runs_that_all_diverged_are_said_to_have(run: Run, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", {0.1: [3.0, 3.1], 1.0: [3.5]})
    for file in folder.glob("run-*/summary.json"):
        file.write_text(file.read_text().replace('"done"', '"diverged"'))
    why = "s: all 3 runs diverged; lower the learning rate for all of them\n"
    for command in (["next"], ["predict", "--longer=2"]):
        done = run(*command, "s")
        assert (done.returncode, done.stderr) == (2, f"fundamentallm: {why}")


def test_a_refined_sweep_has_no_next_one(run: Run, tmp_path: Path) -> None:
    head = "# The best of lr again. Only 6 configurations of this grid run.\n"
    scores = {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51], 0.01: [1.7, 1.71]}
    write_sweep(tmp_path / "s", scores, head + SWEEP)
    done = run("next", "s")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "this sweep only repeats the best of another one" in done.stderr
