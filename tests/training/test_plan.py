"""Plan of a run: its number of steps, and warnings about settings without effect."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from fundamentallm import Config
from fundamentallm.training.plan import Plan


def test_steps_are_counted_in_whole_numbers() -> None:
    for batches in range(1, 400, 7):
        for accumulation in (3, 7, 25, 49):
            for epochs in (1, 7, 50, 100):
                plan = Plan(Config(gradient_accumulation=accumulation, epochs=epochs), batches)
                assert plan.total_steps == math.ceil(batches * epochs / accumulation - 1e-12)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lr_steps": "10,20"}, "--lr-steps does nothing without --lr-schedule step"),
        ({"lr_decay": 0.5, "lr_schedule": "linear"}, "--lr-decay does nothing without"),
        ({"min_lr_ratio": 0.5}, "--min-lr-ratio does nothing without --lr-schedule cosine, lin"),
        ({"decay_fraction": 0.5}, "--decay-fraction does nothing without --lr-schedule wsd"),
        (
            {"lr_schedule": "wsd", "max_steps": 100, "warmup_steps": 90},
            "--warmup-steps 90 is longer than the stable part, 80 steps",
        ),
        ({"patience": 2}, "--patience does nothing without --early-stopping"),
        ({"gradient_accumulation": 101}, "--gradient-accumulation 101 is more than the 100 batch"),
    ],
)
def test_a_setting_without_effect_is_reported(settings: dict[str, Any], line: str) -> None:
    (found,) = Plan(Config(**settings), 100).warnings()
    assert found.startswith(line)


def test_a_time_limit_with_a_falling_rate_suggests_max_steps(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = ["--lr-schedule=linear", "--max-minutes=0.01", "--max-steps=100000", "--no-wandb"]
    done = run("train", text_file, *tiny_flags, *flags, "--output-dir=out")
    steps = json.loads((tmp_path / "out/summary.json").read_text())["step"]
    assert f"--max-steps {steps} decays it in the same time" in done.stderr
