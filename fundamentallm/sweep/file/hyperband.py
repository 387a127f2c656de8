"""W&B's hyperband: stops runs that are far behind the others.

Source: W&B's documentation of `early_terminate`, and `hyperband_stopping.py` of its `sweeps`
package 0.3.0. An iteration is one logged value of the metric.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.schema import EARLY_TERMINATE_FIELDS as FIELDS

KEY = ("early_terminate",)
BANDS = 100
"""Number of bands from `min_iter`, as in W&B."""


@dataclass(frozen=True)
class Hyperband:
    """Rule: at each band, a run must be among the best 1/`eta` of the runs that reached it."""

    bands: tuple[int, ...]
    """Iterations after which a run is judged, rising; a band may occur twice."""
    eta: float = 3.0
    strict: bool = True
    """Judge a run by its value at the band, not by its best value so far."""

    def stops(self, history: Sequence[float], reached: Reached) -> bool:
        """Return whether a run with `history` should stop now.

        Args:
            history: Values of the metric so far; lower is better.
            reached: Values of all runs at the bands, this run included.
        """
        passed = [band for band in self.bands if band <= len(history)]
        if not passed:
            return False
        band = passed[-1]
        value = history[band - 1] if self.strict else min(history)
        return value > self.threshold(reached.values[band])

    def threshold(self, values: Sequence[float]) -> float:
        """Return the largest value that passes, of sorted `values`; infinite without any."""
        return (
            values[int(1 / self.eta * len(values))] if values else math.inf
        )  # rounded as W&B does


class Reached:
    """Values of a sweep's runs at each band; `change` keeps them up to date."""

    def __init__(self, rule: Hyperband) -> None:
        """Start with no run in any band."""
        self.values: dict[int, list[float]] = {band: [] for band in rule.bands}
        """Sorted values by band; bands rise."""

    def change(self, before: Sequence[float], now: Sequence[float]) -> None:
        """Replace the values of a run's earlier history; lower is better."""
        for band, values in self.values.items():
            if band > max(len(before), len(now)):
                break
            had, has = before[band - 1 : band], now[band - 1 : band]
            if had == has:
                continue
            for value in had:
                del values[bisect_left(values, value)]
            for value in has:
                insort(values, value)


def bands_from_min(min_iter: float, eta: float) -> tuple[int, ...]:
    """Return `min_iter * eta^k` for `BANDS` values of k, or up to the largest float."""
    bands: list[int] = []
    band = min_iter
    while len(bands) < BANDS and math.isfinite(band):
        bands.append(int(band))
        band *= eta
    return tuple(bands)


def bands_from_max(max_iter: float, s: float, eta: float) -> tuple[int, ...]:
    """Return `max_iter / eta^k` for k = 1 to `s`, as long as that is 1 or more."""
    bands: list[int] = []
    band = max_iter / eta
    while len(bands) < int(s) and band >= 1:
        bands.append(int(band))
        band /= eta
    return tuple(sorted(bands))


def read_hyperband(content: object, diagnostics: Diagnostics) -> Hyperband | None:
    """Read `early_terminate` of a sweep file; errors go to `diagnostics`."""
    if content is None:
        diagnostics.warn(KEY, "is empty, so no run is stopped early; give min_iter, or remove it")
        return None
    if not isinstance(content, dict) or content.get("type") != "hyperband":
        diagnostics.error(KEY, "W&B has only hyperband; give type: hyperband and min_iter")
        return None
    for name in content:
        if name not in FIELDS:
            diagnostics.warn((*KEY, name), f"W&B ignores it; the fields are {', '.join(FIELDS)}")
    if not _numbers_are_possible(content, diagnostics):
        return None
    _check_together(content, diagnostics)
    eta = float(content.get("eta", 3))
    if "max_iter" in content and "s" in content:
        bands = bands_from_max(content["max_iter"], content["s"], eta)
        if not bands:
            diagnostics.error(KEY, "gives no band; raise max_iter or s, or lower eta")
            return None
    elif "min_iter" in content:
        bands = bands_from_min(content["min_iter"], eta)
        in_floats = float in (type(content["min_iter"]), type(content.get("eta")))
        if in_floats and len(bands) < BANDS:
            diagnostics.refused_by_wandb((*KEY, "eta"), "W&B cannot count so far; give a lower eta")
    else:
        diagnostics.error(KEY, "give min_iter, or max_iter together with s")
        return None
    return Hyperband(bands, eta, content.get("strict", True))


def _check_together(content: Mapping[str, Any], diagnostics: Diagnostics) -> None:
    """Report fields that W&B ignores beside the others, or that make it fail."""
    given = {name for name in ("min_iter", "max_iter", "s") if name in content}
    if given == {"min_iter", "s"}:
        diagnostics.warn((*KEY, "s"), "has no effect without max_iter; remove it")
    elif given == {"min_iter", "max_iter"}:
        diagnostics.refused_by_wandb(
            (*KEY, "max_iter"), "W&B cannot run it without s; give s, or remove it"
        )
    elif given == {"min_iter", "max_iter", "s"}:
        diagnostics.warn((*KEY, "min_iter"), "has no effect beside max_iter and s; remove it")
    s = content.get("s")
    if "max_iter" in given and isinstance(s, float):
        diagnostics.refused_by_wandb(
            (*KEY, "s"), f"got {s}, which W&B cannot run; give a whole number: {max(1, int(s))}"
        )


def whole(number: Any) -> Any:
    """Return 20 for 20.0, as W&B's schema does; any other value unchanged."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _numbers_are_possible(content: Mapping[str, object], diagnostics: Diagnostics) -> bool:
    before = len(diagnostics.errors)
    kinds = {"min_iter": (int,), "max_iter": (int,), "s": (int, float), "eta": (int, float)}
    least = {"min_iter": 1, "max_iter": 1, "s": 1}
    for name, allowed in kinds.items():
        number = content.get(name)
        if name not in content:
            continue
        if type(whole(number)) not in allowed or not math.isfinite(number):  # pyright: ignore
            what = "a whole number" if allowed == (int,) else "a number"
            diagnostics.error((*KEY, name), f"got {number!r}; give {what}")
        elif name in least and number < least[name]:  # pyright: ignore
            diagnostics.error((*KEY, name), f"got {number}; give 1 or more")
        elif name == "eta" and number <= 1:  # pyright: ignore
            diagnostics.error((*KEY, name), f"got {number}; give more than 1")
    if type(content.get("strict", True)) is not bool:
        diagnostics.error((*KEY, "strict"), "give true or false")
    return len(diagnostics.errors) == before
