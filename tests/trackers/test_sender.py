"""A sender does its tasks in order, and its caller waits only as long as it wants to."""

from __future__ import annotations

import threading

from fundamentallm.trackers.sender import Sender


def test_tasks_are_done_in_order() -> None:
    sender, done = Sender("test"), list[int]()
    for number in range(100):
        sender.put(lambda number=number: done.append(number))
    assert sender.wait(60)
    assert done == list(range(100))


def test_a_task_that_hangs_holds_up_nobody() -> None:
    sender, release = Sender("test"), threading.Event()
    assert sender.busy_seconds() == 0
    sender.put(lambda: release.wait(60) and None)
    assert not sender.wait(0.05)
    assert sender.busy_seconds() > 0
    release.set()
    assert sender.wait(60)
    assert sender.busy_seconds() == 0


def test_its_thread_ends_after_the_last_task() -> None:
    sender, done = Sender("test"), list[str]()
    sender.put(lambda: done.append("last"))
    sender.end()
    sender.thread.join(60)
    assert not sender.thread.is_alive()
    assert done == ["last"]
