"""Promise 3: every run counts once, through database outages and clock changes."""

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
    """Server that can be stopped and started."""
    with server() as running:
        yield running


class Writer:
    """Writer whose first calls fail."""

    def __init__(self, database: Database, failures: int) -> None:
        self.database, self.failures, self.calls = database, failures, 0

    @retried
    def write(self) -> str:
        """Fail like an unavailable database, `failures` times."""
        self.calls += 1
        if self.calls <= self.failures:
            lost = Exception("server closed the connection")
            wrapped = RuntimeError("wrapped by a library")
            raise wrapped from sqlalchemy.exc.OperationalError("SELECT 1", {}, lost)
        return "written"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Database without a connection."""
    monkeypatch.setattr(database_module, "RETRY_SECONDS", 0.01)
    return Database(f"sqlite:///{tmp_path}/x.db")


def test_an_outage_is_retried_and_reported_once(database: Database) -> None:
    output: list[str] = []
    database.set_timeout(60.0, output.append)
    assert Writer(database, failures=5).write() == "written"
    assert len(output) == 2
    assert "is unavailable: server closed the connection; waiting for it" in output[0]
    assert "the storage is back" in output[1]


@pytest.mark.parametrize("why", ["too long", "asked to stop"])
def test_retries_end(database: Database, why: str) -> None:
    if why == "too long":
        database.timeout = 0.05
    else:
        database.timeout, database.is_cancelled = 60.0, lambda: True
    writer = Writer(database, failures=1_000_000)
    with pytest.raises(StorageUnavailableError, match="resume from their checkpoints"):
        writer.write()
    assert writer.calls < 100


def test_other_errors_are_not_retried(database: Database) -> None:
    class Broken(Writer):
        @retried
        def write(self) -> str:
            """Always fail."""
            self.calls += 1
            raise ValueError

    database.timeout = 60.0
    broken = Broken(database, 0)
    with pytest.raises(ValueError):  # noqa: PT011 - raised without a message
        broken.write()
    assert broken.calls == 1


@pytest.mark.parametrize("permanent", [False, True])
def test_an_unclear_error_of_a_broken_connection_is_retried(
    database: Database, permanent: bool
) -> None:
    """SQLAlchemy raises many such errors, and a library may wrap them."""

    class Unclear(Writer):
        @retried
        def write(self) -> str:
            """Fail with an unclear error, then like an unavailable database, then succeed."""
            self.calls += 1
            if self.calls == 1 or permanent:
                raise RuntimeError from sqlalchemy.exc.ResourceClosedError("closed")
            if self.calls == 2:
                raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("refused"))
            return "written"

    database.timeout = 60.0
    unclear = Unclear(database, 0)
    if permanent:
        with pytest.raises(SweepError, match="cannot be used: closed"):
            unclear.write()
        assert unclear.calls == 1 + database_module.UNCLEAR_TRIES
    else:
        assert unclear.write() == "written"


def test_clock_jumps_do_not_affect_heartbeats(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/s.db")
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE])
    running = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    alive, dead = (storage.create_new_trial(study, template_trial=running) for _ in range(2))
    heartbeats = Heartbeats(storage, study, lease=3.0)
    for trial in (alive, dead):
        storage.record_heartbeat(trial)
    assert heartbeats.stale() == {}
    clock = datetime.datetime(2026, 1, 1)
    clock_jumps = itertools.cycle((3600, -7200, 86_400, -1, 5))  # seconds, each way
    stale: set[int] = set()
    deadline = time.monotonic() + 120
    while stale != {dead}:
        assert time.monotonic() < deadline
        clock += datetime.timedelta(seconds=next(clock_jumps))
        with storage.engine.begin() as connection:  # the next heartbeat of the live trial
            connection.execute(
                sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = :at WHERE trial_id = :id"),
                {"at": str(clock), "id": alive},
            )
        time.sleep(0.2)
        stale = set(heartbeats.stale())
        assert alive not in stale
    time.sleep(2)  # a pause of our own: no heartbeat could be read
    assert heartbeats.stale() == {}
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.nightly
def test_a_postgres_outage(tmp_path: Path, postgres: Server) -> None:
    (tmp_path / "cats.txt").write_text(TEXT)
    (tmp_path / "tiny.yaml").write_text(grid(rates=4, seeds=2, steps=400, every=20))
    environment = {"FUNDAMENTALLM_STORAGE": postgres.url, "FUNDAMENTALLM_LEASE": "5"}
    words = ("sweep", "tiny.yaml", "cats.txt", "--workers", 1, "--", *FLAGS)
    folder = tmp_path / "runs/tiny"
    process = start(tmp_path, *words, **environment)
    wait_for(lambda: summaries(folder).get("run-0001", {}).get("status") == "done")
    postgres.stop()
    time.sleep(20)  # four leases; several runs end meanwhile or wait to report
    assert process.poll() is None, process.communicate()[0]
    postgres.start()
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "is unavailable: " in output
    assert "waiting for it" in output
    assert "the storage is back after" in output
    assert postgres.password not in output
    assert {each["status"] for each in summaries(folder).values()} == {"done"}
    storage = optuna.storages.RDBStorage(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
    stored = optuna.load_study(study_name="tiny", storage=storage).get_trials(deepcopy=False)
    assert sorted(trial.user_attrs["run"] for trial in stored) == list(range(8))
    assert {trial.state.name for trial in stored} == {"COMPLETE"}
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.nightly
def test_a_signal_ends_the_wait_for_postgres(tmp_path: Path, postgres: Server) -> None:
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
    output = process.communicate(timeout=100)[0]
    assert process.returncode != 0
    assert "Traceback" not in output
    assert summaries(folder)["run-0001"]["status"] == "interrupted"  # it saved a checkpoint
    step = summaries(folder)["run-0001"]["step"]
    postgres.start()
    process = start(tmp_path, "agent", "runs/tiny", "--workers", 1, **environment)
    wait_for(lambda: "resumes" in _next_line(process), 60)
    process.terminate()
    process.communicate(timeout=100)
    assert summaries(folder)["run-0001"]["step"] >= step


def _next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
