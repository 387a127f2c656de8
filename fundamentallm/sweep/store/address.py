"""Address of a storage, parsed strictly, so that no part of a password is shown.

`postgresql://me:p@ss@host/db` can be read in two ways. A driver that takes the wrong one prints
half of the password as the host. Such an address is refused, and nothing of it is shown. Of any
other address, only the host and the database's name are shown.
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
"""Options of an address that are never secret; any other may be."""


@dataclass(frozen=True)
class StorageAddress:
    """Address of a storage that can be read in only one way."""

    shown: str
    """Address to print: kind, host and database."""
    kept: str
    """Address to store, without secrets."""
    driver_url: str
    """Address for SQLAlchemy, with secrets."""
    has_secret: bool
    is_local: bool
    """True for an SQLite file."""

    @classmethod
    def parse(cls, address: str) -> StorageAddress:
        """Parse an address.

        Raises:
            SweepError: Its kind is unknown, or it can be read in two ways; the message shows
                nothing of it.
        """
        if SQLITE.fullmatch(address):
            return cls(address, address, address, has_secret=False, is_local=True)
        found = POSTGRESQL.fullmatch(address)
        if found is None or int(found["port"] or 0) > 65535:
            raise SweepError(
                "the storage's address is of an unknown kind, or can be read in two ways; give "
                "postgresql://USER@HOST:PORT/DATABASE, and escape special characters of the "
                "password as in web addresses: %40 for @, %2F for /"
            )
        host, database = found["host"], found["database"] or ""
        options = parse_qsl(found["query"] or "", keep_blank_values=True)
        harmless = [(name, value) for name, value in options if name in HARMLESS]
        user = "" if found["user"] is None else f"{found['user']}@"
        server = user + host + (f":{found['port']}" if found["port"] else "")
        query = f"?{urlencode(harmless, safe='/', quote_via=quote)}" if harmless else ""
        # Optuna substitutes text in braces.
        rest = address.partition("://")[2].replace("{", "%7B").replace("}", "%7D")
        return cls(
            shown=f"postgresql://{host}/{database}",
            kept=f"postgresql://{server}/{database}{query}",
            # psycopg 3, which `pip install fundamentallm[postgres]` brings
            driver_url=f"postgresql+psycopg://{rest}",
            has_secret=found["password"] is not None or len(harmless) < len(options),
            is_local=False,
        )
