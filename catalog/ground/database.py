"""One database by URL: SQLite (WAL) on one machine, PostgreSQL when it is outgrown.

Tables are SQLModel classes in the `tables.py` of the folder that owns them; the schema is made by the
Alembic migrations in `marketplace/migrations` and never by `create_all`. Only the edge commits: a
request, a command or a job step opens `Database.session()` once, and leaving that block commits.

Column types that both databases share: `BigInteger` for money, tokens and instants, `JSONText` for
documents whose bytes matter (they are hashed, so the text is kept as it was written).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlmodel import Session

from catalog.ground.driver import configure_sqlite, connect
from catalog.ground.errors import BadRequest


def _configure_sqlite(connection: Any, _record: object) -> None:
    configure_sqlite(connection)


def _begin_immediate(connection: Any) -> None:
    readonly = connection.get_execution_options().get("readonly", False)
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")


class Database:
    """The database behind a URL: `sqlite:///path/file.db` or `postgresql://user@host/name`.

    Raises `BadRequest` for a URL of another kind.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.kind = parsed.get_backend_name()
        if self.kind not in ("sqlite", "postgresql"):
            raise BadRequest(
                f"A {self.kind} database is not supported.",
                rule="database.url",
                remedy="Use sqlite:///path/to/file.db or postgresql://user@host/name.",
            )
        if self.kind == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.url = parsed.render_as_string(hide_password=False)
        self.engine: Engine = create_engine(parsed)
        if self.kind == "sqlite":
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_immediate)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session that may write; leaving the block commits, an error rolls back."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that reads one consistent state and never waits for a writer."""
        engine = self.engine.execution_options(readonly=True)
        with Session(engine, expire_on_commit=False) as session:
            yield session
            session.expunge_all()  # what was read stays readable after the block
            session.rollback()

    def raw_connection(self) -> Any:
        """Return a driver connection of the caller's own (`sqlite3` or `psycopg`), autocommit on.

        For the ledger's writer, which writes its own BEGIN and COMMIT; the caller closes it.
        """
        return connect(self.url)

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
