"""Style that the report's figures share: colors, layout, and labels without markup."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from fundamentallm.printable import printable

PALETTE = ("#2D8BCB", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#7F7F7F")
"""After Okabe and Ito, Color Universal Design (2008), without yellow, which is lost on white."""
RED = "#C1272D"
SCALE = ("#2D8BCB", "#8C8C8C", "#E69F00")
"""Colors from best to worst, for more runs than the palette has; visible on white and black."""
MOST_AXES = 10
MAX_LABEL = 60


@dataclass(frozen=True)
class Plot:
    """A figure of the page."""

    id: str
    title: str
    caption: str
    """Description under the figure, and for screen readers."""
    figure: go.Figure
    is_wide: bool = True
    kind: str = "points"
    """`curves`, drawn from the runs' curves; `parallel`, with axes to select on; or `points`."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More about it for the page, by its kind."""


def new_figure(x: str, y: str) -> go.Figure:
    """Return an empty figure with named axes."""
    figure = go.Figure()
    figure.update_xaxes(title=x, automargin=True)
    figure.update_yaxes(title=label(y))
    set_layout(figure)
    return figure


def set_layout(figure: go.Figure) -> None:
    """Set the layout; the page sets colors of text and background, for light and dark."""
    figure.update_layout(
        template="none",
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "v"},
        hovermode="closest",
    )


def label(text: str) -> str:
    """Return text that plotly shows unchanged: short, without markup and control characters."""
    plain = printable(text, lines=False)
    short = plain if len(plain) <= MAX_LABEL else plain[: MAX_LABEL - 1] + "…"
    return html.escape(short, quote=False)
