"""What of the listings can be seen and called at an instant. The gateway reads this."""

from __future__ import annotations

from collections.abc import Iterator

from sqlmodel import Session, col, select

from catalog.listings.callable import CallableListing
from catalog.listings.content import Content, load, working_content
from catalog.listings.states import KEEPS_LISTED_VERSION, State, Tier
from catalog.listings.tables import Listing, ListingVersion


def is_on_offer(listing: Listing, at_us: int) -> bool:
    """Return whether `listed_version` is on the shelf at that instant."""
    if listing.listed_version is None:
        return False
    if listing.state == State.LISTED:
        return True
    grace = listing.grace_until_us
    return listing.state in KEEPS_LISTED_VERSION and grace is not None and at_us < grace


def version_of(session: Session, listing: Listing, number: int) -> ListingVersion:
    """Return one version of the listing; the number is one that the listing holds."""
    return session.exec(
        select(ListingVersion)
        .where(ListingVersion.listing_id == listing.id)
        .where(ListingVersion.number == number)
    ).one()


def offered_content(session: Session, listing: Listing, at_us: int) -> Content | None:
    """Return what shoppers see of the listing, None when nothing is on offer."""
    if listing.listed_version is None or not is_on_offer(listing, at_us):
        return None
    return load(version_of(session, listing, listing.listed_version).content)


def callable_listings(session: Session, at_us: int) -> list[CallableListing]:
    """Return every listing that anybody may call, by slug.

    A sandbox listing is called by its owner before it was ever reviewed, so long as nobody refused it.
    """
    found = [*_offered(session, at_us), *_sandboxes(session)]
    return sorted(found, key=lambda listing: listing.slug)


def callable_listing(session: Session, slug: str, at_us: int) -> CallableListing | None:
    """Return the one listing, None when nobody may call it."""
    found = [*_offered(session, at_us, slug), *_sandboxes(session, slug)]
    return found[0] if found else None


def _offered(session: Session, at_us: int, slug: str | None = None) -> Iterator[CallableListing]:
    joined = (
        select(Listing, ListingVersion.content)
        .join(ListingVersion, col(ListingVersion.listing_id) == Listing.id)
        .where(col(ListingVersion.number) == Listing.listed_version)
    )
    if slug is not None:
        joined = joined.where(Listing.slug == slug)
    for listing, text in session.exec(joined):
        if is_on_offer(listing, at_us):
            until = None if listing.state == State.LISTED else listing.grace_until_us
            yield _callable(listing, load(text), until)


def _sandboxes(session: Session, slug: str | None = None) -> Iterator[CallableListing]:
    refused = (State.REJECTED, State.SUSPENDED, State.DELISTED)
    own = (
        select(Listing)
        .where(Listing.tier == Tier.SANDBOX)
        .where(col(Listing.listed_version).is_(None))
        .where(col(Listing.state).not_in(refused))
    )
    if slug is not None:
        own = own.where(Listing.slug == slug)
    for listing in session.exec(own):
        yield _callable(listing, working_content(listing), None)


def _callable(listing: Listing, content: Content, until_us: int | None) -> CallableListing:
    return CallableListing(
        id=listing.id,
        slug=listing.slug,
        kind=content.kind,
        state=listing.state,
        tier=content.tier,
        owner_org=listing.owner_org,
        version=listing.listed_version or listing.version,
        release_id=content.release_id,
        context_length=content.context_length,
        max_output_tokens=content.max_output_tokens,
        until_us=until_us,
        deprecated_at_us=listing.deprecated_at_us,
    )
