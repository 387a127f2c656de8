"""W&B's hyperband: which running runs are so far behind that they may end.

Source: what W&B documents of `early_terminate`, and `hyperband_stopping.py` of its `sweeps`
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
BANDS = 100  # that W&B counts from `min_iter`


@dataclass(frozen=True)
class Hyperband:
    """The rule: at each band a run must be among the best 1/`eta` that got so far."""

    bands: tuple[int, ...]
    """Iterations after which a run is looked at, rising; a band may stand twice."""
    eta: float = 3.0
    strict: bool = True
    """Whether a run is judged by its value at the band, and not by the best since it began."""

    def stops(self, history: Sequence[float], reached: Reached) -> bool:
        """Whether a run with `history` should end now.

        Args:
            history: The values of the metric so far; less is better.
            reached: What every run of the sweep, this one among them, had at the bands.
        """
        passed = [band for band in self.bands if band <= len(history)]
        if not passed:
            return False
        band = passed[-1]
        value = history[band - 1] if self.strict else min(history)
        return value > self.threshold(reached.values[band])

    def threshold(self, values: Sequence[float]) -> float:
        """What a run must not exceed where all had `values`, rising; infinite where none had."""
        return (
            values[int(1 / self.eta * len(values))] if values else math.inf
        )  # rounded as W&B does


class Reached:
    """What the runs of a sweep had at each band, brought up to date by the runs that changed."""

    def __init__(self, rule: Hyperband) -> None:
        """No run has got anywhere yet."""
        self.values: dict[int, list[float]] = {band: [] for band in rule.bands}
        """By the band; both rise."""

    def change(self, before: Sequence[float], now: Sequence[float]) -> None:
        """Note that a run whose history was `before` has another; less is better."""
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
    """`min_iter * eta^k`, a hundred of them as W&B counts, or until a float ends."""
    bands: list[int] = []
    band = min_iter
    while len(bands) < BANDS and math.isfinite(band):
        bands.append(int(band))
        band *= eta
    return tuple(bands)


def bands_from_max(max_iter: float, s: float, eta: float) -> tuple[int, ...]:
    """`max_iter / eta^k` for k = 1 to `s`, as long as that is 1 or more."""
    bands: list[int] = []
    band = max_iter / eta
    while len(bands) < int(s) and band >= 1:
        bands.append(int(band))
        band /= eta
    return tuple(sorted(bands))


def read_hyperband(content: object, findings: Diagnostics) -> Hyperband | None:
    """The `early_terminate` of a sweep file. Mistakes go to `findings`."""
    if content is None:
        findings.warn(KEY, "is empty, so no run is stopped early; give min_iter, or take it out")
        return None
    if not isinstance(content, dict) or content.get("type") != "hyperband":
        findings.error(KEY, "W&B has hyperband alone; give type: hyperband and min_iter")
        return None
    for name in content:
        if name not in FIELDS:
            findings.warn((*KEY, name), f"W&B takes no notice of it; there are {', '.join(FIELDS)}")
    if not _numbers_are_possible(content, findings):
        return None
    _check_together(content, findings)
    eta = float(content.get("eta", 3))
    if "max_iter" in content and "s" in content:
        bands = bands_from_max(content["max_iter"], content["s"], eta)
        if not bands:
            findings.error(KEY, "there is no band; raise max_iter or s, or lower eta")
            return None
    elif "min_iter" in content:
        bands = bands_from_min(content["min_iter"], eta)
        in_floats = float in (type(content["min_iter"]), type(content.get("eta")))
        if in_floats and len(bands) < BANDS:
            findings.refuse((*KEY, "eta"), "W&B cannot count so far; give a lower eta")
    else:
        findings.error(KEY, "give min_iter, or max_iter together with s")
        return None
    return Hyperband(bands, eta, content.get("strict", True))


def _check_together(content: Mapping[str, Any], findings: Diagnostics) -> None:
    """What of `min_iter`, `max_iter` and `s` W&B ignores, or fails over at the first band."""
    given = {name for name in ("min_iter", "max_iter", "s") if name in content}
    if given == {"min_iter", "s"}:
        findings.warn((*KEY, "s"), "has no effect without max_iter; take it out")
    elif given == {"min_iter", "max_iter"}:
        findings.refuse((*KEY, "max_iter"), "W&B cannot run it without s; give s, or take it out")
    elif given == {"min_iter", "max_iter", "s"}:
        findings.warn((*KEY, "min_iter"), "has no effect beside max_iter and s; take it out")
    s = content.get("s")
    if "max_iter" in given and isinstance(s, float):
        findings.refuse(
            (*KEY, "s"), f"got {s}, which W&B cannot run; give a whole number: {max(1, int(s))}"
        )


def whole(number: Any) -> Any:
    """20.0 as 20, which W&B's schema takes it for; all else as it is."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _numbers_are_possible(content: Mapping[str, object], findings: Diagnostics) -> bool:
    before = len(findings.errors)
    kinds = {"min_iter": (int,), "max_iter": (int,), "s": (int, float), "eta": (int, float)}
    least = {"min_iter": 1, "max_iter": 1, "s": 1}
    for name, allowed in kinds.items():
        number = content.get(name)
        if name not in content:
            continue
        if type(whole(number)) not in allowed or not math.isfinite(number):  # pyright: ignore
            what = "a whole number" if allowed == (int,) else "a number"
            findings.error((*KEY, name), f"got {number!r}; give {what}")
        elif name in least and number < least[name]:  # pyright: ignore
            findings.error((*KEY, name), f"got {number}; give 1 or more")
        elif name == "eta" and number <= 1:  # pyright: ignore
            findings.error((*KEY, name), f"got {number}; give more than 1")
    if type(content.get("strict", True)) is not bool:
        findings.error((*KEY, "strict"), "give true or false")
    return len(findings.errors) == before
