"""YAML writer for sweep files, with comments, and numbers that every YAML version reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
NOT_TEXT = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


@dataclass(frozen=True)
class Commented:
    """Value with a comment behind it."""

    value: Any
    why: str


def sweep_text(content: Mapping[str, Any], heading: str) -> str:
    """Return the text of the file; values may be `Commented` at any depth."""
    lines = [f"# {line}" for line in heading.splitlines()]
    return "\n".join([*lines, *_mapping(content, 0)]) + "\n"


def _mapping(content: Mapping[str, Any], depth: int) -> Iterator[str]:
    for name, given in content.items():
        value, why = (given.value, given.why) if isinstance(given, Commented) else (given, "")
        behind = f"  # {' '.join(why.split())}" if why else ""
        start = f"{'  ' * depth}{scalar_text(name)}:"
        if isinstance(value, Mapping) and value:
            yield start + behind
            yield from _mapping(value, depth + 1)
        else:
            yield f"{start} {_value(value)}{behind}"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, Mapping):
        members = (f"{scalar_text(name)}: {_value(each)}" for name, each in value.items())
        return f"{{{', '.join(members)}}}"
    return scalar_text(value)


def scalar_text(value: Any) -> str:
    """Return the text of a scalar: numbers that PyYAML reads as numbers, text quoted if needed."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        text = f"{value:.12f}".rstrip("0")
        text += "0" if text.endswith(".") else ""
        if float(text) == value and len(text) < 16:
            return text
        mantissa, _, exponent = repr(value).partition("e")
        dot = "" if "." in mantissa else ".0"
        sign = "" if not exponent or exponent[0] in "+-" else "+"
        return f"{mantissa}{dot}e{sign}{exponent}" if exponent else repr(value)
    if isinstance(value, str) and not (PLAIN.fullmatch(value) and value.lower() not in NOT_TEXT):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
