"""What is found wrong, or worth a warning, in a sweep file: where, what, and what would do."""

from __future__ import annotations

from dataclasses import dataclass, field

from fundamentallm.errors import FundamentallmError
from fundamentallm.exit_codes import FAILED

Key = tuple[str | int, ...]
"""Where something stands in the file: the keys, and the positions in lists, that lead to it."""


class SweepError(FundamentallmError):
    """A sweep file, or the folder of a sweep, cannot be used; every reason in one message."""


class DisplacedError(SweepError):
    """The folder of a sweep, or its database, was moved or removed while the sweep ran."""

    exit_code = FAILED


@dataclass(frozen=True)
class Diagnostic:
    """One line for the reader of a sweep file."""

    level: str
    """`error`, or `warning`: the sweep can run, and may not mean what its author thinks."""
    line: int
    key: str
    message: str
    is_clear: bool = False
    """Of an error: W&B refuses it, but what it means is known, so that a stored sweep goes on."""

    def text(self, file: str) -> str:
        """`FILE:LINE: KEY: MESSAGE`."""
        where = f"{file}:{self.line}" if self.line else file
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


@dataclass
class Diagnostics:
    """All that is found in one file."""

    file: str
    lines: dict[Key, int] = field(default_factory=dict)
    """The line of every key."""
    found: list[Diagnostic] = field(default_factory=list)
    _wrong: list[Key] = field(default_factory=list)

    def error(self, key: Key, message: str, *, line: int = 0) -> None:
        """Note a mistake."""
        self._add("error", key, message, line)
        self._wrong.append(key)

    def refuse(self, key: Key, message: str) -> None:
        """Note a mistake to W&B whose meaning is clear all the same."""
        self._add("error", key, message, is_clear=True)

    def warn(self, key: Key, message: str, *, line: int = 0) -> None:
        """Note what may not be meant."""
        self._add("warning", key, message, line)

    def _add(
        self, level: str, key: Key, message: str, line: int = 0, *, is_clear: bool = False
    ) -> None:
        here = line or self.line(key)
        self.found.append(Diagnostic(level, here, spell(key), message, is_clear))

    def add(self, others: Diagnostics) -> None:
        """Take over what was found of the same file elsewhere."""
        self.found += others.found
        self._wrong += others._wrong

    def is_wrong(self, key: Key) -> bool:
        """Whether there is a mistake at `key`, or in what stands under it."""
        return any(wrong[: len(key)] == key for wrong in self._wrong)

    def line(self, key: Key) -> int:
        """The line of `key`, or of what it stands in; 0 if that is the whole file."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 0)

    def sorted(self) -> list[Diagnostic]:
        """By line, each once."""
        return sorted(set(self.found), key=lambda each: (each.line, each.key, each.message))

    @property
    def errors(self) -> list[Diagnostic]:
        """The mistakes."""
        return [each for each in self.sorted() if each.level == "error"]

    @property
    def warnings(self) -> list[Diagnostic]:
        """The warnings."""
        return [each for each in self.sorted() if each.level == "warning"]

    def raise_unclear(self) -> None:
        """Stop here if a mistake leaves open what the sweep means.

        Raises:
            SweepError: With a line for every mistake.
        """
        if not all(each.is_clear for each in self.errors):
            raise SweepError("\n".join(each.text(self.file) for each in self.errors))


def spell(key: Key) -> str:
    """`parameters.learning_rate.values[2]`."""
    words = ""
    for part in key:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else part
    return words
