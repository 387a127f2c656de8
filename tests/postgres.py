"""A PostgreSQL server for one test, run by an ordinary user: it refuses to run as root."""

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


def _find_program(program: str) -> str | None:
    paths = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(paths[-1]) if paths else shutil.which(program)


def _ordinary_user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Server:
    """A server that can be stopped and started."""

    def __init__(self, folder: Path, port: int, password: str, user: str | None, ctl: str) -> None:
        self.folder, self.port, self.password = folder, port, password
        self.user, self.ctl = user, ctl
        self.url = f"postgresql://tester:{password}@127.0.0.1:{port}/postgres"

    def run(self, *command: object) -> None:
        """Run a command of PostgreSQL as the ordinary user."""
        log = self.folder.with_suffix(".log")
        with log.open("a") as file:
            done = subprocess.run(
                [str(word) for word in command], user=self.user, cwd="/tmp", check=False,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C"},
            )  # fmt: skip
        assert done.returncode == 0, log.read_text()

    def start(self) -> None:
        """Start the server."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self.folder / "server.log"
        self.run(self.ctl, "-D", self.folder / "data", "-w", "-o", options, "-l", log, "start")

    def stop(self) -> None:
        """Stop the server at once and drop its connections."""
        self.run(self.ctl, "-D", self.folder / "data", "-m", "immediate", "stop")


@contextmanager
def server() -> Iterator[Server]:
    """Run a new server."""
    initdb, pg_ctl = _find_program("initdb"), _find_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs PostgreSQL, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("PostgreSQL is not installed")
    user = _ordinary_user()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    password = secrets.token_hex(8)
    (folder / "password").write_text(password)
    if user is not None:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    new_server = Server(folder, port, password, user, pg_ctl)
    try:
        new_server.run(initdb, "-D", folder / "data", "-U", "tester", "-A", "scram-sha-256", "-N",
                 "-E", "UTF8", f"--pwfile={folder}/password")  # fmt: skip
        new_server.start()
        try:
            yield new_server
        finally:
            new_server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".log").unlink(missing_ok=True)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a new server and give the URL of its database, with a password."""
    with server() as running:
        yield running.url
