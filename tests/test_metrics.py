"""Texts of metrics and of numbers of runs."""

from __future__ import annotations

from fundamentallm.metrics import runs_text


def test_one_run_is_no_plural() -> None:
    assert [runs_text(number) for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
