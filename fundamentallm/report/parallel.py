"""Parallel coordinates: each finished run is a line through its settings to its score."""

from __future__ import annotations

from fundamentallm.config.fields import shown
from fundamentallm.metrics import score_text
from fundamentallm.report.axis_range import ScoreAxis
from fundamentallm.report.factors import Factor, find_factors
from fundamentallm.report.plot_style import MOST_AXES, Plot, label, new_figure
from fundamentallm.report.results import Results

BANDS = (
    ("best tenth", "#2D8BCB"),
    ("to a quarter", "#56B4E9"),
    ("to half", "#E69F00"),
    ("worse half", "#8C8C8C"),
)
MANY_RUNS = 200
EDGE = 1.04
"""Position of scores that are worse than the axis shows."""
SCORE = ""
"""Name of the last axis, which is no setting."""


def parallel_coordinates(results: Results) -> Plot | None:
    """Draw each compared run as a line through its settings to its score.

    Lines of a scatter plot, because plotly's own parallel coordinates need WebGL, which the
    browsers of clusters and remote desktops often lack, and do not print.
    """
    factors, runs = find_factors(results, results.ranked)
    factors = factors[:MOST_AXES]
    if len(runs) < 4 or not factors:
        return None
    scores = [results.loss(run) for run in runs]
    axis = ScoreAxis.of(results, runs)
    least, span = axis.best, (axis.worst - axis.best) or 1.0
    positions = [factor.positions(runs) / _max_position(factor) for factor in factors]
    figure = new_figure("", "")
    thick = 3 if len(runs) <= MANY_RUNS else 1.5
    ends = [0, *(max(1, round(share * len(runs))) for share in (0.1, 0.25, 0.5)), len(runs)]
    for part in reversed(range(4)):
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str] = []
        names: list[str] = []
        for i in range(ends[part], ends[part + 1]):
            x += [*range(len(factors) + 1), None]
            y += [*(round(float(position[i]), 4) for position in positions)]
            y += [min(round((scores[i] - least) / span, 4), EDGE), None]
            names += [runs[i].name] * (len(factors) + 2)
            values = [label(shown(runs[i].settings[factor.name])) for factor in factors]
            text += [
                f"{label(runs[i].name)}: {each}" for each in (*values, score_text(runs[i].score))
            ]
            text.append("")
        figure.add_scatter(
            x=x, y=y, text=text, customdata=names, mode="lines", name=BANDS[part][0],
            line={"color": BANDS[part][1], "width": thick * (1 - part / 5)},
            opacity=(1 - 0.2 * part) * (1 if len(runs) <= MANY_RUNS else 0.6),
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    heads = [label(factor.name) for factor in factors] + [label(results.metric.name + results.when)]
    ticks = [*range(len(heads))]
    figure.update_xaxes(tickvals=ticks, ticktext=heads, side="top", title="", showline=False)
    figure.update_xaxes(range=[-0.25, len(heads) - 0.6])
    figure.update_yaxes(visible=False, range=[-0.08, 1.05])
    figure.update_layout(legend={"traceorder": "reversed"}, margin={"l": 70, "t": 60, "b": 20})
    axis_ticks = [*map(_axis_ticks, factors)]
    scale = [(k / 4, score_text(results.metric.sign * (least + k / 4 * span))) for k in range(5)]
    for place, texts in enumerate([*axis_ticks, scale]):
        for position, tick_text in texts:
            figure.add_annotation(
                x=place, y=position, text=tick_text, showarrow=False, xanchor="left", xshift=4,
                font={"size": 11},
            )  # fmt: skip
    figure.update_layout(dragmode="select")
    caption = (
        f"A line for each run, from its settings to its score{results.when}; the best are blue."
    )
    if any(axis.is_beyond(results, run) for run in runs):
        caption += " Worse scores than the axis shows are at its upper end."
    caption += " Drag over a part of an axis to keep the runs there, in the table and every chart."
    columns = [*(factor.name for factor in factors), SCORE]
    return Plot(
        "parallel", "Parallel coordinates", caption, figure,
        kind="parallel", details={"axes": columns},
    )  # fmt: skip


def _axis_ticks(factor: Factor) -> list[tuple[float, str]]:
    """Return the ticks of one axis: positions in [0, 1], and text."""
    if not factor.is_numeric:
        last = _max_position(factor)
        return [(i / last, label(shown(level))) for i, level in enumerate(factor.levels)]
    if factor.is_listed:
        return [(factor.position(level), label(shown(level))) for level in factor.levels]
    return [(i / 4, shown(float(f"{factor.value(i / 4):.2g}"))) for i in range(5)]


def _max_position(factor: Factor) -> float:
    """Return the largest value of `positions`."""
    return 1.0 if factor.is_numeric else float(len(factor.levels) - 1)
