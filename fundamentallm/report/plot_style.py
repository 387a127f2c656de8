"""What the report's figures have in common: colours, layout, and text that is shown as it is."""

from __future__ import annotations

import html
from dataclasses import dataclass

import plotly.graph_objects as go

from fundamentallm.printable import printable

PALETTE = ("#2D8BCB", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#7F7F7F")
"""After Okabe and Ito, Color Universal Design (2008), without yellow, which is lost on white."""
RED = "#C1272D"
SCALE = ("#2D8BCB", "#8C8C8C", "#E69F00")
"""From best to worst, where runs are more than colours; seen on white and on black."""
MOST_AXES = 10
LONGEST = 60


@dataclass(frozen=True)
class Plot:
    """One figure of the page."""

    id: str
    title: str
    says: str
    """What is to be seen, for those who cannot see it too."""
    figure: go.Figure
    is_wide: bool = True


def new_figure(x: str, y: str) -> go.Figure:
    """An empty one, with its axes named."""
    figure = go.Figure()
    figure.update_xaxes(title=x, automargin=True)
    figure.update_yaxes(title=label(y))
    lay_out(figure)
    return figure


def lay_out(figure: go.Figure) -> None:
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


def label(text: str) -> str:
    """Text that plotly shows as it is: short, without markup and control characters."""
    plain = printable(text, lines=False)
    short = plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"
    return html.escape(short, quote=False)
