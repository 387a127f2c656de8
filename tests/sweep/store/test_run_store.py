"""Runs are handed out once, given away if their worker is gone, and refused after that."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import filelock
import optuna
import pytest
import sqlalchemy

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.store import database
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.records import Run, RunIndex, Trial
from fundamentallm.sweep.store.run_store import RunStore, TrialLostError, read_study

SWEEP = parse_sweep(
    "program: train.py\nmethod: random\nrun_cap: 3\nmetric: {name: val_loss}\nparameters:\n"
    "  rate: {distribution: log_uniform_values, min: 0.001, max: 0.01}\n"
    "  wide: {distribution: normal}\n  size: {min: 1, max: 9}\n"
    "  kind: {values: [a, [1, 2], null, 3]}\n  fixed: {value: 7}\n",
    "s.yaml",
)
FACTS: dict[str, Any] = {
    "text": SWEEP.text, "file": "s.yaml", "fixed": {"seed": 1}, "device": "auto", "seed": 0,
    "sampler": "auto", "lease": 60.0, "data": None, "data_name": "x", "data_sha256": "0",
    "wandb": "", "wandb_sweep_id": "", "id": "0508a089",
}  # fmt: skip
VALUES = {"rate": 0.002, "wide": -0.5, "size": 4, "kind": [1, 2], "fixed": 7}


def open_store(folder: Path, lease: float = 60) -> RunStore:
    return RunStore(f"sqlite:///{folder}/study.db", "tiny", folder, lease=lease, goal="minimize")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with closing(open_store(tmp_path)) as opened:
        yield opened


def claim(store: RunStore, limit: int = 3, retries: int = 9) -> Run | None:
    def values(number: int, runs: Sequence[Run]) -> Any:
        return VALUES if number < limit else None

    return store.claim(next_values=values, retries=retries, parameters=SWEEP.parameters)


def claimed(store: RunStore, **options: Any) -> Trial:
    run = claim(store, **options)
    assert run is not None
    return run.last


def test_runs_are_handed_out_once_and_no_more_than_there_are(store: RunStore) -> None:
    numbers = [claimed(store).run for _ in range(3)]
    assert numbers == [0, 1, 2]
    assert claim(store) is None
    assert [run.last.status for run in store.runs()] == ["running"] * 3
    assert store.runs()[0].values == VALUES


def test_what_is_found_is_kept(store: RunStore, tmp_path: Path) -> None:
    attempt = claimed(store)
    for values in [{20: 9.0}, {10: 2.0}, {5: 3.0, 20: 1.5}]:
        store.report(attempt.id, values)
    store.finish(attempt.id, "done", score=1.5, seconds=3.0, note="epochs")
    with closing(open_store(tmp_path)) as another:
        (run,) = another.runs()
    assert run.is_finished
    kept = run.last
    assert (kept.score, kept.history, kept.seconds, kept.note) == (
        1.5,
        (3.0, 2.0, 1.5),
        3.0,
        "epochs",
    )


def test_thousands_of_values_take_few_statements(store: RunStore) -> None:
    """A program may log at every step."""
    attempt = claimed(store)
    values = {step: 1.0 / (step + 1) for step in range(20_000)}
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    sqlalchemy.event.listen(store.storage.engine, "before_cursor_execute", note)
    store.report(attempt.id, values)
    assert len(statements) < 100
    assert store.runs()[0].history == tuple(values.values())


@pytest.mark.parametrize("status", ["failed", "died", "interrupted"])
def test_an_unfinished_run_is_handed_out_again_with_its_values(
    store: RunStore, status: str
) -> None:
    first = claimed(store)
    store.finish(first.id, status, score=None, seconds=1, note="why")
    again = claim(store)
    assert again is not None
    assert (again.number, again.values, len(again.trials)) == (0, VALUES, 2)
    assert again.trials[0].status == status
    store.finish(again.last.id, status, score=None, seconds=1, note="why")
    number = claimed(store, retries=1).run
    assert number == (1 if status == "failed" else 0)  # not worth it: the next one
    assert len(store.runs()) == number + 1


def test_a_result_is_carved_in_stone(store: RunStore) -> None:
    attempt = claimed(store)
    store.finish(attempt.id, "done", score=1.0, seconds=1, note="")
    with pytest.raises(TrialLostError):
        store.finish(attempt.id, "done", score=0.5, seconds=1, note="")
    with pytest.raises(TrialLostError):
        store.report(attempt.id, {1: 0.5})
    assert store.runs()[0].last.score == 1.0


def test_a_worker_that_is_gone_loses_its_run_at_once_on_the_same_machine(tmp_path: Path) -> None:
    gone, other = open_store(tmp_path), open_store(tmp_path)
    attempt = claimed(gone)
    next_one = claimed(other)
    assert next_one.run == 1  # alive: its run is left to it
    other.finish(next_one.id, "done", score=1.0, seconds=1, note="")
    gone.worker_lock.release()  # what the system does when a process dies
    assert claimed(other).run == 0
    with pytest.raises(TrialLostError):
        gone.finish(attempt.id, "done", score=0.1, seconds=1, note="")
    assert [each.status for each in other.runs()[0].trials] == ["lost", "running"]
    for each in (gone, other):
        each.close()


@pytest.mark.parametrize("ended", [True, False])
def test_a_worker_that_left_without_a_word_of_its_run_is_gone_at_once(
    tmp_path: Path, ended: bool
) -> None:
    """The disk is full, or the database unavailable, and the worker does not wait."""
    left, other = open_store(tmp_path), open_store(tmp_path)
    attempt = claimed(left)
    if ended:
        left.finish(attempt.id, "done", score=1.0, seconds=1, note="")
    left.close()
    assert list((tmp_path / "workers").iterdir()) != []
    again = claim(other, limit=1)
    assert (again is None) == ended
    assert again is None or len(again.trials) == 2
    other.close()


def test_a_worker_of_which_nothing_is_heard_loses_its_run(tmp_path: Path) -> None:
    quiet, other = open_store(tmp_path, lease=1), open_store(tmp_path, lease=1)
    attempt = claimed(quiet)
    waited = threading.Event()
    while (run := claim(other, limit=1)) is None:
        waited.wait(0.2)
    assert (run.number, len(run.trials)) == (0, 2)
    with pytest.raises(TrialLostError):
        quiet.report(attempt.id, {1: 0.5})
    for each in (quiet, other):
        each.close()


def test_a_worker_that_beats_keeps_its_run(tmp_path: Path) -> None:
    beating, other = open_store(tmp_path, lease=2), open_store(tmp_path, lease=2)
    attempt = claimed(beating)
    for _ in range(12):
        threading.Event().wait(0.3)
        beating.beat([attempt.id])
        assert claim(other, limit=1) is None
    for each in (beating, other):
        each.close()


def test_killed_between_result_and_state_the_result_counts(tmp_path: Path) -> None:
    gone, other = open_store(tmp_path), open_store(tmp_path)
    attempt = claimed(gone)
    result = {"status": "done", "score": 1.25, "seconds": 1, "note": ""}
    gone.storage.set_trial_user_attr(attempt.id, "result", result)
    gone.worker_lock.release()
    assert claim(other, limit=1) is None
    assert (other.runs()[0].last.status, other.runs()[0].last.score) == ("done", 1.25)
    for each in (gone, other):
        each.close()


def test_a_run_that_an_older_version_made_and_did_not_start_is_taken_once(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as one, closing(open_store(tmp_path)) as two:
        made = optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING, user_attrs={"run": 0, "values": VALUES}
        )
        one.storage.create_new_trial(one.study_id, template_trial=made)
        run = claim(one, limit=1)
        assert run is not None
        assert (run.number, len(run.trials), run.last.status) == (0, 1, "running")
        assert not two.trials.start(run.last.id, two.owner)  # however it came to think so
        assert claim(two, limit=1) is None


def test_what_an_older_look_would_claim_is_refused(tmp_path: Path) -> None:
    """The lock was lost while the values were chosen, and others claimed meanwhile."""
    with closing(open_store(tmp_path)) as one, closing(open_store(tmp_path)) as two:
        chosen: list[int] = []

        def choose(number: int, runs: Sequence[Run]) -> Any:
            chosen.append(number)
            if number == 0:
                two._runs()
                two._create(0, VALUES, SWEEP.parameters)
            return VALUES

        run = one.claim(next_values=choose, retries=9, parameters=SWEEP.parameters)
        assert run is not None
        assert (run.number, chosen) == (1, [0, 1])
        assert [len(each.trials) for each in one.runs()] == [1, 1]
        lost = one.runs()[0].last.id
        assert claimed(two).id == lost  # its own, though it never heard that it had got it
        assert claimed(two).run == 2


def test_an_unfinished_run_is_not_given_to_two_that_saw_it(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as one, closing(open_store(tmp_path)) as two:
        one.finish(claimed(one).id, "interrupted", score=None, seconds=1, note="")
        for each in (one, two):
            each._runs()
        two._create(0, VALUES, SWEEP.parameters)
        one._create(0, VALUES, SWEEP.parameters)
        (run,) = one.runs()
        assert [each.status for each in run.trials] == ["interrupted", "running"]
        assert run.last.owner == two.owner


def test_who_was_heard_of_meanwhile_does_not_lose_its_run(tmp_path: Path) -> None:
    """The one that reaps may itself be stopped, between its look and its word."""
    with closing(open_store(tmp_path)) as quiet, closing(open_store(tmp_path)) as other:
        attempt = claimed(quiet)
        other._runs()
        heard = other.heartbeats._read()[attempt.id]
        with other.storage.engine.begin() as connection:  # the beat's clock has whole seconds
            connection.execute(
                sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2026-01-01 00:00:00'")
            )
        failed = optuna.trial.TrialState.FAIL
        assert not other.trials.finish(attempt.id, failed, heartbeat=heard)
        quiet.finish(attempt.id, "done", score=1.0, seconds=1, note="")
        assert other.runs()[0].is_finished


def test_what_was_taken_away_cannot_be_finished_between_two_queries(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as slow, closing(open_store(tmp_path)) as other:
        attempt = claimed(slow)

        def pause(*statement: object) -> None:
            if not str(statement[2]).startswith("DELETE FROM trial_user_attributes"):
                return
            # It saw that the run is its own; SQLite lets nobody else write now.
            with (
                pytest.raises(sqlalchemy.exc.OperationalError),
                sqlalchemy.create_engine(
                    other.database.url, connect_args={"timeout": 0.1}
                ).begin() as connection,
            ):
                connection.execute(sqlalchemy.text("UPDATE trials SET state = 'FAIL'"))

        sqlalchemy.event.listen(slow.storage.engine, "before_cursor_execute", pause)
        slow.finish(attempt.id, "done", score=1.0, seconds=1, note="")
        assert other.runs()[0].is_finished


@pytest.mark.parametrize(("score", "status"), [(None, "done"), (2.0, "stopped")])
def test_ends_of_every_kind(store: RunStore, score: float | None, status: str) -> None:
    attempt = claimed(store)
    store.finish(attempt.id, status, score=score, seconds=1, note="")
    assert store.runs()[0].is_finished
    assert store.runs()[0].last.score == score


def test_many_threads_claim_each_run_once(tmp_path: Path) -> None:
    found: list[int] = []

    def work() -> None:
        with closing(open_store(tmp_path)) as store:
            while (run := claim(store, limit=20)) is not None:
                found.append(run.number)
                store.finish(run.last.id, "done", score=1.0, seconds=0, note="")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(20))


def test_a_definition_and_where_there_is_none(store: RunStore, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    with pytest.raises(SweepError, match="has no sweep tiny"):
        read_study(url, "tiny")
    store.define(SweepDefinition.from_stored(FACTS))
    definition, runs = read_study(url, "tiny")
    assert (definition.to_stored(), len(runs)) == (FACTS, 0)
    with pytest.raises(SweepError, match="it has: tiny"):
        read_study(url, "other")


def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database at all, and longer than a header is")
    with pytest.raises(SweepError, match=r"study.db cannot be used: .*not a database"):
        open_store(tmp_path)
    with pytest.raises(SweepError) as error:
        RunStore("postgresql://me:secret@127.0.0.1:1/x", "n", tmp_path, lease=60, goal="minimize")
    assert "cannot be used" in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_who_is_asked_to_stop_does_not_wait_for_the_lock(store: RunStore, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    store.database.is_cancelled = lambda: next(asked)
    with filelock.FileLock(tmp_path / "ledger.lock"), pytest.raises(InterruptedError):
        claim(store)
    assert claim(store) is not None


def test_the_lock_of_a_worker_is_held_while_it_lives(store: RunStore) -> None:
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(store._worker_lock_path(store.owner), blocking=False).acquire()


@pytest.mark.parametrize(
    ("statuses", "again"),
    [
        (["interrupted"], True),
        (["lost"] * 9, True),
        (["failed"], False),
        (["died"] * 4, True),
        (["died"] * 5, False),
        (["died"] * 4 + ["interrupted"] + ["died"], True),
        (["done"], False),
        (["running"], False),
    ],
)
def test_which_runs_are_worth_another_attempt(statuses: list[str], again: bool) -> None:
    trials = tuple(Trial(i, 0, {}, status, "") for i, status in enumerate(statuses))
    assert (RunIndex.of(trials).next_to_retry(0) is not None) is again
    once = statuses[0] not in ("done", "running")
    assert (RunIndex.of(trials[:1]).next_to_retry(1) is not None) is once


@pytest.mark.parametrize(("deaths", "again"), [(5, True), (6, False)])
def test_retries_also_try_again_what_was_killed_too_often(deaths: int, again: bool) -> None:
    trials = tuple(Trial(i, 0, {}, "died", "") for i in range(deaths))
    assert (RunIndex.of(trials).next_to_retry(1) is not None) is again


def test_a_beat_that_comes_after_the_end_leaves_nothing(store: RunStore) -> None:
    """The thread that beats knows what its worker held a moment ago."""
    attempt = claimed(store)
    first = store.heartbeats._read()[attempt.id]
    with store.storage.engine.begin() as connection:  # the beat's clock has whole seconds
        connection.execute(
            sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2026-01-01 00:00:00'")
        )
    silent = store.heartbeats._read()[attempt.id]
    assert silent != first
    store.beat([attempt.id])
    assert store.heartbeats._read()[attempt.id] != silent
    store.finish(attempt.id, "done", score=1.0, seconds=1, note="")
    store.beat([attempt.id])
    with store.storage.engine.connect() as connection:
        beats = connection.execute(sqlalchemy.text("SELECT trial_id FROM trial_heartbeats"))
        assert beats.scalars().all() == []


def test_finished_runs_are_read_once_and_not_listened_to(store: RunStore) -> None:
    for _ in range(3):
        store.finish(claimed(store).id, "done", score=1.0, seconds=1, note="")
    assert len(store.runs()) == 3
    assert store.trials.changed() == []
    attempt = claimed(store, limit=4)
    assert [trial.id for trial in store.trials.changed()] == [attempt.id]
    assert set(store.heartbeats._read()) == {attempt.id}
    with store.storage.engine.connect() as connection:
        beats = connection.execute(sqlalchemy.text("SELECT trial_id FROM trial_heartbeats"))
        assert beats.scalars().all() == [attempt.id]


def test_a_claim_whose_lock_is_lost_at_its_end_is_answered_all_the_same(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that held it is cut once the run is claimed, and the claim is made again."""
    lock, cuts = store.database.lock, iter([True, False])

    @contextmanager
    def cut_at_its_end(name: str) -> Iterator[None]:
        with lock(name):
            yield
        if next(cuts):
            raise sqlalchemy.exc.OperationalError("ROLLBACK", {}, Exception("server closed"))

    monkeypatch.setattr(database, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(store.database, "lock", cut_at_its_end)
    store.database.timeout = 60.0
    assert claimed(store).run == 0
    assert len(store.runs()) == 1
