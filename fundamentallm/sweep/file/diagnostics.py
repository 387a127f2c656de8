"""Diagnostics of a sweep file: errors and warnings, each with its line and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fundamentallm.errors import FundamentallmError
from fundamentallm.exit_codes import FAILED

Key = tuple[str | int, ...]
"""Path in the file: keys of mappings and indices of lists."""


class SweepError(FundamentallmError):
    """A sweep file or folder cannot be used; the message has every reason."""


class DisplacedError(SweepError):
    """The folder of a sweep, or its database, was moved or removed while the sweep ran."""

    exit_code = FAILED


@dataclass(frozen=True)
class Diagnostic:
    """Error or warning about a sweep file."""

    level: str
    """`error`, or `warning` if the sweep can run but may not do what its author means."""
    line: int
    key: str
    message: str
    is_unambiguous: bool = False
    """True if only W&B refuses it: a stored sweep can resume all the same."""

    def text(self, file: str) -> str:
        """Return the text `FILE:LINE: KEY: MESSAGE`."""
        where = f"{file}:{self.line}" if self.line else file
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


@dataclass
class Diagnostics:
    """All errors and warnings of one file."""

    file: str
    lines: dict[Key, int] = field(default_factory=dict)
    """Line of every key."""
    found: list[Diagnostic] = field(default_factory=list)
    _wrong: list[Key] = field(default_factory=list)

    def error(self, key: Key, message: str, *, line: int = 0) -> None:
        """Add an error."""
        self._add("error", key, message, line)
        self._wrong.append(key)

    def refused_by_wandb(self, key: Key, message: str) -> None:
        """Add an error that only W&B makes: the meaning is unambiguous."""
        self._add("error", key, message, is_unambiguous=True)

    def warn(
        self, key: Key, message: str, *, line: int = 0, refused_by_wandb: bool = False
    ) -> None:
        """Add a warning; `refused_by_wandb` if our trainer accepts what W&B refuses."""
        self._add("warning", key, message, line, is_unambiguous=refused_by_wandb)

    def hold_to_wandb(self) -> None:
        """Make errors of the warnings about what W&B refuses: the program expects W&B's rules."""
        self.found = [
            replace(each, level="error") if each.is_unambiguous else each for each in self.found
        ]

    def _add(
        self, level: str, key: Key, message: str, line: int = 0, *, is_unambiguous: bool = False
    ) -> None:
        here = line or self.line(key)
        self.found.append(Diagnostic(level, here, key_text(key), message, is_unambiguous))

    def add(self, others: Diagnostics) -> None:
        """Add all diagnostics of `others`, which are of the same file."""
        self.found += others.found
        self._wrong += others._wrong

    def is_wrong(self, key: Key) -> bool:
        """Return whether there is an error at `key` or below it."""
        return any(wrong[: len(key)] == key for wrong in self._wrong)

    def line(self, key: Key) -> int:
        """Return the line of `key` or of the nearest key above it; 0 for the whole file."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 0)

    def forget_lines(self) -> None:
        """Leave out line numbers, of a text that the user has not written."""
        self.lines.clear()
        self.found = [replace(each, line=0) for each in self.found]

    def sorted(self) -> list[Diagnostic]:
        """Return the diagnostics by line, each once."""
        return sorted(set(self.found), key=lambda each: (each.line, each.key, each.message))

    @property
    def errors(self) -> list[Diagnostic]:
        """Return the errors by line."""
        return [each for each in self.sorted() if each.level == "error"]

    @property
    def warnings(self) -> list[Diagnostic]:
        """Return the warnings by line."""
        return [each for each in self.sorted() if each.level == "warning"]

    def raise_ambiguous(self) -> None:
        """Raise if an error makes the meaning of the sweep ambiguous.

        Raises:
            SweepError: There is one; the message has a line for every error.
        """
        if not all(each.is_unambiguous for each in self.errors):
            raise SweepError("\n".join(each.text(self.file) for each in self.errors))


def key_text(key: Key) -> str:
    """Return the key as text: `parameters.learning_rate.values[2]`."""
    words = ""
    for part in key:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else part
    return words
