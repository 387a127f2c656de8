"""The address of a storage, read strictly, so that no part of a password is taken for another part.

`postgresql://me:p@ss@host/db` has two readings, and a driver that takes the wrong one prints half a
password as a host's name. An address that has more than one reading is refused, and nothing of it
is shown. Of the others only the host and the database's name are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

from fundamentallm.sweep.file.diagnostics import SweepError

POSTGRESQL = re.compile(
    r"postgres(?:ql)?(?:\+psycopg)?://"
    r"(?:(?P<user>[^:/?#@\s]*)(?::(?P<password>[^@\s]*))?@)?"
    r"(?P<host>[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/(?P<database>[\w.~%$-]*))?(?:\?(?P<query>[^@#\s]*))?",
    re.ASCII,
)
SQLITE = re.compile(r"sqlite:///(?P<database>[^?#]+)")

HARMLESS = (
    "application_name", "channel_binding", "connect_timeout", "gssencmode", "host", "options",
    "port", "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation", "sslrootcert",
    "target_session_attrs",
)  # fmt: skip
"""What may stand in an address's query without being a secret; all else may be one."""


@dataclass(frozen=True)
class StorageAddress:
    """An address that has one reading."""

    shown: str
    """What may be printed: the kind, the host and the database's name."""
    kept: str
    """What may be written to a file: all but secrets."""
    driver_url: str
    """What SQLAlchemy is given, secrets and all."""
    has_secret: bool
    is_local: bool
    """Whether it is a file of SQLite."""

    @classmethod
    def parse(cls, address: str) -> StorageAddress:
        """Read an address.

        Raises:
            SweepError: It is of no known kind or can be read in two ways; nothing of it is shown.
        """
        if SQLITE.fullmatch(address):
            return cls(address, address, address, has_secret=False, is_local=True)
        found = POSTGRESQL.fullmatch(address)
        if found is None or int(found["port"] or 0) > 65535:
            raise SweepError(
                "the storage's address is of no known kind, or can be read in two ways; give "
                "postgresql://USER@HOST:PORT/DATABASE, and write what is odd in a password as in "
                "web addresses: %40 for @, %2F for /"
            )
        host, database = found["host"], found["database"] or ""
        options = parse_qsl(found["query"] or "", keep_blank_values=True)
        harmless = [(name, value) for name, value in options if name in HARMLESS]
        user = "" if found["user"] is None else f"{found['user']}@"
        server = user + host + (f":{found['port']}" if found["port"] else "")
        query = f"?{urlencode(harmless, safe='/', quote_via=quote)}" if harmless else ""
        # Optuna fills in what stands in braces.
        rest = address.partition("://")[2].replace("{", "%7B").replace("}", "%7D")
        return cls(
            shown=f"postgresql://{host}/{database}",
            kept=f"postgresql://{server}/{database}{query}",
            # psycopg 3, which `pip install fundamentallm[postgres]` brings
            driver_url=f"postgresql+psycopg://{rest}",
            has_secret=found["password"] is not None or len(harmless) < len(options),
            is_local=False,
        )
