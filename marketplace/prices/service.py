"""Publish prices and find the one in force. A published version is never edited."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import or_
from sqlmodel import Session, col, select

from catalog.ground.errors import Conflict
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.prices.components import Components, canonical, parse_components
from marketplace.prices.tables import PriceVersion

MARKER = "prices"
"""Name of the change marker that tells gateways to look again."""


@dataclass(frozen=True, slots=True)
class Price:
    """A price version, parsed; `text` is its canonical JSON, `until_us` its end (None: open)."""

    id: str
    components: Components
    text: str
    until_us: int | None


def publish_price(
    session: Session,
    listing: str,
    components: Components,
    effective_from_us: int,
    author: str,
    reason: str,
    at_us: int,
) -> PriceVersion:
    """Add a price from an instant on; the version in force until then ends there."""
    text, sha256 = canonical(components)
    newest = session.exec(
        select(PriceVersion)
        .where(PriceVersion.listing == listing)
        .order_by(col(PriceVersion.effective_from_us).desc())
    ).first()
    if newest is not None and newest.effective_from_us >= effective_from_us:
        raise Conflict(
            f"{listing} has a price from {newest.effective_from_us} µs on already.",
            rule="price.order",
            remedy="A new price starts after the newest one.",
        )
    if newest is not None and newest.effective_to_us is None:
        newest.effective_to_us = effective_from_us
        session.add(newest)
    made = PriceVersion(
        id=new_id("prc"),
        listing=listing,
        effective_from_us=effective_from_us,
        components=text,
        sha256=sha256,
        author=author,
        reason=reason,
        created_at_us=at_us,
    )
    session.add(made)
    session.flush()
    raise_marker(session, MARKER)
    return made


def price_at(session: Session, listing: str, at_us: int) -> Price | None:
    """Return the price in force, None when the listing has none."""
    ends = col(PriceVersion.effective_to_us)
    found = session.exec(
        select(PriceVersion)
        .where(PriceVersion.listing == listing, PriceVersion.effective_from_us <= at_us)
        .where(or_(ends.is_(None), ends > at_us))
    ).first()
    if found is None:
        return None
    components = parse_components(found.components)
    return Price(found.id, components, found.components, found.effective_to_us)
