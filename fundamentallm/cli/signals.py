"""Ctrl-C, a scheduler's SIGTERM, a closed terminal's SIGHUP: finish the step, save, then end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

DUPLICATE_SECONDS = 1.0
"""A SIGTERM or SIGHUP this soon after another is a duplicate. A scheduler signals every process,
`wandb agent --forward-signals` signals its run again, and a closing terminal is announced by the
shell, the kernel and the session's manager."""
HANDLED = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # Windows has none
    HANDLED.append(signal.SIGHUP)


class StopSignals:
    """Context that records the first SIGINT, SIGTERM or SIGHUP; a second one ends at once.

    SIGINT and SIGHUP stay ignored if they were, as under nohup or `&` in a script.
    """

    def __init__(self, on_second: Callable[[int], Any] = sys.exit) -> None:
        """Call `on_second` with the exit code at the second signal."""
        self.on_second = on_second
        self.received: signal.Signals | None = None
        self.received_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in HANDLED:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGTERM:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        is_interrupt = signal.SIGINT in (number, self.received)
        is_duplicate = not is_interrupt and now - self.received_at < DUPLICATE_SECONDS
        if self.received is not None and not is_duplicate:
            self.on_second(128 + number)
        if self.received is None:
            self.received, self.received_at = signal.Signals(number), now

    @property
    def name(self) -> str:
        """`SIGINT`, `SIGTERM`, `SIGHUP`, or nothing."""
        return self.received.name if self.received else ""
