"""A PostgreSQL server of the test's own, run by an ordinary user as it demands."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _find(program: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(found[-1]) if found else shutil.which(program)


def _ordinary_user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Server:
    """A running server; it can be stopped and started again."""

    def __init__(self, place: Path, port: int, password: str, user: str | None, ctl: str) -> None:
        self.place, self.port, self.password = place, port, password
        self.user, self.ctl = user, ctl
        self.url = f"postgresql://tester:{password}@127.0.0.1:{port}/postgres"

    def run(self, *words: object) -> None:
        """A command of PostgreSQL's, as the user that it demands."""
        log = self.place.with_suffix(".log")
        with log.open("a") as file:
            done = subprocess.run(
                [str(word) for word in words], user=self.user, cwd="/tmp", check=False,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={"PATH": os.environ["PATH"], "HOME": str(self.place), "LC_ALL": "C"},
            )  # fmt: skip
        assert done.returncode == 0, log.read_text()

    def start(self) -> None:
        """Start it."""
        options = f"-p {self.port} -k {self.place} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self.place / "server.log"
        self.run(self.ctl, "-D", self.place / "data", "-w", "-o", options, "-l", log, "start")

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        self.run(self.ctl, "-D", self.place / "data", "-m", "immediate", "stop")


@contextmanager
def server() -> Iterator[Server]:
    """Start a server of one's own, and stop it."""
    initdb, pg_ctl = _find("initdb"), _find("pg_ctl")
    if initdb is None or pg_ctl is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs PostgreSQL, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("PostgreSQL is not installed")
    user = _ordinary_user()
    place = Path(tempfile.mkdtemp(prefix="pg-"))
    password = secrets.token_hex(8)
    (place / "password").write_text(password)
    if user is not None:
        for path in (place, place / "password"):
            shutil.chown(path, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Server(place, port, password, user, pg_ctl)
    try:
        made.run(initdb, "-D", place / "data", "-U", "tester", "-A", "scram-sha-256", "-N",
                 "-E", "UTF8", f"--pwfile={place}/password")  # fmt: skip
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)
        place.with_suffix(".log").unlink(missing_ok=True)


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a database with a password, on a server of one's own."""
    with server() as running:
        yield running.url
