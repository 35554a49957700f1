"""A driver connection by URL, for processes that write their own SQL and must stay small.

SQLAlchemy and SQLModel take some 50 MB of a process; a worker that only books calls needs neither, so
nothing here imports them.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any

from catalog.ground.errors import BadRequest

SQLITE_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 30000",
    "PRAGMA cache_size = -16384",
)


def sqlite_path(url: str) -> str:
    """Return the file that a `sqlite:///…` URL names; `:memory:` when it names none."""
    return url.partition(":///")[2].partition("?")[0] or ":memory:"


def configure_sqlite(connection: Any) -> None:
    """Set what every connection of ours to SQLite needs."""
    # The driver's own transaction handling starts DEFERRED transactions, which fail with "database is
    # locked" when two of them upgrade at once. We begin every transaction ourselves.
    connection.isolation_level = None
    for pragma in SQLITE_PRAGMAS:
        connection.execute(pragma)


def connect(url: str) -> Any:
    """Return a connection of the caller's own (`sqlite3` or `psycopg`), autocommit on.

    `url` is one that `catalog.ground.database.Database` takes; another kind raises `BadRequest`.
    Threads may share it one after the other. The caller closes it.
    """
    scheme, _, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    if kind == "sqlite":
        connection = sqlite3.connect(sqlite_path(url), check_same_thread=False)
        configure_sqlite(connection)
        # The ledger's writer works at the end of its tables, and a worker is to stay under 60 MB.
        connection.execute("PRAGMA cache_size = -6144")
        return connection
    if kind == "postgresql":
        import psycopg

        return psycopg.connect(f"postgresql://{rest}", autocommit=True)
    raise BadRequest(
        f"A {re.sub(r'[^a-z0-9]', '', kind) or 'nameless'} database is not supported.",
        rule="database.url",
        remedy="Use sqlite:///path/to/file.db or postgresql://user@host/name.",
    )
