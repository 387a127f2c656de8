"""Settings of a sweep's program, beside its command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ProgramSettings:
    """Settings with which a sweep runs a program other than our trainer."""

    metrics: str = ""
    """File of JSON lines that the program writes; empty for W&B's client or the output."""
    timeout: float = 0.0
    """Minutes after which a trial is stopped and counts as failed; 0 for no limit."""
    warm: bool = False
    """Start trials from a process that has imported the program's modules."""
    function: str = ""
    """Name of the Python function that `run_sweep` calls instead of starting a program."""

    def to_stored(self) -> dict[str, Any]:
        """Return the JSON content of a sweep's definition."""
        return asdict(self)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> ProgramSettings:
        """Read what `to_stored` wrote and `is_stored` accepts."""
        return cls(**{name: stored[name] for name in asdict(cls()) if name in stored})


def is_stored(value: object) -> bool:
    """Return whether a value is stored settings; unknown names may be from a later version."""
    if not isinstance(value, dict):
        return False
    checks = {
        "metrics": lambda each: isinstance(each, str),
        "timeout": lambda each: type(each) in (int, float) and 0 <= each < 1e9,
        "warm": lambda each: isinstance(each, bool),
        "function": lambda each: isinstance(each, str),
    }
    return all(name not in value or check(value[name]) for name, check in checks.items())
