"""Ctrl-C and a scheduler's SIGTERM: finish the step, save, then end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignals:
    """A context in which the first SIGINT or SIGTERM is only noted, and a second ends at once."""

    def __init__(self, leave: Callable[[int], Any] = sys.exit) -> None:
        """`leave` is what the second one does, with its exit code."""
        self.leave = leave
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self.leave(128 + number)
        self.received = signal.Signals(number)

    @property
    def name(self) -> str:
        """`SIGINT`, `SIGTERM`, or nothing."""
        return self.received.name if self.received else ""
