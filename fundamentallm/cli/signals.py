"""Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP: finish the step, save, then end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

COPY_SECONDS = 1.0
"""A SIGTERM or SIGHUP so soon after another is the same: a scheduler tells every process, `wandb
agent --forward-signals` tells its run once more, and a terminal that closes is told of by the
shell, the kernel and the session's manager."""
HEEDED = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # Windows has none
    HEEDED.append(signal.SIGHUP)


class StopSignals:
    """A context in which the first SIGINT, SIGTERM or SIGHUP is only noted; a second ends at once.

    SIGINT and SIGHUP stay ignored where they were: nohup, or `&` in a script, is there to do that.
    """

    def __init__(self, leave: Callable[[int], Any] = sys.exit) -> None:
        """`leave` is what the second one does, with its exit code."""
        self.leave = leave
        self.received: signal.Signals | None = None
        self.at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in HEEDED:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGTERM:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        by_hand = signal.SIGINT in (number, self.received)
        copy = not by_hand and now - self.at < COPY_SECONDS
        if self.received is not None and not copy:
            self.leave(128 + number)
        if self.received is None:
            self.received, self.at = signal.Signals(number), now

    @property
    def name(self) -> str:
        """`SIGINT`, `SIGTERM`, `SIGHUP`, or nothing."""
        return self.received.name if self.received else ""
