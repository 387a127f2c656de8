"""Promise 3: with the database away for a while, or clocks set, every run still counts once."""

from __future__ import annotations

import datetime
import itertools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from conftest import TEXT
from postgres import Server, server
from tiny_sweep import FLAGS, grid, start, summaries, wait_for

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.store import database as database_module
from fundamentallm.sweep.store.database import Database, StorageUnavailableError, retried
from fundamentallm.sweep.store.heartbeats import Heartbeats


@pytest.fixture
def postgres() -> Iterator[Server]:
    """A server that can be stopped and started."""
    with server() as running:
        yield running


class Account:
    """Something that writes to a database."""

    def __init__(self, database: Database, failures: int) -> None:
        self.database, self.failures, self.calls = database, failures, 0

    @retried
    def write(self) -> str:
        """Fail some times as a database that is away does."""
        self.calls += 1
        if self.calls <= self.failures:
            lost = Exception("server closed the connection")
            wrapped = RuntimeError("what a library makes of it")
            raise wrapped from sqlalchemy.exc.OperationalError("SELECT 1", {}, lost)
        return "written"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """One that nobody connects to."""
    monkeypatch.setattr(database_module, "RETRY_SECONDS", 0.01)
    return Database(f"sqlite:///{tmp_path}/x.db")


def test_what_is_away_is_tried_again_and_said_once(database: Database) -> None:
    said: list[str] = []
    database.set_timeout(60.0, said.append)
    assert Account(database, failures=5).write() == "written"
    assert len(said) == 2
    assert "is unavailable: server closed the connection; waiting for it" in said[0]
    assert "the storage is back" in said[1]


@pytest.mark.parametrize("why", ["too long", "asked to stop"])
def test_nobody_waits_for_ever(database: Database, why: str) -> None:
    if why == "too long":
        database.timeout = 0.05
    else:
        database.timeout, database.is_cancelled = 60.0, lambda: True
    account = Account(database, failures=1_000_000)
    with pytest.raises(StorageUnavailableError, match="resume from their checkpoints"):
        account.write()
    assert account.calls < 100


def test_other_errors_are_not_waited_for(database: Database) -> None:
    class Broken(Account):
        @retried
        def write(self) -> str:
            """Fail for good."""
            self.calls += 1
            raise ValueError

    database.timeout = 60.0
    broken = Broken(database, 0)
    with pytest.raises(ValueError):  # noqa: PT011 - raised bare, above
        broken.write()
    assert broken.calls == 1


@pytest.mark.parametrize("for_good", [False, True])
def test_an_odd_error_of_a_broken_connection_is_tried_once_more(
    database: Database, for_good: bool
) -> None:
    """SQLAlchemy has many for it, of which a library may make its own."""

    class Odd(Account):
        @retried
        def write(self) -> str:
            """Fail oddly, then as a database that is away, then, if it is not for good, no more."""
            self.calls += 1
            if self.calls == 1 or for_good:
                raise RuntimeError from sqlalchemy.exc.ResourceClosedError("closed")
            if self.calls == 2:
                raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("refused"))
            return "written"

    database.timeout = 60.0
    odd = Odd(database, 0)
    if for_good:
        with pytest.raises(SweepError, match="cannot be used: closed"):
            odd.write()
        assert odd.calls == 1 + database_module.UNCLEAR_TRIES
    else:
        assert odd.write() == "written"


def test_a_clock_that_jumps_makes_nobody_dead_and_nobody_alive(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/s.db")
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE])
    running = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    alive, dead = (storage.create_new_trial(study, template_trial=running) for _ in range(2))
    watching = Heartbeats(storage, study, lease=3.0)
    for attempt in (alive, dead):
        storage.record_heartbeat(attempt)
    assert watching.stale() == {}
    clock = datetime.datetime(2026, 1, 1)
    jumps = itertools.cycle((3600, -7200, 86_400, -1, 5))  # seconds, each way
    stale: set[int] = set()
    deadline = time.monotonic() + 120
    while stale != {dead}:
        assert time.monotonic() < deadline
        clock += datetime.timedelta(seconds=next(jumps))
        with storage.engine.begin() as connection:  # what the living one's next beat writes
            connection.execute(
                sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = :at WHERE trial_id = :id"),
                {"at": str(clock), "id": alive},
            )
        time.sleep(0.2)
        stale = set(watching.stale())
        assert alive not in stale
    time.sleep(2)  # stopped ourselves: the living one's beats could not be heard
    assert watching.stale() == {}
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.slow
def test_postgres_away_for_a_while(tmp_path: Path, postgres: Server) -> None:
    (tmp_path / "cats.txt").write_text(TEXT)
    (tmp_path / "tiny.yaml").write_text(grid(rates=4, seeds=2, steps=400, every=20))
    environment = {"FUNDAMENTALLM_STORAGE": postgres.url, "FUNDAMENTALLM_LEASE": "5"}
    words = ("sweep", "tiny.yaml", "cats.txt", "--workers", 1, "--", *FLAGS)
    folder = tmp_path / "runs/tiny"
    process = start(tmp_path, *words, **environment)
    wait_for(lambda: summaries(folder).get("run-0001", {}).get("status") == "done")
    postgres.stop()
    time.sleep(20)  # four leases; several runs end meanwhile, or wait to say so
    assert process.poll() is None, process.communicate()[0]
    postgres.start()
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    assert "is unavailable: " in said
    assert "waiting for it" in said
    assert "the storage is back after" in said
    assert postgres.password not in said
    assert {each["status"] for each in summaries(folder).values()} == {"done"}
    storage = optuna.storages.RDBStorage(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
    found = optuna.load_study(study_name="tiny", storage=storage).get_trials(deepcopy=False)
    assert sorted(trial.user_attrs["run"] for trial in found) == list(range(8))
    assert {trial.state.name for trial in found} == {"COMPLETE"}
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.nightly
def test_nobody_waits_for_postgres_when_asked_to_stop(tmp_path: Path, postgres: Server) -> None:
    (tmp_path / "cats.txt").write_text(TEXT)
    (tmp_path / "tiny.yaml").write_text(grid(rates=1, seeds=1, steps=100_000, every=20))
    environment = {"FUNDAMENTALLM_STORAGE": postgres.url, "FUNDAMENTALLM_LEASE": "5"}
    words = ("sweep", "tiny.yaml", "cats.txt", "--workers", 1, "--", *FLAGS)
    folder = tmp_path / "runs/tiny"
    process = start(tmp_path, *words, **environment)
    wait_for((folder / "run-0001/last.pt").exists)
    postgres.stop()
    time.sleep(5)
    process.terminate()
    said = process.communicate(timeout=100)[0]
    assert process.returncode != 0
    assert "Traceback" not in said
    assert summaries(folder)["run-0001"]["status"] == "interrupted"  # it saved itself
    step = summaries(folder)["run-0001"]["step"]
    postgres.start()
    process = start(tmp_path, "agent", "runs/tiny", "--workers", 1, **environment)
    wait_for(lambda: "resumes" in _so_far(process), 60)
    process.terminate()
    process.communicate(timeout=100)
    assert summaries(folder)["run-0001"]["step"] >= step


def _so_far(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
