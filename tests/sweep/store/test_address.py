"""No part of a password is shown: an address has one reading, or nothing of it is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from conftest import TEXT
from tiny_sweep import grid

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.store.address import StorageAddress

TWO_READINGS = [
    "postgresql://me:SEC@RET@host/db",
    "postgresql://me:SEC/RET@x@host/db",
    "postgresql://me:12/RET?SEC@RET@host/db",
    "postgresql://me@host/db?password=SEC@RET",
    "postgresql://me:SEC#RET@host/db#SECRET",
    "postgresql://me:SECRET",
    "postgresql://me:SECRET/db",
    "postgresql://me:pass@host:SECRET/db",
    "postgresql://me:pass@host:98765/db",
    "postgresql://me:pass@host/db/SECRET",
    "postgresql:me:SECRET@host/db",
    "postgresql+SECRET://me@host/db",
    "postgres://SEC RET@host/db",
    "postgresql://me:pass@SECRÊT/db",
    "mysql://me:SECRET@host/db",
    "sqlite://me:SECRET@host/db",
    "sqlite:///study.db?key=SECRET",
    "SECRET",
    "",
]
WITH_SECRETS = [
    "postgresql://me:SECRET@host/db",
    "postgres://me:SEC:RET@host:5433/db",
    "postgresql://me:SEC%40RET@host/db?sslmode=require",
    "postgresql://me:SEC/RET?x=1@host/db",
    "postgresql://me:SEC{RET}@host/db",
    "postgresql://me@host/db?password=SECRET",
    "postgresql://me@host/db?PASSWORD=SECRET",
    "postgresql://me@host/db?pass%77ord=SECRET",
    "postgresql://me@host/db?sslpassword=SECRET&sslmode=require",
    "postgresql://me@host/db?oauth_client_secret=SECRET",
    "postgresql://me@host/db?SECRET",
]


@pytest.mark.parametrize("address", TWO_READINGS)
def test_what_can_be_read_in_two_ways_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(SweepError) as error:
        StorageAddress.parse(address)
    assert "give postgresql://USER@HOST:PORT/DATABASE" in str(error.value)
    for part in ("SEC", "RET", "98765", "host"):
        assert part not in str(error.value)


@pytest.mark.parametrize("address", WITH_SECRETS)
def test_only_the_host_and_the_name_of_the_database_are_shown(address: str) -> None:
    read = StorageAddress.parse(address)
    assert read.has_secret
    assert read.shown == "postgresql://host/db"
    assert "SEC" not in read.kept
    assert "RET" not in read.kept
    again = StorageAddress.parse(read.kept)
    assert (again.kept, again.has_secret) == (read.kept, False)


def test_a_driver_reads_an_address_as_we_do() -> None:
    def read(address: str) -> sqlalchemy.URL:
        given = StorageAddress.parse(address).driver_url.format(SCHEMA_VERSION=12)  # as Optuna does
        return sqlalchemy.make_url(given)

    odd = read("postgresql://me:a{b}:c/d?e%40f@host:5433/db?sslmode=require")
    assert (odd.username, odd.password) == ("me", "a{b}:c/d?e@f")
    assert (odd.host, odd.port, odd.database) == ("host", 5433, "db")
    assert odd.query == {"sslmode": "require"}
    assert odd.drivername == "postgresql+psycopg"
    socket = read("postgresql:///db?host=/run/postgresql")
    assert (socket.host, socket.database, socket.query["host"]) == (None, "db", "/run/postgresql")
    assert read("postgresql://[::1]:5432/db").host == "::1"


def test_a_file_keeps_all_that_is_needed_to_come_back() -> None:
    kept = "postgresql://me@host:5433/db?host=/run/x&sslmode=require"
    assert StorageAddress.parse(kept).kept == kept
    assert not StorageAddress.parse(kept).has_secret


@pytest.mark.parametrize("address", [TWO_READINGS[0], TWO_READINGS[6], "postgresql://u:SECRET@-/x"])
def test_the_command_line_shows_no_part_of_a_password(address: str, tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_text(TEXT)
    (tmp_path / "tiny.yaml").write_text(grid())
    done = subprocess.run(
        [sys.executable, "-m", "fundamentallm", "sweep", "tiny.yaml", "cats.txt", "--wait", "0"],
        cwd=tmp_path, env={**os.environ, "FUNDAMENTALLM_STORAGE": address},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in ("SEC", "RET"):
        assert part not in done.stdout + done.stderr
