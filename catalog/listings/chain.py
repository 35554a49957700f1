"""The history of all listings: rows that are only ever appended, each hashed with its predecessor.

`hash = sha256(canonical JSON of every other column)`, and `prev_hash` is one of those columns, so that
changing, removing or inserting a row breaks every hash after it. Whoever keeps one published hash can
show later that nothing before it was touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from catalog.ground.marker import LISTINGS, raise_marker
from catalog.listings.content import canonical_json, digest_of
from catalog.listings.tables import ListingTransition

GENESIS = "0" * 64


def row_hash(row: ListingTransition) -> str:
    """Return the hash that the row must carry."""
    return digest_of(canonical_json(row.model_dump(exclude={"hash"})))


def append(session: Session, row: ListingTransition) -> ListingTransition:
    """Give `row` its number and hashes and add it; one writer at a time, held to the commit."""
    raise_marker(session, LISTINGS)
    newest = col(ListingTransition.number).desc()
    last = session.exec(select(ListingTransition).order_by(newest).limit(1)).first()
    row.number = last.number + 1 if last else 1
    row.prev_hash = last.hash if last else GENESIS
    row.hash = row_hash(row)
    session.add(row)
    session.flush()
    return row


def history(session: Session, listing_id: str) -> list[ListingTransition]:
    """Return what happened to one listing, oldest first."""
    return list(
        session.exec(
            select(ListingTransition)
            .where(ListingTransition.listing_id == listing_id)
            .order_by(col(ListingTransition.number))
        )
    )


def faults(session: Session) -> Iterator[str]:
    """Yield a sentence for every row that does not fit the chain; nothing when it is whole."""
    previous, expected = GENESIS, 1
    rows = session.exec(select(ListingTransition).order_by(col(ListingTransition.number)))
    for row in rows:
        if row.number != expected:
            yield f"row {expected} is missing before row {row.number}"
        if row.prev_hash != previous:
            yield f"row {row.number} does not follow the row before it"
        if row.hash != row_hash(row):
            yield f"row {row.number} was changed"
        previous, expected = row.hash, row.number + 1


def head(session: Session) -> tuple[int, str]:
    """Return the number of rows and the newest hash: what to publish."""
    count = session.exec(select(func.count()).select_from(ListingTransition)).one()
    newest = col(ListingTransition.number).desc()
    last = session.exec(select(ListingTransition).order_by(newest).limit(1)).first()
    return count, last.hash if last else GENESIS


def evidence_of(row: ListingTransition) -> dict[str, Any]:
    """Return the row's evidence as an object."""
    document: dict[str, Any] = json.loads(row.evidence)
    return document
