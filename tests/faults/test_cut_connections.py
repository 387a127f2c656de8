"""Every run counts once even if the server cuts connections in the middle of claims."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from postgres import Server, server
from tiny_sweep import grid, wait_for

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.store import database as database_module
from fundamentallm.sweep.store.address import StorageAddress
from fundamentallm.sweep.store.run_store import RunStore, read_study

pytestmark = pytest.mark.slow
CUTS = 200
OTHERS = """SELECT pid FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


@pytest.fixture
def postgres() -> Iterator[Server]:
    """Server that can be stopped and started."""
    with server() as running:
        yield running


def set_read_only(engine: sqlalchemy.Engine, read_only: bool) -> None:
    """Make the server refuse or accept writes."""
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SET default_transaction_read_only = off"))
        words = f"ALTER SYSTEM SET default_transaction_read_only = {'on' if read_only else 'off'}"
        connection.execute(sqlalchemy.text(words))
        connection.execute(sqlalchemy.text("SELECT pg_reload_conf()"))


@pytest.fixture(autouse=True)
def _retry_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "RETRY_SECONDS", 0.05)


@pytest.mark.nightly
def test_three_workers_with_cut_connections(tmp_path: Path, postgres: Server) -> None:
    sweep = parse_sweep(grid(rates=2, seeds=1), "s.yaml")
    values = {p.name: p.distribution.quantile(0.1) for p in sweep.parameters}
    cuts, is_over = 0, threading.Event()
    finished: list[tuple[int, str]] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        folder = tmp_path / f"machine-{number}"
        folder.mkdir()
        try:
            with closing(
                RunStore(postgres.url, "cut", folder, lease=600, goal="minimize", wait=600)
            ) as store:
                while (
                    run := store.claim(
                        next_values=lambda number, runs: None if is_over.is_set() else values,
                        retries=0,
                        parameters=sweep.parameters,
                    )
                ) is not None:
                    finished.append((run.number, run.last.owner))
                    store.report(run.last.id, {1: 0.5})
                    store.finish(run.last.id, "done", score=0.5, seconds=0, note="")
        except BaseException as error:
            errors.append(error)
            raise

    engine = sqlalchemy.create_engine(
        StorageAddress.parse(postgres.url).driver_url, isolation_level="AUTOCOMMIT"
    )
    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    rng = random.Random(0)
    with engine.connect() as connection:
        while cuts < CUTS and not errors:
            before = len(finished)
            while len(finished) == before and not errors:
                is_over.wait(0.001)
            is_over.wait(rng.uniform(0, 0.1))
            pids = connection.execute(sqlalchemy.text(OTHERS)).scalars().all()
            if pids:
                stop = sqlalchemy.text("SELECT pg_terminate_backend(:pid)")
                cuts += bool(connection.execute(stop, {"pid": rng.choice(pids)}).scalar())
    is_over.set()
    for worker in workers:
        worker.join()
    engine.dispose()
    assert errors == []
    with closing(RunStore(postgres.url, "cut", tmp_path, lease=600, goal="minimize")) as store:
        runs = store.runs()
    assert len(runs) >= CUTS
    assert sorted(number for number, _ in finished) == list(range(len(runs)))
    assert [run.number for run in runs] == list(range(len(runs)))
    assert {len(run.trials) for run in runs} == {1}
    assert {run.last.status for run in runs} == {"done"}


def test_workers_wait_for_a_server_that_is_read_only(tmp_path: Path, postgres: Server) -> None:
    """A standby is read-only until it takes over."""
    sweep = parse_sweep(grid(rates=1, seeds=1), "s.yaml")
    values = {p.name: p.distribution.quantile(0.1) for p in sweep.parameters}
    messages: list[str] = []
    engine = sqlalchemy.create_engine(
        StorageAddress.parse(postgres.url).driver_url, isolation_level="AUTOCOMMIT"
    )

    def notify(line: str) -> None:
        messages.append(line)
        if "unavailable" in line:
            assert "read-only" in line
            set_read_only(engine, False)

    with closing(
        RunStore(postgres.url, "r", tmp_path, lease=60, goal="minimize", wait=600, notify=notify)
    ) as store:
        set_read_only(engine, True)
        run = store.claim(
            next_values=lambda number, runs: values if number == 0 else None,
            retries=0,
            parameters=sweep.parameters,
        )
        assert run is not None
        assert any("waiting for it" in line for line in messages)
        store.finish(run.last.id, "done", score=0.5, seconds=0, note="")
        assert store.runs()[0].is_finished
    engine.dispose()


def test_a_worker_waits_for_a_server_that_is_down(tmp_path: Path, postgres: Server) -> None:
    messages: list[str] = []

    def notify(line: str) -> None:
        messages.append(line)
        if len(messages) == 1:
            postgres.start()

    postgres.stop()
    with closing(
        RunStore(postgres.url, "d", tmp_path, lease=60, goal="minimize", wait=600, notify=notify)
    ) as store:
        assert len(store.runs()) == 0
    assert "is unavailable: " in messages[0]
    assert "is back" in messages[1]


def test_no_connection_is_left_behind(tmp_path: Path, postgres: Server) -> None:
    """A failed connection closes too; garbage collection may come too late for it."""
    engine = sqlalchemy.create_engine(
        StorageAddress.parse(postgres.url).driver_url, isolation_level="AUTOCOMMIT"
    )
    gc.collect()
    gc.disable()
    try:
        set_read_only(engine, True)  # no table can be created
        with pytest.raises(SweepError, match="read-only"):
            RunStore(postgres.url, "left", tmp_path, lease=60, goal="minimize")
        set_read_only(engine, False)
        with (
            closing(RunStore(postgres.url, "left", tmp_path, lease=60, goal="minimize")) as one,
            one.storage.engine.connect() as in_use,
        ):
            in_use.execute(sqlalchemy.text("SELECT 1"))
            one.database.close()  # as if another thread had lost the server
        with pytest.raises(SweepError, match="no sweep"):
            read_study(postgres.url, "none")
        with engine.connect() as connection:
            wait_for(lambda: not connection.execute(sqlalchemy.text(OTHERS)).all(), 20)
    finally:
        gc.enable()
    engine.dispose()


def test_a_wrong_password_fails_at_once(tmp_path: Path, postgres: Server) -> None:
    url = postgres.url.replace(postgres.password, "errors")
    with pytest.raises(SweepError, match=r"used: .*authentication failed"):
        RunStore(url, "w", tmp_path, lease=60, goal="minimize", wait=600)
