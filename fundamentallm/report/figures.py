"""The report's figures, by plotly. Colours are told apart by the colour-blind.

Text that came from a run goes through `label` first: plotly takes tags in text for markup.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from fundamentallm.report.effects import Surface
from fundamentallm.report.factors import Factor, find_factors, shown
from fundamentallm.report.results import Curve, Results, RunResult

PALETTE = ("#2D8BCB", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#7F7F7F")
"""After Okabe and Ito, Color Universal Design (2008), without yellow, which is lost on white."""
RED = "#C1272D"
SCALE = ("#2D8BCB", "#8C8C8C", "#E69F00")
"""From best to worst, where runs are more than colours; seen on white and on black."""
QUARTERS = (
    ("best tenth", "#2D8BCB"),
    ("to a quarter", "#56B4E9"),
    ("to half", "#E69F00"),
    ("worse half", "#8C8C8C"),
)
MOST_CURVES = 40
MOST_POINTS = 200
MOST_AXES = 10
LONGEST = 60
WATCHED = {
    "optim/learning_rate": "learning rate",
    "optim/grad_norm": "gradient norm",
    "perf/tokens_per_second": "tokens a second",
}


@dataclass(frozen=True)
class Plot:
    """One figure of the page."""

    id: str
    title: str
    says: str
    """What is to be seen, for those who cannot see it too."""
    figure: go.Figure
    is_wide: bool = True


def make_plots(results: Results, surface: Surface | None) -> list[Plot]:
    """Every figure that these runs have something to show in."""
    plots = [loss_curves(results), *range_tests(results)]
    if len(results.runs) > 1:
        plots += [best_so_far(results), importance(surface)]
        plots += [parallel_coordinates(results), *slices(results)]
    if len(results.runs) <= len(PALETTE):
        plots += [watched(results, metric, title) for metric, title in WATCHED.items()]
    return [plot for plot in plots if plot is not None]


def loss_curves(results: Results) -> Plot | None:
    """Training and validation loss over the steps."""
    chosen = _worth_showing(results)
    many = len(chosen) > len(PALETTE)
    figure = _figure("step", "loss (nats)")
    for index, run in enumerate(chosen):
        colour = _colour(index, len(chosen))
        for metric, dash in (("val_loss", "solid"), ("train_loss", "dot")):
            curve = _thinned(run.curve(metric))
            if len(curve):
                figure.add_scatter(
                    x=curve.steps,
                    y=curve.values,
                    name=label(run.name) if many else f"{label(run.name)} {metric[:-5]}",
                    legendgroup=str(index) if many else None,
                    showlegend=not many or metric == "val_loss",
                    mode="lines+markers" if len(curve) < 3 else "lines",
                    line={"color": colour, "dash": dash, "width": 2 if dash == "solid" else 1},
                    opacity=1 if dash == "solid" else 0.6,
                    hovertemplate="%{fullData.name}<br>step %{x}: %{y:.4f}<extra></extra>",
                )
    if not figure.data:
        return None
    figure.update_yaxes(range=_after_the_start(chosen))
    few = "" if len(chosen) == len(results.runs) else f" of {len(chosen)} of {len(results.runs)}"
    says = f"Validation (solid) and training (dotted) loss{few} runs, the best first in the legend."
    says += " Click a name to hide it, twice to see it alone."
    return Plot("curves", "Loss", says, figure)


def best_so_far(results: Results) -> Plot | None:
    """The metric of each run in its order, and the best up to it."""
    order = [run for run in results.runs if run.score is not None]
    if len(order) < 2:
        return None
    figure = _figure("run", results.metric.name)
    best: list[float | None] = []
    for run in order:
        found = [value for value in (*best[-1:], run.score if run.is_ranked else None) if value]
        best.append(min(found, key=lambda value: results.metric.sign * value, default=None))
    numbers = list(range(1, len(order) + 1))
    for ranked, name in ((True, "finished"), (False, "diverged or broken off")):
        those = [(n, run) for n, run in zip(numbers, order, strict=True) if run.is_ranked == ranked]
        if those:
            figure.add_scatter(
                x=[n for n, _ in those],
                y=[run.score for _, run in those],
                name=name,
                mode="markers",
                marker=_marker(ranked),
                text=[label(run.name) for _, run in those],
                hovertemplate="%{text}: %{y:.4f}<extra></extra>",
            )
    figure.add_scatter(
        x=numbers, y=best, name="best so far", mode="lines",
        line={"shape": "hv", "color": PALETTE[1], "width": 3},
        hovertemplate="best of %{x}: %{y:.4f}<extra></extra>",
    )  # fmt: skip
    says = "Each run's score in the order of the runs, and the best so far."
    return Plot("best", "Best so far", says, figure, is_wide=False)


def importance(surface: Surface | None) -> Plot | None:
    """The share of the variance that each setting explains."""
    if surface is None:
        return None
    rows = [(e.factor.name, e.share, f"{e.size:.3f} ± {e.error:.3f}") for e in surface.effects]
    rows += [(factor.name, 0.0, "not told from chance") for factor in surface.undecided]
    figure = _figure("share of the variance", "")
    figure.add_bar(
        x=[share for _, share, _ in rows],
        y=[label(name) for name, _, _ in rows],
        text=[text for _, _, text in rows],
        orientation="h",
        marker={"color": PALETTE[0]},
        hovertemplate="%{y}: %{x:.0%} of the variance, %{text}<extra></extra>",
        textposition="auto",
        showlegend=False,
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    says = "How much of the differences between runs each setting explains, and what it moves the "
    says += "metric by from worst to best (95% interval); a fitted polynomial, as in explain."
    return Plot("importance", "Importance", says, figure, is_wide=False)


def parallel_coordinates(results: Results) -> Plot | None:
    """Every finished run as a line through its settings to its score.

    Lines of a scatter plot, because plotly's own parallel coordinates need WebGL, which the
    browsers of clusters and remote desktops often lack, and do not print.
    """
    runs = results.ranked
    factors = find_factors(results, runs)[:MOST_AXES]
    if len(runs) < 4 or not factors:
        return None
    scores = [results.loss(run) for run in runs]
    least, span = scores[0], (scores[-1] - scores[0]) or 1.0
    places = [factor.positions(runs) / _last_place(factor) for factor in factors]
    figure = _figure("", "")
    ends = [0, *(max(1, round(share * len(runs))) for share in (0.1, 0.25, 0.5)), len(runs)]
    for part in reversed(range(4)):
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str] = []
        for i in range(ends[part], ends[part + 1]):
            x += [*range(len(factors) + 1), None]
            y += [*(round(float(place[i]), 4) for place in places)]
            y += [round((scores[i] - least) / span, 4), None]
            values = [label(shown(runs[i].settings[factor.name])) for factor in factors]
            text += [f"{label(runs[i].name)}: {each}" for each in (*values, f"{runs[i].score:.4f}")]
            text.append("")
        figure.add_scatter(
            x=x, y=y, text=text, mode="lines", name=QUARTERS[part][0],
            line={"color": QUARTERS[part][1], "width": 3 - 0.7 * part},
            opacity=1 - 0.2 * part, hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    names = [label(factor.name) for factor in factors] + [label(results.metric.name)]
    ticks = [*range(len(names))]
    figure.update_xaxes(tickvals=ticks, ticktext=names, side="top", title="", showline=False)
    figure.update_xaxes(range=[-0.25, len(names) - 0.6])
    figure.update_yaxes(visible=False, range=[-0.08, 1.05])
    figure.update_layout(legend={"traceorder": "reversed"}, margin={"l": 30, "t": 60, "b": 20})
    marks = [*map(_marks, factors)]
    scale = [(k / 4, f"{results.metric.sign * (least + k / 4 * span):.3f}") for k in range(5)]
    for axis, texts in enumerate([*marks, scale]):
        for place, text_there in texts:
            figure.add_annotation(
                x=axis, y=place, text=text_there, showarrow=False, xanchor="left", xshift=4,
                font={"size": 11},
            )  # fmt: skip
    says = "A line for each finished run, from its settings to its score; the best runs are blue."
    return Plot("parallel", "Parallel coordinates", says + " Click a name to hide it.", figure)


def slices(results: Results) -> list[Plot]:
    """The score over each setting alone; runs that came to nothing in red, at the top."""
    ranked = results.ranked
    bad = [run for run in results.runs if run.status in ("diverged", "impossible")]
    plots: list[Plot] = []
    for factor in find_factors(results, [*ranked, *bad])[:MOST_AXES]:
        figure = _figure(label(factor.name), results.metric.name)
        for runs, name, ranks in ((ranked, "finished", True), (bad, "diverged, impossible", False)):
            if runs:
                figure.add_scatter(
                    x=[_place(factor, run) for run in runs],
                    y=[run.score if run.score is not None else _top(ranked) for run in runs],
                    mode="markers",
                    name=name,
                    marker=_marker(ranks),
                    text=[label(f"{run.name}, {run.status}") for run in runs],
                    hovertemplate="%{text}<br>%{x}: %{y:.4f}<extra></extra>",
                    showlegend=bool(bad),
                )
        if factor.in_logs:
            figure.update_xaxes(type="log", **_log_ticks(factor))
        elif not factor.is_numeric:
            figure.update_xaxes(type="category")
        says = f"{results.metric.name} of each run over its {factor.name}."
        plots.append(Plot(f"slice-{len(plots)}", factor.name, says, figure, is_wide=False))
    return plots


def watched(results: Results, metric: str, title: str) -> Plot | None:
    """Another metric over the steps, where there are few runs."""
    figure = _figure("step", title)
    for index, run in enumerate(results.runs):
        curve = _thinned(run.curve(metric))
        if len(curve):
            figure.add_scatter(
                x=curve.steps, y=curve.values, name=label(run.name), mode="lines",
                line={"color": _colour(index, len(results.runs))},
                hovertemplate="%{fullData.name}<br>step %{x}: %{y:.4g}<extra></extra>",
            )  # fmt: skip
    name = metric.rpartition("/")[2]
    says = f"The {title} over the steps."
    return Plot(name, title.capitalize(), says, figure, is_wide=False) if figure.data else None


def range_tests(results: Results) -> list[Plot]:
    """The loss over a learning rate that rises: what `find learning-rate` leaves."""
    plots: list[Plot] = []
    for run in results.runs:
        found = run.summary.get("range_test")
        rates, losses = run.curve("optim/learning_rate"), run.curve("train_loss")
        if not isinstance(found, dict) or not len(rates) or rates.steps != losses.steps:
            continue
        figure = _figure("learning rate", "training loss (nats)")
        figure.add_scatter(
            x=rates.values, y=losses.values, mode="lines", name="training loss",
            line={"color": PALETTE[0]},
            hovertemplate="rate %{x:.2g}: %{y:.4f}<extra></extra>",
        )  # fmt: skip
        figure.add_vrect(found["low"], found["high"], fillcolor=PALETTE[2], opacity=0.2)
        figure.update_xaxes(type="log")
        says = f"The range to search, {shown(found['low'])} to {shown(found['high'])}, is shaded."
        plots.append(Plot(f"range-{len(plots)}", "Learning-rate range test", says, figure))
    return plots


def label(text: str) -> str:
    """Text that plotly shows as it is: short, without markup and control characters."""
    plain = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    short = plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"
    return html.escape(short, quote=False)


def _worth_showing(results: Results) -> list[RunResult]:
    """Most of the best, and some of the rest."""
    ranked = results.ranked
    rest = [run for run in results.runs if not run.is_ranked]
    if len(ranked) + len(rest) <= MOST_CURVES:
        return [*ranked, *rest]
    best, others = ranked[: MOST_CURVES * 3 // 4], [*ranked[MOST_CURVES * 3 // 4 :], *rest]
    step = max(1, math.ceil(len(others) / (MOST_CURVES - len(best))))
    return [*best, *others[::step]]


def _after_the_start(runs: Sequence[RunResult]) -> list[float] | None:
    """A range of losses that the first tenth of the steps does not stretch."""
    curves = [run.curve(metric) for run in runs for metric in ("val_loss", "train_loss")]
    last = max((curve.steps[-1] for curve in curves if len(curve)), default=0)
    late = [
        value
        for curve in curves
        for step, value in zip(curve.steps, curve.values, strict=True)
        if step >= last / 10
    ]
    if len(late) < 3:
        return None
    low, high = min(late), sorted(late)[int(0.98 * (len(late) - 1))]
    margin = 0.05 * (high - low) or 0.1
    return [low - margin, high + margin]


def _thinned(curve: Curve) -> Curve:
    """At most MOST_POINTS, the last among them."""
    step = math.ceil(len(curve) / MOST_POINTS) or 1
    kept = [*range(0, len(curve), step)]
    if kept and kept[-1] != len(curve) - 1:
        kept.append(len(curve) - 1)
    return Curve(
        tuple(curve.steps[i] for i in kept), tuple(round(curve.values[i], 5) for i in kept)
    )


def _marks(factor: Factor) -> list[tuple[float, str]]:
    """What is written along one axis of the parallel coordinates: places in [0, 1], and text."""
    if not factor.is_numeric:
        last = _last_place(factor)
        return [(i / last, label(shown(level))) for i, level in enumerate(factor.levels)]
    if factor.is_listed:
        return [(factor.position(level), label(shown(level))) for level in factor.levels]
    return [(i / 4, shown(float(f"{factor.value(i / 4):.2g}"))) for i in range(5)]


def _last_place(factor: Factor) -> float:
    """What `positions` go up to."""
    return 1.0 if factor.is_numeric else float(len(factor.levels) - 1)


def _log_ticks(factor: Factor) -> dict[str, Any]:
    """Round numbers on a logarithmic axis."""
    marks = list(factor.levels)
    if not factor.is_listed:
        low, high = (math.floor(math.log10(marks[0])), math.ceil(math.log10(marks[-1])))
        for kept in ((1, 2, 5), (1, 3), (1,)):
            marks = [k * 10.0**e for e in range(low, high + 1) for k in kept]
            marks = [m for m in marks if factor.levels[0] * 0.9 <= m <= factor.levels[-1] * 1.1]
            if len(marks) <= 7:
                break
    return {"tickvals": marks, "ticktext": [shown(mark) for mark in marks]}


def _place(factor: Factor, run: RunResult) -> Any:
    value = run.settings[factor.name]
    return value if factor.is_numeric else label(str(value))


def _top(ranked: Sequence[RunResult]) -> float | None:
    return max((run.score for run in ranked if run.score is not None), default=None)


def _marker(ranked: bool) -> dict[str, Any]:
    if ranked:
        return {"color": PALETTE[0], "size": 9, "opacity": 0.8}
    return {"color": RED, "size": 10, "symbol": "x"}


def _colour(index: int, count: int) -> str:
    """From the palette where it has enough, else along a scale."""
    if count <= len(PALETTE):
        return PALETTE[index]
    from plotly.colors import sample_colorscale

    return str(sample_colorscale(list(SCALE), [index / max(count - 1, 1)])[0])


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=label(y))
    _lay_out(figure)
    return figure


def _lay_out(figure: go.Figure) -> None:
    """No colours of text and ground: the page sets them, for light and for dark."""
    figure.update_layout(
        template="none",
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "v"},
        hovermode="closest",
    )
