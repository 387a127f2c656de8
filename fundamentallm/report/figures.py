"""The report's figures, by plotly.

Text that came from a run goes through `label` first: plotly takes tags in text for markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fundamentallm.config.fields import shown
from fundamentallm.metrics import score_text
from fundamentallm.report.effects import Surface
from fundamentallm.report.factors import Factor, find_factors
from fundamentallm.report.parallel import parallel_coordinates
from fundamentallm.report.plot_style import (
    MOST_AXES,
    PALETTE,
    RED,
    SCALE,
    Plot,
    label,
    new_figure,
)
from fundamentallm.report.results import Curve, Results, RunResult
from fundamentallm.report.rules.claim import Evidence
from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.store.score_cap import farthest, score_of_guess

LOSS = Metric("val_loss")
LOSSES = (("val_loss", "solid"), ("train_loss", "dot"))
MOST_CURVES = 40
MOST_POINTS = 200
MOST_METRICS = 12
"""Most other metrics of another program that are drawn."""
GROUPS = {
    RunStatus.DONE: "done",
    RunStatus.STOPPED: "stopped early",
    "": "diverged or interrupted",
}
"""Legend of each group of runs that is drawn alike, by status."""
OTHER_METRICS = {
    "optim/learning_rate": "learning rate",
    "optim/grad_norm": "gradient norm",
    "perf/tokens_per_second": "tokens per second",
}


def make_plots(results: Results, evidence: Evidence) -> list[Plot]:
    """Return every figure that has data; settings are compared as in `evidence`."""
    plots = [loss_curves(results), *range_tests(results)]
    if len(results.runs) > 1:
        plots += [best_so_far(results), importance(evidence.surface)]
        plots += [parallel_coordinates(evidence.compared), *slices(evidence)]
    if len(results.runs) <= len(PALETTE):
        others = _other_metrics(results) if results.is_foreign else OTHER_METRICS
        plots += [metric_curves(results, metric, title) for metric, title in others.items()]
    return [plot for plot in plots if plot is not None]


def loss_curves(results: Results) -> Plot | None:
    """Plot training and validation loss over the steps; of another program, its metric."""
    chosen = _select_runs(results)
    many = len(chosen) > len(PALETTE)
    own = results.metric.name if results.is_foreign else ""
    figure = new_figure("step", own or "loss (nats)")
    for index, run in enumerate(chosen):
        color = _color(index, len(chosen))
        for metric, dash in ((own, "solid"),) if own else LOSSES:
            curve = _downsampled(run.curve(metric))
            if len(curve):
                figure.add_scatter(
                    x=curve.steps,
                    y=curve.values,
                    name=label(run.name) if many or own else f"{label(run.name)} {metric[:-5]}",
                    legendgroup=str(index) if many else None,
                    showlegend=not many or dash == "solid",
                    mode="lines+markers" if len(curve) < 3 else "lines",
                    line={"color": color, "dash": dash, "width": 2 if dash == "solid" else 1},
                    opacity=1 if dash == "solid" else 0.6,
                    hovertemplate="%{fullData.name}<br>step %{x}: %{y:.5g}<extra></extra>",
                )
    if not figure.data:
        return None
    figure.update_yaxes(range=_metric_range(results) if own else _loss_range(results, chosen))
    subset = (
        "" if len(chosen) == len(results.runs) else f" of {len(chosen)} of {len(results.runs)} runs"
    )
    caption = f"{own}{subset}" if own else f"Validation (solid) and training (dotted) loss{subset}"
    caption += ", the best first in the legend."
    caption += " Click a name to hide it, double-click to show it alone."
    return Plot("curves", own or "Loss", caption, figure)


def best_so_far(results: Results) -> Plot | None:
    """Plot the metric of each run in order, and the best so far."""
    order = [run for run in results.runs if run.score is not None]
    if len(order) < 2:
        return None
    figure = new_figure("run", results.metric.name)
    best: list[float | None] = []
    for run in order:
        found = [*best[-1:], results.shown_score(run) if run.is_ranked else None]
        found = [value for value in found if value is not None]
        best.append(results.metric.best(found))
    numbers = list(range(1, len(order) + 1))
    for kind, name in GROUPS.items():
        those = [(n, run) for n, run in zip(numbers, order, strict=True) if _group(run) == kind]
        if those:
            figure.add_scatter(
                x=[n for n, _ in those],
                y=[results.shown_score(run) for _, run in those],
                name=name,
                mode="markers",
                marker=_marker(kind, len(order)),
                text=[label(run.name) for _, run in those],
                hovertemplate="%{text}: %{y:.5g}<extra></extra>",
            )
    figure.add_scatter(
        x=numbers, y=best, name="best so far", mode="lines",
        line={"shape": "hv", "color": PALETTE[1], "width": 3},
        hovertemplate="best of %{x}: %{y:.5g}<extra></extra>",
    )  # fmt: skip
    caption = "Each run's score in the order of the runs, and the best so far."
    return Plot("best", "Best so far", caption, figure, is_wide=False)


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
    ranked = [run for run in shown_runs if run.is_ranked]
    bad = [run for run in shown_runs if not run.is_ranked]
    worst = results.shown_score(ranked[-1]) if ranked else None
    plots: list[Plot] = []
    for factor in factors[:MOST_AXES]:
        figure = new_figure(label(factor.name), results.metric.name + results.when)
        for kind, name in {**GROUPS, "": "diverged, impossible"}.items():
            runs = [run for run in (*ranked, *bad) if _group(run) == kind]
            if runs:
                figure.add_scatter(
                    x=[_x_value(factor, run) for run in runs],
                    y=[worst if (y := results.shown_score(run)) is None else y for run in runs],
                    mode="markers",
                    name=name,
                    marker=_marker(kind, len(ranked)),
                    text=[label(run.name if kind else f"{run.name}, {run.status}") for run in runs],
                    hovertemplate="%{text}<br>%{x}: %{y:.5g}<extra></extra>",
                    showlegend=len({*map(_group, (*ranked, *bad))}) > 1,
                )
        if factor.in_logs:
            figure.update_xaxes(type="log", **_log_ticks(factor))
        elif not factor.is_numeric:
            figure.update_xaxes(type="category")
        caption = f"{results.metric.name}{results.when} of each run over its {factor.name}."
        plots.append(Plot(f"slice-{len(plots)}", factor.name, caption, figure, is_wide=False))
    return plots


def metric_curves(results: Results, metric: str, title: str) -> Plot | None:
    """Plot another metric over the steps."""
    figure = new_figure("step", title)
    for index, run in enumerate(results.runs):
        curve = _downsampled(run.curve(metric))
        if len(curve):
            figure.add_scatter(
                x=curve.steps, y=curve.values, name=label(run.name), mode="lines",
                line={"color": _color(index, len(results.runs))},
                hovertemplate="%{fullData.name}<br>step %{x}: %{y:.4g}<extra></extra>",
            )  # fmt: skip
    figure.update_yaxes(
        range=_range_without_outliers([run.curve(metric).values for run in results.runs])
    )
    heading = title if results.is_foreign else title.capitalize()
    caption = f"The {title} over the steps."
    plot = Plot(f"metric-{metric}", heading, caption, figure, is_wide=False)
    return plot if figure.data else None


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
        figure.update_yaxes(range=_range_without_outliers([losses.values]))
        caption = "The loss never fell, so there is no range to suggest."
        if found.get("fell", True):
            figure.add_vrect(found["low"], found["high"], fillcolor=PALETTE[2], opacity=0.2)
            caption = (
                f"The range to search, {shown(found['low'])} to {shown(found['high'])}, is shaded."
            )
        plots.append(Plot(f"range-{len(plots)}", "Learning-rate range test", caption, figure))
    return plots


def _other_metrics(results: Results) -> dict[str, str]:
    """Return other metrics that another program logged more than once, with their titles."""
    names = dict.fromkeys(
        name for run in results.runs for name, curve in run.curves.items() if len(curve) > 1
    )
    names.pop(results.metric.name, None)
    return {name: name for name in list(names)[:MOST_METRICS]}


def _select_runs(results: Results) -> list[RunResult]:
    """Return most of the best runs and some of the rest."""
    ranked = results.ranked
    rest = [run for run in results.runs if not run.is_ranked]
    if len(ranked) + len(rest) <= MOST_CURVES:
        return [*ranked, *rest]
    best, others = ranked[: MOST_CURVES * 3 // 4], [*ranked[MOST_CURVES * 3 // 4 :], *rest]
    step = max(1, math.ceil(len(others) / (MOST_CURVES - len(best))))
    return [*best, *others[::step]]


def _loss_range(results: Results, runs: Sequence[RunResult]) -> list[float] | None:
    """Return a range of losses that ignores the first tenth of each run and blow-ups."""
    runs = [run for run in runs if not results.is_capped(run)] or runs
    curves = [run.curve(metric) for run in runs for metric in ("val_loss", "train_loss")]
    late = [
        value
        for curve in curves
        for step, value in zip(curve.steps, curve.values, strict=True)
        if step >= curve.steps[-1] / 10
    ]
    if len(late) < 3:
        return None
    low, high = min(late), sorted(late)[int(0.98 * (len(late) - 1))]
    guesses = [score_of_guess(LOSS, run.summary) for run in runs]
    high = min([high, *(guess for guess in guesses if guess is not None and guess > low)])
    margin = 0.05 * (high - low) or 0.1
    return [low - margin, high + margin]


def _metric_range(results: Results) -> list[float] | None:
    """Return a range of the metric without values that are far worse than the others."""
    sign = results.metric.sign
    curves = [run.curve(results.metric.name).values for run in results.runs]
    found = _range_without_outliers([[sign * value for value in values] for values in curves])
    return found and sorted(sign * end for end in found)


def _range_without_outliers(curves: Sequence[Sequence[float]]) -> list[float] | None:
    """Return a range without values far beyond the others; None if there are none."""
    values = [value for curve in curves for value in curve]
    if not values or max(values) <= farthest(values):
        return None
    low, high = min(values), farthest(values)
    return [low - 0.05 * (high - low), high]


def _downsampled(curve: Curve) -> Curve:
    """Return at most MOST_POINTS points, the last among them."""
    step = math.ceil(len(curve) / MOST_POINTS) or 1
    kept = [*range(0, len(curve), step)]
    if kept and kept[-1] != len(curve) - 1:
        kept.append(len(curve) - 1)
    return Curve(
        tuple(curve.steps[i] for i in kept), tuple(float(f"{curve.values[i]:.6g}") for i in kept)
    )


def _log_ticks(factor: Factor) -> dict[str, Any]:
    """Return round numbers on a logarithmic axis."""
    marks = list(factor.levels)
    if not factor.is_listed:
        low, high = (math.floor(math.log10(marks[0])), math.ceil(math.log10(marks[-1])))
        for kept in ((1, 2, 5), (1, 3), (1,)):
            marks = [k * 10.0**e for e in range(low, high + 1) for k in kept]
            marks = [m for m in marks if factor.levels[0] * 0.9 <= m <= factor.levels[-1] * 1.1]
            if len(marks) <= 5:
                break
    return {"tickvals": marks, "ticktext": [shown(mark) for mark in marks]}


def _x_value(factor: Factor, run: RunResult) -> Any:
    value = run.settings[factor.name]
    return value if factor.is_numeric else label(shown(value))


def _group(run: RunResult) -> str:
    """Return the key of GROUPS."""
    return run.status if run.is_ranked else ""


def _marker(ending: str, count: int) -> dict[str, Any]:
    """Return a small, faint marker where many runs would hide one another."""
    size, opacity = (9, 0.8) if count <= 200 else (5, 0.5)
    if ending:
        symbol = "circle-open" if ending == RunStatus.STOPPED else "circle"
        return {"color": PALETTE[0], "size": size, "opacity": opacity, "symbol": symbol}
    return {"color": RED, "size": size + 1, "symbol": "x"}


def _color(index: int, count: int) -> str:
    """Return a color of the palette if it has enough, else one along the scale."""
    if count <= len(PALETTE):
        return PALETTE[index]
    from plotly.colors import sample_colorscale

    return str(sample_colorscale(list(SCALE), [index / max(count - 1, 1)])[0])
