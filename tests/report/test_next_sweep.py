"""The sweep that follows: it keeps what was best, and can be run."""

from __future__ import annotations

from pathlib import Path

import yaml
from results_on_disk import write_run, write_sweep

from fundamentallm.report.next_sweep import next_sweep
from fundamentallm.report.read_runs import read_results


def following(folder: Path, parameter: str, losses: dict[float, float], **more: object) -> str:
    text = "program: train.py\nmethod: random\nrun_cap: 12\nmetric: {name: val_loss}\nparameters:\n"
    folder.mkdir(exist_ok=True)
    (folder / "sweep.yaml").write_text(text + f"  {parameter}\n")
    name = parameter.partition(":")[0]
    for number, (value, loss) in enumerate(losses.items(), 1):
        settings = {name: value, **more}
        write_run(folder / f"run-{number:04}", settings, [4.0, loss + 0.1, loss, loss])
    return next_sweep(read_results([folder]))


def test_next_keeps_the_best_and_ends_near_1(tmp_path: Path) -> None:
    losses = {1 - 0.1 / 1.5**k: 2 - 0.05 * k for k in range(12)}
    losses[0.999] = 1.3
    found = following(tmp_path, "beta2: {min: 0.9, max: 0.999}", losses)
    high = yaml.safe_load(found)["parameters"]["beta2"]["max"]
    assert 0.999 <= high < 1
    sizes = {50: 1.7, 51: 1.71, 52: 1.69, 100: 1.4, 101: 1.41, 102: 1.42}
    sizes |= {200: 1.6, 201: 1.61, 202: 1.59}
    listed = "max_seq_len: {values: [50, 51, 52, 100, 101, 102, 200, 201, 202]}"
    found = following(tmp_path / "sizes", listed, sizes)
    assert {100, 101, 102} & set(yaml.safe_load(found)["parameters"]["max_seq_len"]["values"])


def test_next_of_a_best_that_rounding_put_outside(tmp_path: Path) -> None:
    parameter = "warmup_steps: {distribution: q_log_uniform_values, min: 10, max: 1000, q: 50}"
    losses = {50.0 * k: 1.5 + 0.02 * k for k in range(12)}
    found = yaml.safe_load(following(tmp_path, parameter, losses))
    assert found["parameters"]["warmup_steps"]["min"] >= 0


def test_next_knows_the_flags_of_all_runs(tmp_path: Path) -> None:
    head = "program: train.py\nmethod: grid\nmetric: {name: val_loss}\nparameters:\n"
    sweep = f"{head}  num_heads: {{values: [2, 8, 16, 48]}}\n  seed: {{values: [0, 1]}}\n"
    (tmp_path / "sweep.yaml").write_text(sweep)
    for seed in (0, 1):
        for heads, loss in {2: 1.9, 8: 1.5, 16: 1.6, 48: 1.7}.items():
            settings = {"num_heads": heads, "model_dim": 96, "seed": seed}
            write_run(tmp_path / f"run-{seed}{heads:02}", settings, [4.0, loss, loss])
    found = next_sweep(read_results([tmp_path]))
    assert "after --: --model-dim 96" in " ".join(found.replace("#", "").split())
    entry = yaml.safe_load(found)["parameters"]["num_heads"]
    assert entry["values"] == [4, 8]  # and not 11, which does not divide 96


def test_next_writes_the_ends_that_stay_as_the_file_has_them(tmp_path: Path) -> None:
    """exp(log(0.01)) is 0.010000000000000004."""
    losses = {0.001 * 10 ** (k / 11): 1.5 + (k - 8.5) ** 2 / 50 for k in range(12)}
    parameter = "learning_rate: {distribution: log_uniform_values, min: 0.001, max: 0.01}"
    found = following(tmp_path, parameter, losses)
    assert "max: 0.01\n" in found


def test_next_exceeds_the_documented_range_in_small_steps(tmp_path: Path) -> None:
    write_sweep(tmp_path, {0.0001: [2.0, 2.01], 0.001: [1.7, 1.71], 0.01: [1.5, 1.51]})
    text = next_sweep(read_results([tmp_path]))
    assert "values: [0.01, 0.032, 0.1]" in text
