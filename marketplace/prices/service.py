"""Publish prices and find the one in force. A published version is never edited.

    draft ─ diff ─► publish ─► in force from its instant on ─► ended where the next one begins

Only the future can be priced: what a call cost is frozen on its usage event, and a price that reached
back would be a lie about it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_
from sqlmodel import Session, col, select

from catalog.ground.clock import to_iso
from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from catalog.listings import shelf
from marketplace.prices.components import Components, canonical, parse_components
from marketplace.prices.tables import PriceVersion
from marketplace.prices.versions import Change, Period, check_periods, diff

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
    effective_to_us: int | None = None,
) -> PriceVersion:
    """Add a price from an instant on; an open version in force until then ends there.

    Publishing the same price for the same instant again changes nothing. Raises `Conflict` when two
    versions would be in force at once, or when the price would reach back (only a first price may).
    """
    text, sha256 = canonical(components)
    known = versions_of(session, listing)
    for version in known:
        if version.effective_from_us == effective_from_us and version.sha256 == sha256:
            return version
    if known and effective_from_us < at_us:
        raise Conflict(
            f"A price of {listing} cannot begin at {to_iso(effective_from_us)}: that is past.",
            rule="price.retroactive",
            remedy="Let it begin now or later.",
        )
    made = PriceVersion(
        id=new_id("prc"),
        listing=listing,
        effective_from_us=effective_from_us,
        effective_to_us=effective_to_us,
        components=text,
        sha256=sha256,
        author=author,
        reason=reason,
        created_at_us=at_us,
    )
    for version in known:
        if version.effective_to_us is None and version.effective_from_us < effective_from_us:
            version.effective_to_us = effective_from_us
            session.add(version)
    check_periods(Period(v.id, v.effective_from_us, v.effective_to_us) for v in [*known, made])
    session.add(made)
    session.flush()
    raise_marker(session, MARKER)
    if effective_from_us <= at_us:
        shelf.reprice(session, listing, json.loads(text))
    return made


def compare(
    session: Session, listing: str, components: Components, at_us: int
) -> tuple[Change, ...]:
    """Return what publishing would change against the price that is in force at the instant."""
    current = price_at(session, listing, at_us)
    return diff(None if current is None else current.components, components)


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


def versions_of(session: Session, listing: str | None = None) -> Sequence[PriceVersion]:
    """Return published versions by listing and date; of one listing when it is given."""
    query = select(PriceVersion).order_by(
        col(PriceVersion.listing), col(PriceVersion.effective_from_us)
    )
    if listing is not None:
        query = query.where(PriceVersion.listing == listing)
    return session.exec(query).all()


def version(session: Session, version_id: str) -> PriceVersion:
    """Return a version by its id, and prove that its bytes are still those that were published."""
    found = session.get(PriceVersion, version_id)
    if found is None:
        raise NotFound(f"There is no price {version_id!r}.", rule="price.exists")
    if canonical(parse_components(found.components)) != (found.components, found.sha256):
        raise BadRequest(
            f"Price {version_id} is not what was published: its sha256 differs.",
            rule="price.immutable",
        )
    return found
