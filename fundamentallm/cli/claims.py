"""Claims about a sweep, printed below their headings."""

from __future__ import annotations

from collections.abc import Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import click

from fundamentallm.cli.messages import show

if TYPE_CHECKING:
    from fundamentallm.report.rules.claim import Claim

WIDEST = 100


def show_claims(claims: Sequence[Claim]) -> None:
    """Print claims, each heading once."""
    from fundamentallm.report.explain import by_heading

    for heading, sentences in by_heading(claims).items():
        click.secho(heading, bold=True)
        for each in sentences:
            show_wrapped(each, indent="  ")


def show_wrapped(text: str, *, indent: str = "") -> None:
    """Print a text in lines that fit the terminal."""
    width = min(WIDEST, get_terminal_size().columns)
    show(click.wrap_text(text, width, indent, indent))
