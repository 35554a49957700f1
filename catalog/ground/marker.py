"""Change markers: one small counter per name, raised in the transaction that changes something.

Raising it also takes its row lock until the commit (SQLite has only one writer anyway), so whoever
raises `listings` first is alone in writing history, and versions are handed out in commit order.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import Session

LISTINGS = "listings"
"""Raised by every change that decides whether and how a listing may be called."""
SEARCH = "search"
"""Raised by every change of the search index."""


def raise_marker(session: Session, name: str) -> int:
    """Add one to the marker and return it."""
    statement = text(
        "INSERT INTO change_marker (name, version) VALUES (:name, 1)"
        " ON CONFLICT (name) DO UPDATE SET version = change_marker.version + 1 RETURNING version"
    )
    return int(session.execute(statement, {"name": name}).scalar_one())


def read_marker(session: Session, name: str) -> int:
    """Return the marker, 0 when nothing ever changed."""
    statement = text("SELECT version FROM change_marker WHERE name = :name")
    return int(session.execute(statement, {"name": name}).scalar() or 0)
