"""Two statements that SQLite and PostgreSQL spell apart: insert-or-leave, and the collector's lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel

_LOCK = 0x61727469  # "arti": any constant that nobody else uses for an advisory lock
_ROWS_A_STATEMENT = 500


def kind(session: Session) -> str:
    """Return `sqlite` or `postgresql`."""
    return session.get_bind().dialect.name


def insert_missing(session: Session, table: type[SQLModel], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows whose primary key is new; those that exist are left as they are."""
    insert = postgresql.insert if kind(session) == "postgresql" else sqlite.insert
    for first in range(0, len(rows), _ROWS_A_STATEMENT):
        part = list(rows[first : first + _ROWS_A_STATEMENT])
        session.execute(insert(table).on_conflict_do_nothing(), part)


def join_writers(session: Session) -> None:
    """Hold the collector off until this transaction ends; writers do not hinder each other.

    On SQLite every writing transaction is alone already, from its first statement on: so make it begin.
    """
    session.connection()
    if kind(session) == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock_shared({_LOCK})"))


def lock_out_writers(session: Session) -> None:
    """Be the only one that registers, pins or removes until this transaction ends."""
    session.connection()
    if kind(session) == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
