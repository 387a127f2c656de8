"""JSON on stdout, for programs: one document, with numbers as exact as they are known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import click

from fundamentallm.cli.messages import show

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def show_json(content: object, *, indent: int | None = 2) -> None:
    """Print `content` as one JSON document."""
    show(json_text(content, indent=indent))


def json_text(content: object, *, indent: int | None = 2) -> str:
    """Return `content` as JSON; a number that is not finite, which JSON lacks, becomes null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False, default=str)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(name): _finite(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(each) for each in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
