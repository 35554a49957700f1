"""Keep the search index in step with what is on offer, in the transaction that changes it."""

from __future__ import annotations

from sqlmodel import Session

from catalog.listings.tables import Listing


def place(session: Session, listing: Listing, at_us: int) -> None:
    """Put the listing on the searchable shelf, or take it off, as `is_on_offer` says."""
