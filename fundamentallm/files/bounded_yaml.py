"""Read untrusted YAML: no code runs, and size and depth are bounded.

A text that is deep, or large once its aliases are expanded, is refused before anything recurses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

DEEPEST = 32
MOST_VALUES = 100_000  # with aliases expanded

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a report reads up to 2,000 runs


class YamlError(ValueError):
    """A text is not YAML, or exceeds the bounds."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        """Set the problem and its line, counted from 1."""
        super().__init__(problem)
        self.problem, self.line = problem, line

    def where(self, file: object) -> str:
        """Return `file`, with the line if it is known."""
        return f"{file}:{self.line}" if self.line else str(file)


def load(text: str) -> Any:
    """Parse `text` into plain Python objects.

    Raises:
        YamlError: The text is not YAML, too deep, or too large.
    """
    _check_bounds(text)
    with _errors():
        return yaml.load(text, Loader=_Loader)


def compose(text: str) -> yaml.Node | None:
    """Parse `text` into nodes, which know their lines.

    Raises:
        YamlError: The text is not YAML, too deep, or too large.
    """
    _check_bounds(text)
    with _errors():
        return yaml.compose(text, Loader=_Loader)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except YamlError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise YamlError(f"not YAML: {problem}", mark.line + 1 if mark else None) from None
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        # PyYAML raises these on 5,000 digits or `!!bool x`.
        raise YamlError(f"not YAML: {str(error).partition('; use sys')[0]}") from None


def _check_bounds(text: str) -> None:
    sizes: dict[str, tuple[int, int]] = {}  # values and levels under an anchor
    within: list[list[Any]] = []  # anchor, earlier values and levels of each open node
    count = 0
    with _errors():
        for event in yaml.parse(text, Loader=_Loader):
            values, levels = 1, 0
            if isinstance(event, yaml.AliasEvent):
                if any(event.anchor == anchor for anchor, _, _ in within):
                    line = event.start_mark.line + 1
                    raise YamlError(f"&{event.anchor} contains itself, by an alias", line)
                values, levels = sizes.get(event.anchor, (1, 0))  # `compose` raises the error
            elif isinstance(event, yaml.CollectionStartEvent):
                within.append([event.anchor, count, 1])
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before, levels = within.pop()
                sizes[anchor] = count - before, levels
                values = 0
            elif isinstance(event, yaml.ScalarEvent):
                sizes[event.anchor] = 1, 0
            else:
                continue
            count += values
            if within:
                within[-1][2] = max(within[-1][2], levels + 1)
            line = event.start_mark.line + 1
            if count > MOST_VALUES:
                raise YamlError(f"more than {MOST_VALUES:,} values once aliases are expanded", line)
            if len(within) + levels > DEEPEST:
                raise YamlError(f"nested more than {DEEPEST} deep", line)
