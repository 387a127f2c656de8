"""Do tasks in order in a thread of their own, so that the caller waits only if it wants to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue


class Sender:
    """A thread that does tasks; a task handles its own errors."""

    def __init__(self, name: str) -> None:
        self.tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.put_count = self.done_count = 0
        self.changed = threading.Condition()
        self.began: float | None = None
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def put(self, task: Callable[[], None]) -> None:
        """Add a task."""
        self.put_count += 1
        self.tasks.put(task)

    def end(self) -> None:
        """End the thread once all tasks are done."""
        self.tasks.put(None)

    def wait(self, seconds: float) -> bool:
        """Return whether all tasks are done, at the latest after that many seconds."""
        with self.changed:
            return self.changed.wait_for(lambda: self.done_count >= self.put_count, seconds)

    def busy_seconds(self) -> float:
        """Return how long the current task has taken so far, in seconds; 0 between tasks."""
        began = self.began
        return 0.0 if began is None else time.monotonic() - began

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            self.began = time.monotonic()
            try:
                task()
            finally:
                self.began = None
                with self.changed:
                    self.done_count += 1
                    self.changed.notify_all()
