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
from sqlalchemy.exc import DataError
from sqlmodel import Session

from catalog.ground.driver import configure_sqlite, connect
from catalog.ground.errors import BadRequest


def _configure_sqlite(connection: Any, _record: object) -> None:
    configure_sqlite(connection)


def _begin_immediate(connection: Any) -> None:
    readonly = connection.get_execution_options().get("readonly", False)
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")


@contextmanager
def _storable() -> Iterator[None]:
    """Say what is wrong with a value that came from outside and went into a statement as it was.

    PostgreSQL has no NUL in texts, neither database has integers beyond 64 bits or lone surrogates. Every
    place that takes a text or a number would otherwise have to know that.
    """
    try:
        yield
    except (DataError, OverflowError, UnicodeEncodeError) as error:
        raise BadRequest(
            "The request has a value that cannot be kept or looked for.",
            code="value_out_of_range",
            rule="database.values",
            remedy="Leave out NUL characters and halves of characters; integers have 64 bits.",
        ) from error


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
        """Yield a session that may write; leaving the block commits, an error rolls back.

        `BadRequest` for a value that no column can hold.
        """
        with _storable(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that reads one consistent state and never waits for a writer.

        `BadRequest` for a value that no column can hold.
        """
        engine = self.engine.execution_options(readonly=True)
        with _storable(), Session(engine, expire_on_commit=False) as session:
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
