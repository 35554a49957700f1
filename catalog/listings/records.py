"""What is put on record about a listing beside its road: filing, deprecation, figures, variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlmodel import Session, col, delete, select

from catalog.ground.clock import Clock, now_us
from catalog.ground.errors import BadRequest, Forbidden
from catalog.ground.ids import new_id
from catalog.ground.marker import LISTINGS, raise_marker
from catalog.listings import shelf
from catalog.listings.actors import Actor, system
from catalog.listings.content import load
from catalog.listings.guards import FILED
from catalog.listings.offer import is_on_offer, version_of
from catalog.listings.schemas import Filing, VariantShown
from catalog.listings.service import find, move, record
from catalog.listings.states import Part, Tier
from catalog.listings.tables import Listing, ListingVariant
from catalog.search import index


def record_filing(
    session: Session, actor: Actor, slug: str, filing: Filing, *, clock: Clock = now_us
) -> Listing:
    """Write down the state of the filing; only the operator does.

    A public listing whose filing is neither granted nor exempt any more is suspended with it.
    Raises `Forbidden`, `NotFound`, or `BadRequest` for a grant without a number.
    """
    _require(actor, Part.OPERATOR, "record a filing")
    if filing.status == "granted" and (not filing.number or filing.route == "none"):
        raise BadRequest(
            "A granted filing has a route and a number.", param="number", rule="listing.filing"
        )
    raise_marker(session, LISTINGS)
    listing, now = find(session, slug), clock()
    listing.filing_route, listing.filing_status = filing.route, filing.status
    listing.filing_number, listing.updated_at_us = filing.number, now
    session.add(listing)
    evidence = filing.model_dump(exclude={"reason"})
    record(
        session,
        listing,
        "filing",
        listing.state,
        actor,
        Part.OPERATOR,
        now,
        filing.reason,
        evidence,
    )
    if filing.status not in FILED and _public_on_offer(session, listing, now):
        reason = f"The filing is {filing.status}: {filing.reason}"
        return move(session, system("filing"), slug, "suspend", reason=reason, clock=clock)
    shelf.place(session, listing, now)
    return listing


def _public_on_offer(session: Session, listing: Listing, at_us: int) -> bool:
    if listing.listed_version is None or not is_on_offer(listing, at_us):
        return False
    return load(version_of(session, listing, listing.listed_version).content).tier == Tier.PUBLIC


def deprecate(
    session: Session,
    actor: Actor,
    slug: str,
    reason: str,
    *,
    successor: str | None = None,
    clock: Clock = now_us,
) -> Listing:
    """Say that the listing will go, and what to use instead; it stays callable.

    Raises `Forbidden`, `NotFound` (for the successor too), `BadRequest` without a reason.
    """
    acting_as = actor.acting(frozenset({Part.OPERATOR, Part.DEVELOPER}))
    if acting_as is None:
        raise Forbidden("Only its developers and the operator deprecate a listing.")
    if not reason.strip():
        raise BadRequest("A reason has to be recorded.", param="reason")
    raise_marker(session, LISTINGS)
    listing, now = find(session, slug), clock()
    if successor is not None:
        find(session, successor)
    listing.deprecated_at_us, listing.deprecated_reason = now, reason
    listing.successor_slug, listing.updated_at_us = successor, now
    session.add(listing)
    evidence = {"successor": successor}
    record(session, listing, "deprecate", listing.state, actor, acting_as, now, reason, evidence)
    return listing


def show_variants(
    session: Session,
    actor: Actor,
    slug: str,
    variants: Sequence[VariantShown],
    *,
    clock: Clock = now_us,
) -> Listing:
    """Replace the table of variants; the best figures become the listing's own, for sorting.

    Figures come from measurements, so only the operator and jobs write them.
    """
    _require(actor, Part.OPERATOR, "record figures", or_system=True)
    listing, now = find(session, slug), clock()
    session.exec(delete(ListingVariant).where(col(ListingVariant.listing_id) == listing.id))
    for variant in variants:
        made = ListingVariant(
            id=new_id("lva"), listing_id=listing.id, created_at_us=now, **variant.model_dump()
        )
        session.add(made)
    speeds = [v.output_tokens_per_s for v in variants if v.output_tokens_per_s is not None]
    qualities = [v.quality_bp for v in variants if v.quality_bp is not None]
    listing.output_tokens_per_s = max(speeds, default=None)
    listing.quality_bp = max(qualities, default=None)
    session.add(listing)
    session.flush()
    shelf.place(session, listing, now)
    return listing


def variants_of(session: Session, listing: Listing) -> list[ListingVariant]:
    """Return the variants shown, smallest first."""
    return list(
        session.exec(
            select(ListingVariant)
            .where(ListingVariant.listing_id == listing.id)
            .order_by(col(ListingVariant.size_bytes), col(ListingVariant.id))
        )
    )


def count_requests(session: Session, requests: Mapping[str, int]) -> None:
    """Tell how often listings were called in the last 30 days, by slug."""
    for slug, number in requests.items():
        find(session, slug).popularity = number
    session.flush()
    index.set_popularity(session, requests)


def end_graces(session: Session, *, clock: Clock = now_us) -> list[str]:
    """Take those off the search shelf whose grace has ended; return their slugs.

    What may be called is decided by the clock at once; this lets the search follow.
    """
    now = clock()
    ended = session.exec(
        select(Listing)
        .where(col(Listing.grace_until_us) <= now)
        .where(col(Listing.listed_version).is_not(None))
    ).all()
    for listing in ended:
        raise_marker(session, LISTINGS)
        listing.grace_until_us, listing.listed_version = None, None
        session.add(listing)
        record(session, listing, "grace_ended", listing.state, system("grace"), Part.SYSTEM, now)
        shelf.place(session, listing, now)
    return [listing.slug for listing in ended]


def _require(actor: Actor, part: Part, what: str, *, or_system: bool = False) -> None:
    if part in actor.parts or (or_system and Part.SYSTEM in actor.parts):
        return
    raise Forbidden(f"To {what} is for the {part}.", rule="listing.parts")
