"""Record what a writer says to its database, so that the bare driver can say the same again.

The bench's ceiling is this trace replayed: the same statements with the same values in the same
transactions, and nothing else. Recording costs one list append a statement.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from catalog.ground.database import Database
from catalog.ground.driver import configure_sqlite, sqlite_path

Call = tuple[str, str, Any]
"""`("execute" | "executemany" | "copy", sql, values)`."""


class _Sqlite(sqlite3.Connection):
    calls: list[Call]

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        self.calls.append(("execute", sql, values))
        return super().execute(sql, values)

    def executemany(self, sql: str, values: Any, /) -> sqlite3.Cursor:
        self.calls.append(("executemany", sql, values))
        return super().executemany(sql, values)


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
        connection = super().raw_connection()
        connection.cursor_factory = _cursor_class(self.calls)
        return connection


def _sqlite(path: str) -> _Sqlite:
    connection = sqlite3.connect(path, check_same_thread=False, factory=_Sqlite)
    connection.calls = []
    configure_sqlite(connection)
    return connection


def _cursor_class(calls: list[Call]) -> Any:
    import psycopg

    class Traced(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            calls.append(("execute", query, params))
            return super().execute(query, params, **more)

        def executemany(self, query: Any, params_seq: Any, **more: Any) -> None:
            calls.append(("executemany", query, params_seq))
            super().executemany(query, params_seq, **more)

        @contextmanager
        def copy(self, statement: Any, params: Any = None, **more: Any) -> Iterator[Any]:
            with super().copy(statement, params, **more) as copying:
                yield _Copying(copying, statement)

    class _Copying:
        def __init__(self, copying: Any, statement: str) -> None:
            self._copying, self._statement = copying, statement

        def write(self, block: str) -> None:
            calls.append(("copy", self._statement, block))
            self._copying.write(block)

    return Traced


def save(calls: Sequence[Call], path: Path) -> None:
    """Write a trace as MessagePack; `benchmarks.ledger_raw` reads it."""
    path.write_bytes(msgspec.msgpack.encode(calls))
