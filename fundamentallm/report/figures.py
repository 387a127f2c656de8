"""The report's figures, by plotly.

Text that came from a run goes through `label` first: plotly takes tags in text for markup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go

from fundamentallm.config.fields import shown
from fundamentallm.metrics import score_text
from fundamentallm.report.axis_range import ScoreAxis, range_without_outliers
from fundamentallm.report.contour import contour
from fundamentallm.report.curves import curve_plots
from fundamentallm.report.effects import Surface
from fundamentallm.report.factors import Factor, find_factors, log_ticks
from fundamentallm.report.parallel import parallel_coordinates
from fundamentallm.report.plot_style import MOST_AXES, PALETTE, RED, Plot, label, new_figure
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.rules.claim import Evidence
from fundamentallm.report.timeline import timeline
from fundamentallm.status import RunStatus

BEYOND = "beyond"
GROUPS = {
    RunStatus.DONE: "done",
    RunStatus.STOPPED: "stopped early",
    RunStatus.RUNNING: "running",
    BEYOND: "worse than the axis shows",
    "": "diverged or interrupted",
}
"""Legend of each group of runs that is drawn alike."""
SYMBOLS = {RunStatus.STOPPED: "circle-open", RunStatus.RUNNING: "diamond-open"}


def make_plots(results: Results, evidence: Evidence) -> list[Plot]:
    """Return every figure that has data; settings are compared as in `evidence`."""
    losses, *others = curve_plots(results) or [None]
    plots = [losses, *range_tests(results)]
    if len(results.runs) > 1:
        plots += [best_so_far(results), importance(evidence.surface)]
        plots += [parallel_coordinates(evidence.compared), *slices(evidence), contour(evidence)]
        plots += [timeline(results)]
    return [plot for plot in (*plots, *others) if plot is not None]


def best_so_far(results: Results) -> Plot | None:
    """Plot the metric of each run in order, and the best so far.

    As in all conclusions, repeated runs count once, and no run that was stopped early is the best
    where others went on to their end.
    """
    order = [run for run in results.observations if run.score is not None]
    comparable = set(map(id, results.comparable))
    if len(order) < 2:
        return None
    figure = new_figure("run", results.metric.name)
    best: list[float | None] = []
    for run in order:
        found = [*best[-1:], results.shown_score(run) if id(run) in comparable else None]
        found = [value for value in found if value is not None]
        best.append(results.metric.best(found))
    numbers = {id(run): number for number, run in enumerate(order, 1)}
    _add_points(figure, results, order, lambda run: numbers[id(run)], GROUPS)
    figure.add_scatter(
        x=[*numbers.values()], y=best, name="best so far", mode="lines",
        line={"shape": "hv", "color": PALETTE[1], "width": 3},
        hovertemplate="best of %{x}: %{y:.5g}<extra></extra>",
    )  # fmt: skip
    caption = "Each run's score in the order of the runs, and the best so far."
    return Plot("best", "Best so far", caption, figure, is_wide=False)


def _add_points(
    figure: go.Figure,
    results: Results,
    runs: Sequence[RunResult],
    x: Callable[[RunResult], Any],
    groups: Mapping[str, str],
) -> None:
    """Add a point for each run: its score over `x`. Outliers and failed runs are at the edge."""
    axis = ScoreAxis.of(results, runs) if any(run.is_ranked for run in runs) else None
    members: dict[str, list[RunResult]] = {}
    for run in runs:
        is_beyond = axis is not None and run.is_ranked and axis.is_beyond(results, run)
        members.setdefault(BEYOND if is_beyond else _group(run), []).append(run)
    for kind, name in groups.items():
        if those := members.get(kind, []):
            figure.add_scatter(
                x=[x(run) for run in those],
                y=[_height(results, run, axis) for run in those],
                customdata=[run.name for run in those],
                mode="markers",
                name=name,
                marker=_marker(kind, len(runs), results.metric.sign),
                text=[_point_text(run) for run in those],
                hovertemplate="%{text}<br>%{x}<extra></extra>",
                showlegend=len(members) > 1,
            )


def _height(results: Results, run: RunResult, axis: ScoreAxis | None) -> float | None:
    """Return the score to draw, at most that of the edge; the edge if there is no score."""
    score = results.shown_score(run)
    if axis is None:
        return score
    if score is None:
        return axis.edge
    return axis.sign * min(axis.sign * score, axis.sign * axis.edge)


def _point_text(run: RunResult) -> str:
    """Return the name, the score as it was logged, and the status unless the run is done."""
    status = "" if run.status == RunStatus.DONE else run.status
    return label(" ".join(filter(None, (f"{run.name}:", score_text(run.score), status))))


def importance(surface: Surface | None) -> Plot | None:
    """Plot the share of the variance that each setting explains."""
    if surface is None:
        return None
    rows = [
        (e.factor.name, e.share, f"{score_text(e.size)} ± {score_text(e.error)}")
        for e in surface.effects
    ]
    rows += [(factor.name, 0.0, "may be chance") for factor in surface.undecided]
    figure = new_figure("share of the variance", "")
    figure.add_bar(
        x=[share for _, share, _ in rows],
        y=[label(name) for name, _, _ in rows],
        text=[text for _, _, text in rows],
        orientation="h",
        marker={"color": PALETTE[0]},
        hovertemplate="%{y}: %{x:.0%} of the variance, %{text}<extra></extra>",
        textposition=["inside" if share > 0.6 else "outside" for _, share, _ in rows],
        cliponaxis=False,
        showlegend=False,
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    caption = (
        "Share of the variance between runs that each setting explains, and how far it moves the "
    )
    caption += "metric from worst to best (95% interval). It comes from the fit that explain uses."
    return Plot("importance", "Importance", caption, figure, is_wide=False)


def slices(evidence: Evidence) -> list[Plot]:
    """Plot the score over each setting; failed configurations are red, at the top."""
    results, every = evidence.compared, evidence.results.observations
    bad = [run for run in every if run.status in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE)]
    factors, shown_runs = find_factors(results, [*results.ranked, *bad])
    plots: list[Plot] = []
    for factor in factors[:MOST_AXES]:
        figure = new_figure(label(factor.name), results.metric.name + results.when)
        groups = {**GROUPS, "": "diverged, impossible"}
        _add_points(figure, results, shown_runs, partial(_x_value, factor), groups)
        if factor.in_logs:
            figure.update_xaxes(type="log", **log_ticks(factor))
        elif not factor.is_numeric:
            figure.update_xaxes(type="category")
        caption = f"{results.metric.name}{results.when} of each run over its {factor.name}."
        plots.append(Plot(f"slice-{len(plots)}", factor.name, caption, figure, is_wide=False))
    return plots


def range_tests(results: Results) -> list[Plot]:
    """Plot the loss over a rising learning rate, as `find learning-rate` measures it."""
    plots: list[Plot] = []
    for run in results.runs:
        found = run.summary.get("range_test")
        rates, losses = run.curve("optim/learning_rate"), run.curve("train_loss")
        if not isinstance(found, dict) or not len(rates) or rates.steps != losses.steps:
            continue
        figure = new_figure("learning rate", "training loss (nats)")
        figure.add_scatter(
            x=rates.values, y=losses.values, mode="lines", name="training loss",
            line={"color": PALETTE[0]},
            hovertemplate="rate %{x:.2g}: %{y:.5g}<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(type="log")
        figure.update_yaxes(range=range_without_outliers([losses.values]))
        caption = "The loss never fell, so there is no range to suggest."
        if found.get("fell", True):
            figure.add_vrect(found["low"], found["high"], fillcolor=PALETTE[2], opacity=0.2)
            caption = (
                f"The range to search, {shown(found['low'])} to {shown(found['high'])}, is shaded."
            )
        plots.append(Plot(f"range-{len(plots)}", "Learning-rate range test", caption, figure))
    return plots


def _x_value(factor: Factor, run: RunResult) -> Any:
    value = run.settings[factor.name]
    return value if factor.is_numeric else label(shown(value))


def _group(run: RunResult) -> str:
    """Return the key of GROUPS."""
    return run.status if run.is_ranked or run.status == RunStatus.RUNNING else ""


def _marker(kind: str, count: int, sign: int) -> dict[str, Any]:
    """Return a small, faint marker where many runs would hide one another."""
    size, opacity = (9, 0.8) if count <= 200 else (5, 0.5)
    if kind == BEYOND:
        towards = "triangle-up" if sign > 0 else "triangle-down"
        return {"color": PALETTE[0], "size": size + 1, "symbol": towards}
    if kind:
        symbol = SYMBOLS.get(RunStatus(kind), "circle")
        return {"color": PALETTE[0], "size": size, "opacity": opacity, "symbol": symbol}
    return {"color": RED, "size": size + 1, "symbol": "x"}
