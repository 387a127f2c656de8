"""Curves of the runs, which the page draws: smoothed, over steps, tokens or time, for any runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fundamentallm.report.axis_range import loss_range, metric_range, range_without_outliers
from fundamentallm.report.plot_style import Plot, new_figure
from fundamentallm.report.results import Curve, Results, RunResult

LOSSES = (("val_loss", "solid"), ("train_loss", "dot"))
MOST_CURVES = 40
"""Runs whose curves are drawn at once."""
MOST_METRICS = 12
"""Most other metrics of another program that are drawn."""
OTHER_METRICS = {
    "optim/learning_rate": "learning rate",
    "optim/grad_norm": "gradient norm",
    "perf/tokens_per_second": "tokens per second",
}
POINTS = ((100, 200), (300, 100), (1_000, 50), (math.inf, 30))
"""Points of a curve, by the number of runs up to which it has as many."""
MOST_TIMES = 30
"""Points of a run at which its tokens and seconds are known; between them it is even."""


def curve_plots(results: Results) -> list[Plot]:
    """Return the curves of the loss, or of another program's metric, and of other metrics."""
    others = [
        _metric_curves(results, metric, title) for metric, title in _other_metrics(results).items()
    ]
    return [plot for plot in (_loss_curves(results), *others) if plot is not None]


class CurveParts:
    """Parts for the curves of each run: points by metric, and its tokens and seconds by step.

    A run whose curves are the same objects as before is not computed again.
    """

    def __init__(self) -> None:
        """Begin without runs."""
        self._known: dict[str, tuple[object, Mapping[str, Curve], dict[str, Any]]] = {}

    def __call__(self, results: Results) -> dict[str, dict[str, Any]]:
        """Return the part of each run by its name."""
        points = next(points for runs, points in POINTS if len(results.runs) <= runs)
        own = [results.metric.name] if results.is_foreign else [name for name, _ in LOSSES]
        kind = points, [*own, *_other_metrics(results)]
        self._known = {run.name: self._known_or_new(run, kind) for run in results.runs}
        return {name: part for name, (_, _, part) in self._known.items()}

    def _known_or_new(
        self, run: RunResult, kind: tuple[int, list[str]]
    ) -> tuple[object, Mapping[str, Curve], dict[str, Any]]:
        known = self._known.get(run.name)
        if known is not None and known[0] == kind and known[1] is run.curves:
            return known
        points, names = kind
        lines = {name: _points(run.curve(name), points) for name in names}
        clocks = {"tokens": run.curve("tokens"), "seconds": training_time(run)}
        part = {
            "lines": {name: line for name, line in lines.items() if line[0]},
            "clocks": {name: _points(each, MOST_TIMES) for name, each in clocks.items() if each},
        }
        return kind, run.curves, part


def training_time(run: RunResult) -> Curve:
    """Return the seconds of training up to each step, without evaluations; empty if unknown."""
    tokens, speed = run.curve("tokens"), run.curve("perf/tokens_per_second")
    if run.program or tokens.steps != speed.steps:
        return Curve((), ())
    seconds, done, last = [], 0.0, 0.0
    for count, rate in zip(tokens.values, speed.values, strict=True):
        done += (count - last) / rate if rate > 0 else 0.0
        last = count
        seconds.append(done)
    return Curve(tokens.steps, tuple(seconds))


def _loss_curves(results: Results) -> Plot | None:
    """Curves of training and validation loss; of another program, of its metric."""
    own = results.metric.name if results.is_foreign else ""
    lines = ((own, "solid"),) if own else LOSSES
    if not any(len(run.curve(metric)) for run in results.runs for metric, _ in lines):
        return None
    figure = new_figure("step", own or "loss (nats)")
    chosen = _representative(results)
    figure.update_yaxes(range=metric_range(results) if own else loss_range(results, chosen))
    caption = own or "Validation (solid) and training (dotted) loss"
    caption += ", the best first in the legend."
    caption += " Click a name to hide it, double-click to show it alone."
    return Plot(
        "curves", own or "Loss", caption, figure, kind="curves", details=_details(dict(lines))
    )


def _metric_curves(results: Results, metric: str, title: str) -> Plot | None:
    """Curves of another metric."""
    if not any(len(run.curve(metric)) for run in results.runs):
        return None
    figure = new_figure("step", title)
    values = [run.curve(metric).values for run in results.runs]
    figure.update_yaxes(range=range_without_outliers(values))
    heading = title if results.is_foreign else title.capitalize()
    caption = f"The {title}, run by run."
    return Plot(
        f"metric-{metric}", heading, caption, figure, is_wide=False,
        kind="curves", details=_details({metric: "solid"}),
    )  # fmt: skip


def _details(lines: Mapping[str, str]) -> dict[str, Any]:
    """Return the lines of each run: their metric, dash, and the word that tells them apart."""
    words = {name: name.partition("_")[0] if len(lines) > 1 else "" for name in lines}
    return {
        "most": MOST_CURVES,
        "lines": [
            {"metric": name, "dash": dash, "word": words[name]} for name, dash in lines.items()
        ],
    }


def _other_metrics(results: Results) -> dict[str, str]:
    """Return other metrics that are drawn, with their titles; of many runs none."""
    if len(results.runs) > MOST_CURVES:
        return {}
    if not results.is_foreign:
        return OTHER_METRICS
    names = dict.fromkeys(
        name for run in results.runs for name, curve in run.curves.items() if len(curve) > 1
    )
    names.pop(results.metric.name, None)
    return {name: name for name in list(names)[:MOST_METRICS]}


def _representative(results: Results) -> list[RunResult]:
    """Return most of the best runs and some of the rest."""
    ranked = results.ranked
    rest = [run for run in results.observations if not run.is_ranked]
    if len(ranked) + len(rest) <= MOST_CURVES:
        return [*ranked, *rest]
    best, others = ranked[: MOST_CURVES * 3 // 4], [*ranked[MOST_CURVES * 3 // 4 :], *rest]
    step = max(1, math.ceil(len(others) / (MOST_CURVES - len(best))))
    return [*best, *others[::step]]


def _points(curve: Curve, most: int) -> tuple[Sequence[int], Sequence[float]]:
    """Return steps and values of at most `most` points, the last among them."""
    step = math.ceil(len(curve) / most) or 1
    kept = [*range(0, len(curve), step)]
    if kept and kept[-1] != len(curve) - 1:
        kept.append(len(curve) - 1)
    return [curve.steps[i] for i in kept], [float(f"{curve.values[i]:.6g}") for i in kept]
