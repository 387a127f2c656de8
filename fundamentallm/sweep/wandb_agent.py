"""Values of a run that `wandb agent` starts.

The agent writes them to a file and names it in the environment. It may also repeat them on the
command line, in the form of the sweep's `command`. Only the file counts, so every form of command
has the same effect, and so does one that repeats nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.parsing import read_config, unwrapped
from fundamentallm.files import bounded_yaml
from fundamentallm.files.atomic import read_file
from fundamentallm.files.run_folder import LARGEST_SETTINGS


@dataclass(frozen=True)
class Assignment:
    """Configuration of a sweep with the id of its run."""

    sweep_id: str
    run_id: str
    parameters: Mapping[str, Any]
    """Values by the names of the sweep file; a nested parameter is a mapping. For a requeued run,
    its whole config on W&B."""
    file: Path
    """File that the agent wrote."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Assignment | None:
        """Return the assignment of this process; None if no agent started it.

        Raises:
            ConfigError: The environment names a file that cannot be read.
        """
        names = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
        sweep_id, run_id, path = (environment.get(name, "") for name in names)
        if not (sweep_id and run_id and path):
            _check_launch(environment)
            return None
        if not re.fullmatch(r"[\w-][\w.-]{0,127}", run_id):
            raise ConfigError(
                f"WANDB_RUN_ID={run_id[:40]!r}: cannot be the name of a folder; use letters, "
                "digits, - and _"
            )
        try:
            text = read_file(Path(path), LARGEST_SETTINGS, root=None).decode("utf-8")
            parameters = unwrapped(bounded_yaml.load(text))
        except (OSError, ValueError):
            parameters = None
        if parameters is None:
            raise ConfigError(
                f"WANDB_SWEEP_PARAM_PATH={path}: not a file of sweep values from wandb agent; "
                "unset the variable, or start the run with wandb agent"
            )
        return cls(sweep_id, run_id, parameters, Path(path))

    def values(self) -> dict[str, Any]:
        """Return checked hyperparameters by name, and `data` if the sweep gives it.

        A requeued run comes with its whole config, so also with `data_sha256`.

        Raises:
            ConfigError: A name is unknown or has two values, or a value is impossible.
        """
        return read_config(self.parameters, f"sweep {self.sweep_id}")

    def without_repeats(self, words: Sequence[str]) -> list[str]:
        """Return the arguments without those that repeat the sweep's values in a form of W&B."""
        repeats = {str(self.file.with_suffix(".json"))}
        pairs = {(f"--{name}", str(value)) for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            repeats |= {f"{prefix}{name}={value}" for prefix in ("--", "", "+", "++")}
        nested = {f"--{name}" for name, value in self.parameters.items() if isinstance(value, dict)}
        kept: list[str] = []
        rest = deque(words)
        while rest:
            word = rest.popleft()
            if word.endswith(".json"):
                word = str(Path(word))  # normalized: the agent repeats WANDB_DIR as typed
            if rest and ((word, rest[0]) in pairs or word in nested):
                rest.popleft()  # ${args_no_equals}
            elif word in repeats or word.split("=")[0] in nested or self._is_json(word):
                if kept and kept[-1] == "--config":  # --config ${args_json_file}
                    kept.pop()
            else:
                kept.append(word)
        return kept

    def _is_json(self, word: str) -> bool:
        try:
            return word.startswith("{") and json.loads(word) == self.parameters
        except (ValueError, RecursionError):
            return False


def _check_launch(environment: Mapping[str, str]) -> None:
    """Check that W&B Launch passes no values to this run.

    Raises:
        ConfigError: It does; they would be shown on W&B, but not used.
    """
    given = [v for name, v in environment.items() if re.fullmatch(r"WANDB_CONFIG(_\d+)?", name)]
    if environment.get("WANDB_LAUNCH") and any(v.strip() not in ("", "{}") for v in given):
        raise ConfigError(
            "WANDB_LAUNCH: values from W&B Launch are not supported; give them as flags, or start "
            "the runs with wandb agent"
        )
