"""What each event changes on a listing, beside its state. The state itself is set by `service.move`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session

from catalog.ground.clock import DAY_US
from catalog.listings.actors import Actor
from catalog.listings.content import digest_of, dump, working_content
from catalog.listings.states import Part
from catalog.listings.tables import Listing, ListingVersion

REVISION_GRACE_US = 90 * DAY_US
"""How long a listed version stays on offer while its successor is made and reviewed."""


@dataclass(frozen=True, slots=True)
class Happening:
    """A transition whose guards held, about to take effect."""

    session: Session
    listing: Listing
    actor: Actor
    acting_as: Part
    reason: str
    at_us: int
    grace_us: int


def _submit(what: Happening) -> None:
    listing = what.listing
    listing.version += 1
    listing.submitted_by = what.actor.name
    text = dump(working_content(listing))
    what.session.add(
        ListingVersion(
            listing_id=listing.id,
            number=listing.version,
            release_id=listing.release_id,
            content=text,
            digest=digest_of(text),
            note=what.reason,
            created_by=what.actor.name,
            created_at_us=what.at_us,
        )
    )


def _list(what: Happening) -> None:
    what.listing.listed_version = what.listing.version
    what.listing.grace_until_us = None
    what.listing.listed_at_us = what.listing.listed_at_us or what.at_us


def _suspend(what: Happening) -> None:
    what.listing.suspended_reason = what.reason
    what.listing.suspended_by = what.acting_as
    what.listing.grace_until_us = None


def _restore(what: Happening) -> None:
    what.listing.suspended_reason = None
    what.listing.suspended_by = None


def _leave_the_shelf(what: Happening) -> None:
    _restore(what)
    what.listing.listed_version = None
    what.listing.grace_until_us = None


def _revise(what: Happening) -> None:
    what.listing.grace_until_us = what.at_us + REVISION_GRACE_US


def _reassess(what: Happening) -> None:
    what.listing.grace_until_us = what.at_us + what.grace_us if what.grace_us > 0 else None


EFFECTS: dict[str, Callable[[Happening], None]] = {
    "submit": _submit,
    "list": _list,
    "suspend": _suspend,
    "restore": _restore,
    "reevaluate": _restore,
    "delist": _leave_the_shelf,
    "reject": _leave_the_shelf,
    "revise": _revise,
    "reassess": _reassess,
}
