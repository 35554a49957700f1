"""What a transition demands, by the names that the table of `states` uses.

A guard looks at an `Attempt` and returns None, or one sentence saying what is missing. Facts that
other wings know (is the organisation verified, how did the checks end) are asked through `Facts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from catalog.listings.actors import Actor
from catalog.listings.states import Part, State, Tier
from catalog.listings.tables import Listing, ListingTransition
from catalog.listings.taxonomy import taxonomy

FILED = ("granted", "exempt")
"""The filing states that open the public tier."""


class Facts(Protocol):
    """What the road needs to know from elsewhere. Lists hold what stands in the way, in words."""

    def organisation_verified(self, owner_org: str) -> bool: ...
    def critical_findings(self, listing_id: str, version: int) -> list[str]: ...
    def unfinished_checks(self, listing_id: str, version: int) -> list[str]: ...
    def unpassed_checks(self, listing_id: str, version: int) -> list[str]: ...


class NoReviewYet:
    """The facts of a marketplace without a compliance review: no check ever passed."""

    def organisation_verified(self, owner_org: str) -> bool:
        """Organisations are made by the operator, who verifies them."""
        return bool(owner_org)

    def critical_findings(self, listing_id: str, version: int) -> list[str]:
        return [f"version {version} of {listing_id} was not scanned: no review is installed"]

    unfinished_checks = critical_findings
    unpassed_checks = critical_findings


@dataclass(frozen=True, slots=True)
class Attempt:
    """Somebody wants a listing to move; `history` is oldest first.

    `tier` is that of the version concerned, which the working copy may have left behind.
    """

    listing: Listing
    tier: str
    actor: Actor
    acting_as: Part
    reason: str
    history: list[ListingTransition]
    facts: Facts
    on_offer: bool


Guard = Callable[[Attempt], str | None]


def manifest_complete(attempt: Attempt) -> str | None:
    listing = attempt.listing
    needed = ["title_zh", "title_en", "summary_zh"]
    if listing.kind == "model":
        needed += ["licence", "context_length", "max_output_tokens"]
    missing = [name for name in needed if not getattr(listing, name)]
    if listing.vertical not in taxonomy().verticals:
        missing.append("vertical")
    if not (listing.card_zh or listing.card_en):
        missing.append("card_zh")
    return f"Still missing: {', '.join(missing)}." if missing else None


def tier_goes_outside(attempt: Attempt) -> str | None:
    if attempt.tier == Tier.SANDBOX:
        return "A sandbox listing is for its owner alone: choose the tier park or public first."
    return None


def organisation_verified(attempt: Attempt) -> str | None:
    if attempt.facts.organisation_verified(attempt.listing.owner_org):
        return None
    return "The publishing organisation has not been verified yet."


def _first(words: list[str], meaning: str) -> str | None:
    return f"{meaning}: {'; '.join(words[:5])}." if words else None


def no_critical_finding(attempt: Attempt) -> str | None:
    listing = attempt.listing
    found = attempt.facts.critical_findings(listing.id, listing.version)
    return _first(found, "Critical findings are open")


def checks_finished(attempt: Attempt) -> str | None:
    listing = attempt.listing
    unfinished = attempt.facts.unfinished_checks(listing.id, listing.version)
    return _first(unfinished, "Required checks have not finished")


def checks_passed_or_waived(attempt: Attempt) -> str | None:
    listing = attempt.listing
    unpassed = attempt.facts.unpassed_checks(listing.id, listing.version)
    return _first(unpassed, "Required checks are neither passed nor waived")


def reason_given(attempt: Attempt) -> str | None:
    return None if attempt.reason.strip() else "A reason has to be recorded."


def four_eyes(attempt: Attempt) -> str | None:
    if attempt.actor.name == attempt.listing.submitted_by:
        return "Whoever submitted a version does not decide about it."
    if attempt.acting_as is Part.REVIEWER and Part.DEVELOPER in attempt.actor.parts:
        return "A member of the publishing organisation does not review its listings."
    return None


def second_reviewer_for_public(attempt: Attempt) -> str | None:
    if attempt.tier != Tier.PUBLIC:
        return None
    endorsers = {row.actor for row in _this_review(attempt.history) if row.event == "endorse"}
    if endorsers - {attempt.actor.name}:
        return None
    return "A public listing needs two reviewers: another one has to endorse it first."


def _this_review(history: list[ListingTransition]) -> list[ListingTransition]:
    """Return the rows since the listing last came to human review."""
    for index in range(len(history) - 1, -1, -1):
        row = history[index]
        if row.to_state == State.HUMAN_REVIEW and row.from_state != State.HUMAN_REVIEW:
            return history[index:]
    return []


def filing_gate(attempt: Attempt) -> str | None:
    listing = attempt.listing
    if attempt.tier != Tier.PUBLIC or listing.filing_status == "exempt":
        return None
    if listing.filing_status == "granted" and listing.filing_number:
        return None
    return "The public tier needs a granted filing (备案) with its number, or a recorded exemption."


def on_offer(attempt: Attempt) -> str | None:
    return None if attempt.on_offer else "Nothing of this listing is on offer."


def lifted_by_who_suspended(attempt: Attempt) -> str | None:
    if attempt.acting_as is Part.OPERATOR or attempt.listing.suspended_by == Part.OWNER:
        return None
    return "It was not the owner who suspended it: only the operator can lift that."


def no_reassessment_open(attempt: Attempt) -> str | None:
    for row in reversed(attempt.history):
        if row.event == "list":
            return None
        if row.event == "reassess":
            return "It has to be evaluated again before it returns to the shelf."
    return "It was never listed."


GUARDS: dict[str, Guard] = {
    guard.__name__: guard
    for guard in (
        manifest_complete,
        tier_goes_outside,
        organisation_verified,
        no_critical_finding,
        checks_finished,
        checks_passed_or_waived,
        reason_given,
        four_eyes,
        second_reviewer_for_public,
        filing_gate,
        on_offer,
        lifted_by_who_suspended,
        no_reassessment_open,
    )
}
