"""Contour: the score over the two settings that matter most, with every run as a point."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from fundamentallm.report.axis_range import ScoreAxis
from fundamentallm.report.factors import Factor, log_ticks
from fundamentallm.report.plot_style import SCALE, Plot, label, new_figure
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.rules.claim import Evidence

GRID = 31
"""Points of the interpolated score along each axis."""
FEWEST = 8
"""Runs that a contour needs."""


def contour(evidence: Evidence) -> Plot | None:
    """Plot the score over two numbers that were searched, those that explain most first.

    Between runs it is interpolated linearly (Delaunay triangles); outside of them it is empty.
    """
    surface, results = evidence.surface, evidence.compared
    if surface is None:
        return None
    known = [*(effect.factor for effect in surface.effects), *surface.undecided]
    factors = [factor for factor in known if factor.is_numeric][:2]
    if len(factors) < 2 or len(surface.runs) < FEWEST:
        return None
    runs = sorted(surface.runs, key=results.loss)
    axis = ScoreAxis.of(results, runs)
    scores = np.array([axis.sign * min(results.loss(run), axis.worst) for run in runs])
    across, up = factors
    figure = new_figure(label(across.name), label(up.name))
    colors = _colors(axis)
    if (grid := _interpolated(factors, runs, scores)) is not None:
        x, y, z = grid
        figure.add_contour(
            x=x, y=y, z=z, **colors, connectgaps=False, opacity=0.6, ncontours=12,
            line={"width": 0}, showscale=False, hoverinfo="skip",
        )  # fmt: skip
    title = {"text": label(results.metric.name), "side": "right"}
    figure.add_scatter(
        x=[run.settings[across.name] for run in runs],
        y=[run.settings[up.name] for run in runs],
        customdata=[run.name for run in runs],
        text=[_text(results, run, factors) for run in runs],
        hovertemplate="%{text}<extra></extra>",
        mode="markers",
        marker=_marker(scores, colors, title),
        showlegend=False,
    )
    for update, factor in ((figure.update_xaxes, across), (figure.update_yaxes, up)):
        if factor.in_logs:
            update(type="log", **log_ticks(factor))
    caption = (
        f"{results.metric.name}{results.when} over {across.name} and {up.name}, interpolated "
        "between the runs, which are the points; blue is best."
    )
    return Plot("contour", f"{across.name} and {up.name}", caption, figure, is_wide=False)


def _interpolated(
    factors: list[Factor], runs: list[RunResult], scores: np.ndarray[Any, Any]
) -> tuple[list[float], list[float], list[list[float | None]]] | None:
    """Return a grid of both settings and scores; None if the runs lie on one line."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    places = np.stack([factor.positions(runs) for factor in factors], 1)
    distinct, index = np.unique(places, axis=0, return_inverse=True)
    sums = np.bincount(index.ravel(), scores)
    means = sums / np.bincount(index.ravel())
    along = np.linspace(0, 1, GRID)
    with suppress(QhullError):
        found = griddata(distinct, means, tuple(np.meshgrid(along, along)))
        rounded = [[None if np.isnan(v) else float(f"{v:.5g}") for v in row] for row in found]
        x, y = ([float(f"{factor.value(at):.5g}") for at in along] for factor in factors)
        return x, y, rounded
    return None


def _colors(axis: ScoreAxis) -> dict[str, Any]:
    """Return the color scale, blue at the best score."""
    low, high = sorted((axis.sign * axis.best, axis.sign * axis.worst))
    scale = SCALE if axis.sign > 0 else SCALE[::-1]
    return {"colorscale": [[i / 2, color] for i, color in enumerate(scale)], "zmin": low,
            "zmax": high}  # fmt: skip


def _marker(
    scores: np.ndarray[Any, Any], colors: dict[str, Any], title: dict[str, Any]
) -> dict[str, Any]:
    size = 9 if len(scores) <= 200 else 5
    return {
        "color": scores.tolist(), "colorscale": colors["colorscale"], "cmin": colors["zmin"],
        "cmax": colors["zmax"], "size": size, "line": {"width": 1, "color": "#8C8C8C"},
        "showscale": True, "colorbar": {"title": title, "thickness": 12},
    }  # fmt: skip


def _text(results: Results, run: RunResult, factors: list[Factor]) -> str:
    from fundamentallm.config.fields import shown
    from fundamentallm.metrics import score_text

    values = ", ".join(f"{factor.name} {shown(run.settings[factor.name])}" for factor in factors)
    return label(f"{run.name}: {score_text(run.score)}") + "<br>" + label(values)
