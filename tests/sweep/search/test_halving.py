"""Asynchronous successive halving: who is promoted, when, and how many runs there are."""

from __future__ import annotations

from collections.abc import Sequence

from fundamentallm.sweep.search.base import PastRun, Values
from fundamentallm.sweep.search.halving import SuccessiveHalving


class Counting:
    """Search that suggests x = 0, 1, 2, ... and remembers what it was shown."""

    size = None

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values:
        self.seen = [run.values for run in past_runs]
        return {"x": k}


def halving(configurations: int = 8, lengths: Sequence[int] = (10, 40)) -> SuccessiveHalving:
    return SuccessiveHalving(
        Counting(), length="steps", lengths=lengths, factor=4, configurations=configurations
    )


def ended(x: int, score: float | None, steps: int = 10, *, failed: bool = False) -> PastRun:
    return PastRun({"x": x, "steps": steps}, score, failed=failed)


def running(x: int, steps: int = 10) -> PastRun:
    return PastRun({"x": x, "steps": steps}, None, running=True)


def test_new_configurations_have_the_shortest_length_and_ignore_longer_runs() -> None:
    search = halving()
    past = [ended(0, 3.0), ended(1, 1.0), ended(2, 2.0), ended(3, 4.0), running(1, 40)]
    assert search.suggest(5, past) == {"x": 4, "steps": 10}
    assert search.search.seen == [{"x": 0}, {"x": 1}, {"x": 2}, {"x": 3}]  # pyright: ignore


def test_the_best_quarter_is_promoted_while_others_run() -> None:
    past = [ended(0, 3.0), ended(1, 1.0), ended(2, 2.0)]
    assert halving().suggest(3, past) == {"x": 3, "steps": 10}
    assert halving().suggest(4, [*past, ended(3, 4.0)]) == {"x": 1, "steps": 40}
    assert halving().suggest(5, [*past, ended(3, 4.0), running(1, 40)]) == {"x": 4, "steps": 10}


def test_an_overtaken_promotion_counts() -> None:
    first = [ended(x, score) for x, score in enumerate([3.0, 1.0, 2.0, 4.0])]
    later = [ended(x + 4, score) for x, score in enumerate([0.5, 0.6, 5.0, 6.0])]
    past = [*first, running(1, 40), *later]
    assert halving().suggest(9, past) == {"x": 4, "steps": 40}
    assert halving().suggest(10, [*past, running(4, 40)]) is None  # 2 of 8, and no third


def test_failed_runs_count_but_are_not_promoted() -> None:
    past = [ended(0, None, failed=True), ended(1, 2.0), ended(2, 3.0), ended(3, None, failed=True)]
    assert halving(4).suggest(4, past) == {"x": 1, "steps": 40}
    all_failed = [ended(x, 9.0, failed=True) for x in range(4)]
    assert halving(4).suggest(4, all_failed) is None


def test_nothing_is_suggested_while_a_promotion_may_come() -> None:
    past = [ended(0, 3.0), ended(1, 1.0), ended(2, 2.0), running(3)]
    assert halving(4).suggest(4, past) is None


def test_a_whole_search_has_as_many_runs_as_its_size() -> None:
    search = halving(16, (10, 40, 160))
    past: list[PastRun] = []
    while (values := search.suggest(len(past), past)) is not None:
        past.append(PastRun(values, float((values["x"] * 7) % 16)))
    assert search.size == len(past) == 16 + 4 + 1
    best = [run.values for run in past if run.values["steps"] == 160]
    assert best == [{"x": 0, "steps": 160}]


def test_shorter_names_the_run_before() -> None:
    assert halving().shorter({"x": 3, "steps": 40}) == {"x": 3, "steps": 10}
    assert halving().shorter({"x": 3, "steps": 10}) is None
