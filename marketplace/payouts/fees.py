"""The platform's fee: dated and immutable like a price, booked with each call at the rate of its start."""

from __future__ import annotations

from typing import NamedTuple

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from catalog.ground.units import WHOLE_BP
from marketplace.ledger.accounts import take_control
from marketplace.members.tables import Organisation
from marketplace.payouts.tables import FeeVersion
from marketplace.prices.service import MARKER

EVERYBODY = ""


class Fee(NamedTuple):
    """What is in force: basis points of a call's cost, until `until_us` (None: no end is set)."""

    fee_bp: int
    until_us: int | None


def owner_scope(org_id: str) -> str:
    """Return the scope of a fee for one owner."""
    return f"owner:{org_id}"


def listing_scope(slug: str) -> str:
    """Return the scope of a fee for one listing."""
    return f"listing:{slug}"


def publish_fee(
    session: Session,
    scope: str,
    fee_bp: int,
    effective_from_us: int,
    author: str,
    reason: str,
    at_us: int,
) -> FeeVersion:
    """Add a fee from an instant on, which may not lie in the past: what was called then is booked."""
    if not 0 <= fee_bp <= WHOLE_BP:
        raise BadRequest("A fee is 0 to 10,000 basis points.", rule="fee.bp", param="fee_bp")
    _check_scope(session, scope)
    if effective_from_us < at_us:
        raise Conflict("A fee starts now or later.", rule="fee.order")
    take_control(session)
    newest = session.exec(
        select(FeeVersion)
        .where(FeeVersion.scope == scope)
        .order_by(col(FeeVersion.effective_from_us).desc())
    ).first()
    if newest is not None and newest.effective_from_us >= effective_from_us:
        raise Conflict("A later fee is published already.", rule="fee.order")
    made = FeeVersion(
        id=new_id("fee"),
        scope=scope,
        fee_bp=fee_bp,
        effective_from_us=effective_from_us,
        author=author,
        reason=reason,
        created_at_us=at_us,
    )
    session.add(made)
    session.flush()
    raise_marker(session, MARKER)
    return made


def _check_scope(session: Session, scope: str) -> None:
    """Raise for a scope that no call will ever fall into: it would leave the fee as it was, in silence."""
    kind, _, name = scope.partition(":")
    if scope and (kind not in ("owner", "listing") or not name):
        raise BadRequest(
            f"{scope!r} is not a scope.",
            rule="fee.scope",
            param="scope",
            remedy="Leave it out for everybody, or write owner:<organisation id> or listing:<slug>.",
        )
    if kind == "owner" and session.get(Organisation, name) is None:
        raise NotFound(f"There is no organisation with the id {name!r}.", rule="fee.scope")


def fee_at(session: Session, slug: str, owner_org: str, at_us: int) -> Fee:
    """Return the fee in force for a listing: its own, its owner's or everybody's; 0 without any."""
    scopes = (listing_scope(slug), owner_scope(owner_org), EVERYBODY)
    rows = session.exec(select(FeeVersion).where(col(FeeVersion.scope).in_(scopes))).all()
    coming = [row.effective_from_us for row in rows if row.effective_from_us > at_us]
    until_us = min(coming, default=None)
    for scope in scopes:
        begun = [r for r in rows if r.scope == scope and r.effective_from_us <= at_us]
        if begun:
            return Fee(max(begun, key=lambda r: r.effective_from_us).fee_bp, until_us)
    return Fee(0, until_us)
