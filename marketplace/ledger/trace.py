"""Record what a writer says to its database, so that the bare driver can say the same again.

The bench's ceiling is this trace replayed: the same statements with the same values in the same
transactions, and nothing else. Recording costs one list append a statement.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from catalog.ground.database import Database
from catalog.ground.driver import configure_sqlite, sqlite_path

Call = tuple[str, Any, Any]
"""`("execute" | "executemany", sql, values)` to SQLite, `("fdatasync", None, None)` to its write-ahead log;
`("prepare", name, sql)`, `("prepared", name, values)` and `("sync", None, None)` (send, and wait for all
answers) to PostgreSQL."""


class _Sqlite(sqlite3.Connection):
    calls: list[Call]

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        self.calls.append(("execute", sql, values))
        return super().execute(sql, values)

    def executemany(self, sql: str, values: Any, /) -> sqlite3.Cursor:
        self.calls.append(("executemany", sql, values))
        return super().executemany(sql, values)

    def fdatasync(self, log: int) -> None:
        self.calls.append(("fdatasync", None, None))
        os.fdatasync(log)


class TracedDatabase(Database):
    """A database whose raw connections write down every statement, in `calls`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.calls: list[Call] = []

    def raw_connection(self) -> Any:
        if self.kind == "sqlite":
            connection = _sqlite(sqlite_path(self.url))
            connection.calls = self.calls
            return connection
        return _Postgres(super().raw_connection(), self.calls)


def _sqlite(path: str) -> _Sqlite:
    connection = sqlite3.connect(path, check_same_thread=False, factory=_Sqlite)
    connection.calls = []
    configure_sqlite(connection)
    return connection


class _Postgres:
    """A `psycopg` connection whose libpq connection is heard."""

    def __init__(self, connection: Any, calls: list[Call]) -> None:
        self._connection = connection
        self.pgconn = _Pgconn(connection.pgconn, calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _Pgconn:
    def __init__(self, pgconn: Any, calls: list[Call]) -> None:
        self._pgconn = pgconn
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgconn, name)

    def send_prepare(self, name: bytes, sql: bytes) -> None:
        self._calls.append(("prepare", name, sql))
        self._pgconn.send_prepare(name, sql)

    def send_query_prepared(self, name: bytes, values: Sequence[bytes]) -> None:
        self._calls.append(("prepared", name, values))
        self._pgconn.send_query_prepared(name, values)

    def pipeline_sync(self) -> None:
        self._calls.append(("sync", None, None))
        self._pgconn.pipeline_sync()


def save(calls: Sequence[Call], path: Path) -> None:
    """Write a trace as MessagePack; `benchmarks.ledger_raw` reads it."""
    path.write_bytes(msgspec.msgpack.encode(calls))
