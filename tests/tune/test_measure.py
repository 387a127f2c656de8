"""Speed and memory of shapes, measured on this machine and estimated in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.text import read_text
from fundamentallm.sweep.engine.concurrency import Resources
from fundamentallm.sweep.engine.trainer_job import TextSource
from fundamentallm.tune import measure as module
from fundamentallm.tune.measure import Measurement, Measurements, measure

TWO_CORES = Resources(workers=2, threads=1, device="cpu", fixed=False)
SMALL = {"model_dim": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 16, "batch_size": 4}
LARGE = {**SMALL, "model_dim": 32, "num_layers": 2}
HUGE = {**SMALL, "model_dim": 8192, "num_layers": 12, "num_heads": 64}


def shape(dim: int, layers: int, length: int, batch: int) -> dict[str, int]:
    heads = max(1, dim // 32)
    values = (dim, layers, heads, length, batch)
    return dict(zip(module.SHAPE, values, strict=True))


SHAPES = [shape(*each) for each in ((64, 2, 64, 16), (128, 4, 128, 16), (128, 2, 64, 64),
          (256, 6, 256, 8), (192, 4, 128, 4), (384, 2, 64, 32))]  # fmt: skip


def measured(costs: np.ndarray, shapes: list[dict[str, int]], workers: int = 2) -> Measurements:
    """Return measurements of a machine with these costs."""
    empty = Measurements("m", "0", 66, 100_000, TWO_CORES, 8.0, 8.0)
    found = []
    for settings in shapes:
        config = Config(**settings)
        step = float(module._work(config, 66) @ costs)
        memory = float(module._room(config, 66) @ module.MEMORY_COSTS)
        found.append(Measurement(settings, workers, 1, step, 100_000 * step / 4096, 0.1, memory))
    return replace(empty, measured=tuple(found))


@pytest.mark.parametrize("slower", [[1, 1, 1, 1, 1], [4, 2, 4, 1, 1], [2, 6, 1, 3, 3]])
def test_other_shapes_are_estimated(slower: list[float]) -> None:
    """Machines differ in the ratios between products, memory and calls."""
    costs = module.STEP_COSTS * slower
    found = measured(costs, SHAPES)
    for settings in SHAPES:
        exact = float(module._work(Config(**settings), 66) @ costs)
        assert found.step_seconds(Config(**settings), 2) == exact
    for others in ((96, 4, 128, 32), (256, 4, 64, 16), (128, 6, 256, 16), (64, 4, 64, 4)):
        config = Config(**shape(*others))
        for whole in (config, replace(config, gradient_accumulation=3)):
            exact = float(module._work(whole, 66) @ costs)
            assert found.step_seconds(whole, 2) == pytest.approx(exact, rel=0.12)


def test_one_shape_gives_the_speed_and_the_optimizer_does_not_grow_with_the_batch() -> None:
    found = measured(3 * module.STEP_COSTS, SHAPES[:1])
    config = Config(**shape(256, 6, 128, 8))
    exact = float(module._work(config, 66) @ module.STEP_COSTS) * 3
    assert found.step_seconds(config, 2) == pytest.approx(exact)
    doubled = found.step_seconds(replace(config, batch_size=16), 2)
    assert 1.3 * exact < doubled < 1.9 * exact


def test_without_any_measurement_there_is_an_estimate() -> None:
    found = measured(module.STEP_COSTS, [])
    config = Config()
    alone, shared = found.step_seconds(config, 1), found.step_seconds(config, 2)
    assert 0.01 < shared < 10
    assert found.threads(1) == 1  # OMP_NUM_THREADS of the tests
    assert alone == shared
    assert 0.1 < found.memory_gb(config) < 1
    assert found.best_workers(config) == 2
    assert found.scoring_seconds(config, 2) > 0
    assert found.setup_seconds > 0


def test_the_number_of_runs_at_a_time_is_the_fastest_that_fits() -> None:
    both = measured(module.STEP_COSTS, SHAPES)
    alone = measured(0.6 * module.STEP_COSTS, SHAPES, workers=1)
    found = replace(both, measured=both.measured + alone.measured)
    assert found.best_workers(Config()) == 2
    alone = measured(0.4 * module.STEP_COSTS, SHAPES, workers=1)
    assert replace(both, measured=both.measured + alone.measured).best_workers(Config()) == 1
    assert replace(found, room_gb=1.5 * found.memory_gb(Config())).best_workers(Config()) == 1


def source(path: Path) -> tuple[TextSource, int]:
    text = read_text(path)
    return TextSource(str(path), text.name, text.sha256), text.length


def test_shapes_are_measured(text_file: Path, tmp_path: Path) -> None:
    data, characters = source(text_file)
    found = measure([SMALL, LARGE], data, characters, TWO_CORES, seconds=60, max_memory_gb=4)
    tried = {(m.settings["model_dim"], m.workers): m for m in found.measured}
    assert list(tried) == [(16, 2), (16, 1), (32, found.best_workers(Config(**SMALL))),
                           (32, 3 - found.best_workers(Config(**SMALL)))]  # fmt: skip
    for each in found.measured:
        assert not each.problem
        assert 0 < each.step_seconds < 10
        assert 0 < each.scoring_seconds < 100
        assert 0.02 < each.memory_gb < 1
        assert found.step_seconds(each.config, each.workers) == each.step_seconds
    assert 20 < found.vocabulary < 60
    assert found.scored == pytest.approx(0.1 * characters, abs=2)
    assert found.room_gb == 4
    file = tmp_path / "measurements.json"
    found.save(file)
    assert Measurements.load(file, data.sha256, TWO_CORES) == found


def test_without_time_or_memory_nothing_is_tried(text_file: Path) -> None:
    data, characters = source(text_file)
    assert measure([SMALL], data, characters, TWO_CORES, seconds=0.5).measured == ()
    found = measure([HUGE], data, characters, TWO_CORES, seconds=9, max_memory_gb=1)
    (only,) = found.measured
    assert only.problem.startswith("needs about ")
    assert only.problem.endswith(" GB of 1.0")
    assert not found.fits(Config(**HUGE))
    assert found.fits(Config(**SMALL))


@pytest.mark.slow
def test_a_shape_beyond_the_limit_of_a_process_is_a_problem(text_file: Path) -> None:
    """`ulimit -d` applies to each process; the others are measured all the same."""
    code = f"""
from pathlib import Path
import test_measure as t
if __name__ == "__main__":
    data, characters = t.source(Path({str(text_file)!r}))
    t.module.MEMORY_COSTS /= 30  # so that it is tried
    wide = {{**t.SMALL, "model_dim": 256, "num_layers": 40, "max_seq_len": 4096}}
    found = t.measure([wide, t.SMALL], data, characters, t.TWO_CORES, seconds=9000)
    assert found.each_gb < 2, found.each_gb
    for each in found.measured:
        print(each.settings["model_dim"], each.problem)
"""
    script = text_file.parent / "limited.py"
    script.write_text(code)
    words = ["sh", "-c", 'ulimit -d 2000000; exec "$@"', "sh", sys.executable, str(script)]
    path = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **path})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "16 ", lines
    assert lines[0].startswith("256 "), lines
    assert "fit" in lines[0], lines


def damaged(content: str, change: Any) -> str:
    parsed = json.loads(content)
    change(parsed)
    return json.dumps(parsed)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:300],
        lambda text: "[]",
        lambda text: "[" * 5000,
        lambda text: text + " " * module.LARGEST_FILE,
        lambda text: damaged(text, lambda x: x.pop("version")),
        lambda text: damaged(text, lambda x: x.update(version=2)),
        lambda text: damaged(text, lambda x: x.update(measured=None)),
        lambda text: damaged(text, lambda x: x.update(scored=0)),
        lambda text: damaged(text, lambda x: x.update(room_gb=float("nan"))),
        lambda text: damaged(text, lambda x: x["resources"].update(workers="2")),
        lambda text: damaged(text, lambda x: x["measured"][0].update(step_seconds=-1.0)),
        lambda text: damaged(text, lambda x: x["measured"][0].update(step_seconds=0.0)),
        lambda text: damaged(text, lambda x: x["measured"][0].update(settings=5)),
        lambda text: damaged(text, lambda x: x["measured"][0]["settings"].update(num_heads=3)),
        lambda text: damaged(text, lambda x: x["measured"][0]["settings"].update(model_dim="x")),
        lambda text: damaged(text, lambda x: x.update(data_sha256="1")),
        lambda text: damaged(text, lambda x: x.update(machine="another")),
        lambda text: damaged(text, lambda x: x["resources"].update(threads=3)),
    ],
)
def test_a_damaged_or_foreign_file_is_not_trusted(
    change: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = replace(measured(module.STEP_COSTS, SHAPES), machine=module._machine(TWO_CORES))
    file = tmp_path / "measurements.json"
    assert Measurements.load(file, "0", TWO_CORES) is None
    assert not caplog.records
    found.save(file)
    assert Measurements.load(file, "0", TWO_CORES) == found
    file.write_text(change(file.read_text()))
    assert Measurements.load(file, "0", TWO_CORES) is None
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{file}: ")
    assert record.getMessage().endswith("; measuring again")
