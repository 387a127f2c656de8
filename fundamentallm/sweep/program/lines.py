"""Lines of a text that arrives in pieces."""

from __future__ import annotations

LONGEST_LINE = 1 << 24
"""Bytes; a longer line is skipped."""


class Lines:
    """Puts the pieces of lines together, in bounded memory."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self.longest = longest
        self.partial: list[bytes] = []
        self.size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are now complete, without line ends; empty if one is too long."""
        first, *others = data.split(b"\n")
        self._keep(first)
        lines: list[bytes] = []
        for piece in others:
            lines.append(b"".join(self.partial) if self.size <= self.longest else b"")
            self.partial, self.size = [], 0
            self._keep(piece)
        return lines

    def _keep(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size <= self.longest:
            self.partial.append(piece)
        else:
            self.partial = []
