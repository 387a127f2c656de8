"""Runs of earlier sweeps that a sweep's search learns from, stored in the sweep's definition.

So every worker and every resume sees the same ones, and the earlier sweeps may be deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import PastRun
from fundamentallm.sweep.store.stored_values import StoredError, ValueCheck, is_number, is_text


@dataclass(frozen=True)
class EarlierRuns:
    """Runs of earlier sweeps, in the new sweep's parameters; they count only for the search."""

    sources: tuple[str, ...] = ()
    """Folders and W&B addresses of the earlier sweeps, as given."""
    runs: tuple[PastRun, ...] = ()

    def to_stored(self) -> dict[str, Any] | None:
        """Return the JSON content of the definition's field `earlier`; None without sources."""
        if not self.sources:
            return None
        runs = [
            {"values": dict(run.values), "score": run.score, "failed": run.failed}
            for run in self.runs
        ]
        return {"sources": list(self.sources), "runs": runs}

    @classmethod
    def from_stored(
        cls, stored: dict[str, Any] | None, parameters: Sequence[Parameter]
    ) -> EarlierRuns:
        """Read what `to_stored` wrote, for a sweep with these parameters.

        Raises:
            StoredError: A run does not have their values.
        """
        if stored is None:
            return cls()
        check = ValueCheck(parameters)
        for run in stored["runs"]:
            try:
                check(run["values"])
            except StoredError as error:
                raise StoredError(f"one of its earlier runs: {error}") from None
        runs = (
            PastRun(run["values"], run["score"], failed=run["failed"]) for run in stored["runs"]
        )
        return cls(tuple(stored["sources"]), tuple(runs))


def is_stored(value: object) -> bool:
    """Return whether this has the form that `to_stored` writes."""
    if not isinstance(value, dict):
        return False
    sources, runs = value.get("sources"), value.get("runs")
    return (
        isinstance(sources, list)
        and len(sources) > 0
        and all(map(is_text, sources))
        and isinstance(runs, list)
        and all(map(_is_run, runs))
    )


def _is_run(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("values"), dict)
        and (value.get("score", "") is None or is_number(value.get("score")))
        and isinstance(value.get("failed"), bool)
    )
