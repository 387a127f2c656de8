"""Timeline of a sweep's workers: when each run was in progress, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from fundamentallm.metrics import duration_text, score_text
from fundamentallm.report.plot_style import PALETTE, RED, Plot, label, new_figure
from fundamentallm.report.results import Results, RunResult
from fundamentallm.status import RunStatus
from fundamentallm.sweep.store.records import STATUS_WORDS

COLORS: Mapping[str, str] = {
    RunStatus.DONE: PALETTE[0],
    RunStatus.STOPPED: PALETTE[4],
    RunStatus.RUNNING: PALETTE[2],
    RunStatus.UNFINISHED: PALETTE[2],
    RunStatus.INTERRUPTED: PALETTE[7],
}
"""Colors by status; of failed and diverged runs red."""


def timeline(results: Results) -> Plot | None:
    """Plot runs over the time of day, those at the same time below one another.

    None if fewer than two runs have times.
    """
    runs = [run for run in results.runs if run.period is not None]
    if len(runs) < 2:
        return None
    rows = assign_rows([run.period for run in runs if run.period is not None])
    figure = new_figure("", "worker")
    for status in dict.fromkeys(run.status for run in runs):
        those = [(run, row) for run, row in zip(runs, rows, strict=True) if run.status == status]
        periods = [run.period or (0.0, 0.0) for run, _ in those]
        figure.add_bar(
            base=[datetime.fromtimestamp(start).isoformat() for start, _ in periods],
            x=[max(1, round(1000 * (end - start))) for start, end in periods],
            y=[row + 1 for _, row in those],
            customdata=[run.name for run, _ in those],
            text=[_text(run) for run, _ in those],
            textposition="none",
            orientation="h",
            name=STATUS_WORDS.get(status, status).partition(" (")[0],
            marker={"color": COLORS.get(status, RED), "line": {"width": 1}},
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="date")
    figure.update_yaxes(autorange="reversed", dtick=1)
    figure.update_layout(barmode="overlay", bargap=0.3)
    caption = (
        "When each run was in progress, by the times of its files; runs in a row followed one "
        "another."
    )
    return Plot("timeline", "Timeline of workers", caption, figure)


def assign_rows(periods: Sequence[tuple[float, float]]) -> list[int]:
    """Return a row for each period, so that no two of a row overlap; as few rows as possible."""
    ends: list[float] = []
    rows = [0] * len(periods)
    for index in sorted(range(len(periods)), key=lambda index: periods[index]):
        start, end = periods[index]
        free = [row for row, last in enumerate(ends) if last <= start + 0.5]
        if free:
            rows[index] = max(free, key=lambda row: ends[row])
            ends[rows[index]] = end
        else:
            rows[index] = len(ends)
            ends.append(end)
    return rows


def _text(run: RunResult) -> str:
    start, end = run.period or (0.0, 0.0)
    words = [run.name, run.status, score_text(run.score), duration_text(end - start)]
    return label(", ".join(filter(None, words)))
