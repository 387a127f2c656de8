"""The database behind a sweep: SQLite beside the runs, or PostgreSQL for many machines."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import filelock
import sqlalchemy
import sqlalchemy.exc

from fundamentallm.exit_codes import FAILED
from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.storage_address import StorageAddress

BUSY_SECONDS = 60
"""How long SQLite waits for another writer."""
AWAY_SECONDS = 2.0
"""Between looks at whether a database is back."""
LOCK_SECONDS = 0.05
"""Between looks at whether a lock that others hold is free."""
KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""After a minute PostgreSQL takes a lock's holder whose machine vanished for dead, and not after
the two hours of Linux."""

P = ParamSpec("P")
T = TypeVar("T")


class AwayError(SweepError):
    """The storage has been away, or its disk full, for longer than anyone wants to wait."""

    exit_code = FAILED


class UsesDatabase(Protocol):
    """What `patient` needs to know."""

    database: Database


def patient(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], T]:
    """Try a method again while the database is away; it must do no harm when it is done twice.

    Raises:
        AwayError: It was away for longer than `Database.patience`, or `Database.meanwhile` said
            that nobody waits any longer.
    """

    @wraps(method)
    def insisting(self: UsesDatabase, *args: P.args, **kwargs: P.kwargs) -> T:
        database, began, odd = self.database, 0.0, False
        while True:
            try:
                result = method(self, *args, **kwargs)
            except Exception as error:
                reason = _is_away(error)
                if not (reason or odd) and _is_of_database(error):
                    odd = True  # a connection that broke: what it was shows at the next try
                    continue
                if not reason or isinstance(error, AwayError):
                    raise
                odd = False
                now = time.monotonic()
                if not began:
                    began = now
                    database.say(f"the storage {database.shown} is away: {reason}; waiting for it")
                if now - began > database.patience or database.meanwhile():
                    raise AwayError(
                        f"the storage {database.shown} is away: {reason}; runs that were in "
                        "progress go on from their checkpoints when it is back"
                    ) from error
                time.sleep(AWAY_SECONDS)
            else:
                if began:
                    database.say(f"the storage is back after {time.monotonic() - began:.0f} s")
                return result

    return insisting


def _is_away(error: BaseException | None) -> str:
    """Why the database cannot be used just now; nothing if that is not what went wrong."""
    while error is not None:
        if isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
            return " ".join(str(error.orig or error).split())[:200]
        if isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated:
            return " ".join(str(error.orig or error).split())[:200]
        error = error.__cause__
    return ""


def _is_of_database(error: BaseException | None) -> bool:
    """Whether SQLAlchemy raised it: where a connection breaks, of many kinds."""
    while error is not None and not isinstance(error, sqlalchemy.exc.SQLAlchemyError):
        error = error.__cause__
    return error is not None


class Database:
    """How to reach it, and a lock that all who use it share."""

    def __init__(self, url: str, folder: Path) -> None:
        """Nothing is connected yet.

        Args:
            url: `sqlite:///PATH` or `postgresql://...`.
            folder: The sweep's, where SQLite's users meet at a lock file.

        Raises:
            SweepError: It is neither.
        """
        self.address = StorageAddress.parse(url)
        self.shown, self.url = self.address.shown, self.address.driver_url
        self.is_local = self.address.is_local
        self.file_lock = filelock.FileLock(folder / "ledger.lock")
        self.engine: sqlalchemy.Engine | None = None
        self.patience = 0.0
        """Seconds that `patient` methods wait for it."""
        self.say: Callable[[str], None] = lambda line: None
        self.meanwhile: Callable[[], bool] = lambda: False
        """Asked while waiting, for the database or for a lock; true to wait no longer."""

    def prepare(self) -> None:
        """Let SQLite's readers and its writer not wait for one another.

        Else a worker that is stopped while it reads, by Ctrl-Z say, holds up all the others.
        """
        if self.is_local:
            path = sqlalchemy.make_url(self.url).database
            with closing(sqlite3.connect(str(path), timeout=BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """For SQLAlchemy's `create_engine`."""
        if self.is_local:
            return {"connect_args": {"timeout": BUSY_SECONDS}}
        return {
            "connect_args": {"connect_timeout": 10, "client_encoding": "utf8"},
            "pool_pre_ping": True,
        }

    @contextmanager
    def lock(self, name: str) -> Iterator[Callable[[], None]]:
        """Only one holds the lock called `name`; it is let go of when its holder dies.

        SQLite alone hands the same waiting trial to two workers (1 to 5 of 60, measured).

        Yields:
            What fails if the lock has been lost meanwhile; to be called before what must not be
            done twice.

        Raises:
            InterruptedError: Others hold it, and `meanwhile` said that nobody waits any longer.
        """
        if self.is_local:
            while True:
                try:
                    self.file_lock.acquire(timeout=LOCK_SECONDS)
                    break
                except filelock.Timeout:
                    self._go_on_waiting()
            try:
                yield lambda: None
            finally:
                self.file_lock.release()
            return
        if self.engine is None:
            self.engine = sqlalchemy.create_engine(self.url, **self.engine_arguments)
        # On a connection of its own: the server lets go of the lock when the connection ends.
        with self.engine.connect() as connection:

            def ask(function: str) -> Any:
                call = sqlalchemy.text(f"SELECT {function}(hashtext(:name))")
                return connection.execute(call, {"name": f"fundamentallm {name}"}).scalar()

            def check_held() -> None:
                connection.execute(sqlalchemy.text("SELECT 1"))

            for setting, value in KEEPALIVES.items():
                connection.execute(sqlalchemy.text(f"SET {setting} = {value}"))
            while not ask("pg_try_advisory_lock"):
                time.sleep(LOCK_SECONDS)
                self._go_on_waiting()
            try:
                yield check_held
            finally:
                with suppress(sqlalchemy.exc.DBAPIError):  # a server that is gone holds no lock
                    ask("pg_advisory_unlock")

    def _go_on_waiting(self) -> None:
        if self.meanwhile():
            raise InterruptedError("the sweep's lock is held by others")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What goes wrong with the database inside becomes one line.

        Raises:
            SweepError: It did.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            raise SweepError(
                f"the storage {self.shown} needs {error.name}, which is not installed; "
                "pip install 'fundamentallm[postgres]'"
            ) from None
        except Exception as error:  # optuna's and SQLAlchemy's have no base in common
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
            raise SweepError(f"the storage {self.shown} cannot be used: {reason}") from error

    def close(self) -> None:
        """Let go of it."""
        if self.engine is not None:
            self.engine.dispose()
