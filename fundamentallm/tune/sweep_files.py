"""Sweep files of the phases, in W&B's format: each repeats its phase on W&B or on any machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.sweep.file.yaml_writer import sweep_text
from fundamentallm.tune.phases import (
    DROPOUTS,
    WEIGHT_DECAYS,
    SearchPlan,
    ShapesPlan,
    TrainPlan,
)
from fundamentallm.tune.plan import SCHEDULE

COMMAND = ["${env}", "${interpreter}", "-m", "fundamentallm", "train", "${args}"]
"""The installed trainer, so that the files run anywhere."""
RATE_FACTOR = 3.0
"""Rates are searched from the center divided by this to the center times this."""
REPEATED = 4.0
"""Epochs of the longest runs of a search from which it searches dropout and weight decay.

Both hurt runs that read the text less often (docs/dev/experiments.md), so that shorter ones would
choose none, for any length.
"""


@dataclass(frozen=True)
class SweepFiles:
    """Writes the sweep files of a tuning."""

    tuning: str
    """Name of the tuning."""
    text: str | None
    """Path of the text; None for the built-in text."""

    def shapes(self, plan: ShapesPlan, *, epochs: int) -> str:
        """Return the sweep that compares shapes, each for the same time."""
        shapes = [
            {
                **run.recipe.settings,
                "max_steps": run.steps,
                "eval_every": run.steps,
                "epochs": epochs,
            }
            for run in plan.runs
        ]
        heading = "Which size to train: each shape for the same time on this machine."
        return self._file("shapes", "grid", {"shape": {"values": shapes}}, heading)

    def search(self, plan: SearchPlan, *, repeats: float, epochs: int) -> str:
        """Return the search space; the longest run reads the text `repeats` times."""
        center = plan.center
        _, greatest = HYPERPARAMETERS["learning_rate"].typical or (0.0, math.inf)
        low = float(f"{center.learning_rate / RATE_FACTOR:.2g}")
        high = min(float(f"{center.learning_rate * RATE_FACTOR:.2g}"), greatest)
        searched: dict[str, Any] = {
            "learning_rate": {"distribution": "log_uniform_values", "min": low, "max": high}
        }
        if repeats >= REPEATED:
            low, high = WEIGHT_DECAYS
            decays = {"distribution": "log_uniform_values", "min": low, "max": high}
            searched["weight_decay"] = decays
            searched["dropout"] = {"min": DROPOUTS[0], "max": DROPOUTS[1]}
        fixed = {name: value for name, value in center.settings.items() if name not in searched}
        parameters = {
            **searched,
            **_constants(fixed),
            "max_steps": {"values": list(plan.lengths)},
            **_constants({"eval_every": plan.lengths[0], "epochs": epochs}),
        }
        heading = (
            "The search space around the planned configuration. fundamentallm tune trains the\n"
            "best runs of each length again, longer, from the end of their constant rate.\n"
            "The runs that it made are in ../search.yaml."
        )
        return self._file("search", "bayes", parameters, heading, run_cap=plan.runs)

    def train(self, name: str, plan: TrainPlan, *, epochs: int) -> str:
        """Return the sweep of a round of the last phase."""
        lengths = {"max_steps": plan.steps, "max_minutes": plan.minutes}
        length = {name: value for name, value in lengths.items() if value}
        seeds = list(plan.seeds)
        parameters = {
            "seed": {"values": seeds} if len(seeds) > 1 else {"value": seeds[0]},
            **_constants(plan.recipe.settings),
            **_constants({**length, "eval_every": plan.eval_every, "epochs": epochs}),
        }
        heading = "The best configuration, trained for what is left of the budget."
        return self._file(name, "grid", parameters, heading)

    def runs(self, phase: str, runs: Sequence[Mapping[str, Any]]) -> str:
        """Return the sweep that repeats the runs of a phase, given by their settings."""
        shared = {
            name: value
            for name, value in runs[0].items()
            if all(run.get(name) == value for run in runs)
        }
        own = [{name: each for name, each in run.items() if name not in shared} for run in runs]
        shared = {name: each for name, each in shared.items() if name not in (*SCHEDULE, "data")}
        parameters = {"run": {"values": own}} if any(own) else {}
        heading = "The runs of this phase. This file repeats each from its first step."
        return self._file(phase, "grid", {**parameters, **_constants(shared)}, heading)

    def _file(
        self, phase: str, method: str, parameters: Mapping[str, Any], heading: str, **fields: int
    ) -> str:
        content = {
            "command": COMMAND,
            "name": f"{self.tuning}-{phase}",
            "method": method,
            "metric": {"name": "val_loss", "goal": "minimize"},
            **fields,
            "parameters": {
                **parameters,
                **_constants({**SCHEDULE, "data": self.text or BUILTIN}),
            },
        }
        return sweep_text(content, f"{heading}\nWritten by fundamentallm tune.")


def _constants(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in settings.items()}
