"""Create, edit and move listings. Every function takes a session and never commits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, select

from catalog.ground.clock import Clock, now_us
from catalog.ground.errors import BadRequest, Conflict, Forbidden, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import LISTINGS, raise_marker
from catalog.listings import chain, shelf
from catalog.listings.actors import Actor
from catalog.listings.content import canonical_json, load
from catalog.listings.effects import EFFECTS, Happening
from catalog.listings.guards import GUARDS, Attempt, Facts, NoReviewYet
from catalog.listings.offer import is_on_offer, version_of
from catalog.listings.schemas import ListingDraft, ListingEdit
from catalog.listings.states import EDITABLE, TRANSITIONS, Part, State, Tier, Transition
from catalog.listings.tables import Listing, ListingTransition
from catalog.listings.taxonomy import require, taxonomy


def find(session: Session, slug: str) -> Listing:
    """Return the listing; raise `NotFound` when the slug names none."""
    listing = session.exec(select(Listing).where(Listing.slug == slug)).first()
    if listing is None:
        raise NotFound(f"There is no listing {slug!r}.", code="listing_not_found")
    return listing


def publisher_of(slug: str) -> str:
    """Return the organisation's slug in `publisher/name`."""
    return slug.partition("/")[0]


def create(
    session: Session,
    actor: Actor,
    draft: ListingDraft,
    *,
    owner_org: str | None = None,
    clock: Clock = now_us,
) -> Listing:
    """Make a draft; `owner_org` is the publisher's slug unless the owner has an id of another form.

    Raises `Forbidden` for an actor that is no developer of the publisher, `Conflict` when the slug is
    or ever was taken, `BadRequest` for words outside the taxonomy.
    """
    _require_developer(actor, draft.slug)
    if session.exec(select(Listing.id).where(Listing.slug == draft.slug)).first() is not None:
        raise Conflict(
            f"The name {draft.slug!r} is taken; names are never reused.", code="slug_taken"
        )
    now = clock()
    listing = Listing(
        id=new_id("lst"),
        slug=draft.slug,
        kind=draft.kind,
        owner_org=owner_org or publisher_of(draft.slug),
        state=State.DRAFT,
        tier=Tier.SANDBOX,
        vertical="general",
        created_by=actor.name,
        created_at_us=now,
        updated_at_us=now,
    )
    _apply(listing, draft)
    session.add(listing)
    session.flush()
    record(session, listing, "create", "", actor, Part.DEVELOPER, now)
    return listing


def edit(
    session: Session, actor: Actor, slug: str, change: ListingEdit, *, clock: Clock = now_us
) -> Listing:
    """Change the working copy; what is under review or on offer stands still.

    Raises `Forbidden`, `NotFound`, `BadRequest`, or `Conflict` where the state allows no edit.
    """
    _require_developer(actor, slug)
    listing = find(session, slug)
    if listing.state not in EDITABLE:
        raise Conflict(
            f"{slug} cannot be edited while it is {listing.state}.",
            code="listing_not_editable",
            rule="listing.states",
            remedy="Withdraw it from review, or revise the listed version, then edit.",
        )
    _apply(listing, change)
    listing.updated_at_us = clock()
    session.add(listing)
    if listing.tier == Tier.SANDBOX:
        raise_marker(session, LISTINGS)
    session.flush()
    return listing


def move(
    session: Session,
    actor: Actor,
    slug: str,
    event: str,
    *,
    reason: str = "",
    evidence: Mapping[str, Any] | None = None,
    facts: Facts | None = None,
    grace_us: int = 0,
    clock: Clock = now_us,
) -> Listing:
    """Let `event` happen to the listing, as the table of `states` has it, and record it.

    `grace_us` is for `reassess`: how long the listed version stays on offer meanwhile.

    Raises `NotFound`, `BadRequest` for an event that does not exist, `Conflict` when the listing is
    in another state or a guard does not hold, `Forbidden` when the actor's part does not allow it.
    """
    transition = TRANSITIONS.get(event)
    if transition is None:
        raise BadRequest(f"{event!r} is nothing that happens to a listing.", param="event")
    # First the marker: its lock makes this the only mover, and what is read below stays true.
    raise_marker(session, LISTINGS)
    listing = find(session, slug)
    session.refresh(listing)
    acting_as = _allowed(listing, transition, actor)
    now = clock()
    _hold_guards(session, listing, transition, actor, acting_as, reason, facts, now)
    origin = listing.state
    listing.state = transition.target
    if effect := EFFECTS.get(event):
        effect(Happening(session, listing, actor, acting_as, reason, now, grace_us))
    listing.updated_at_us = now
    session.add(listing)
    session.flush()
    record(session, listing, event, origin, actor, acting_as, now, reason, evidence)
    shelf.place(session, listing, now)
    return listing


def _require_developer(actor: Actor, slug: str) -> None:
    if Part.DEVELOPER not in actor.parts:
        raise Forbidden(
            f"Only developers of {publisher_of(slug)} change its listings.",
            rule="listing.parts",
            remedy="Ask an owner or admin of the organisation for the role dev.",
        )


def _apply(listing: Listing, change: ListingEdit) -> None:
    given = change.model_dump(exclude_unset=True, exclude={"slug", "kind"})
    shelves = taxonomy()
    for name in ("tasks", "languages"):
        if name in given:
            known = shelves.tasks if name == "tasks" else shelves.languages
            given[name] = json.dumps(require(name, known, given[name] or []))
    if "vertical" in given:
        require("vertical", shelves.verticals, [given["vertical"] or ""])
    for name, value in given.items():
        if value is None and not Listing.__table__.c[name].nullable:  # type: ignore[attr-defined]
            raise BadRequest(f"{name} cannot be null.", param=name)
        setattr(listing, name, value)


def _allowed(listing: Listing, transition: Transition, actor: Actor) -> Part:
    acting_as = actor.acting(transition.parts)
    if acting_as is None:
        who = " or ".join(sorted(transition.parts))
        raise Forbidden(f"To {transition.event} a listing is for its {who}.", rule="listing.parts")
    if listing.state not in transition.sources:
        raise Conflict(
            f"{listing.slug} is {listing.state}: {transition.event} starts from"
            f" {', '.join(sorted(transition.sources))}.",
            code="listing_wrong_state",
            rule="listing.states",
            details={"state": listing.state},
        )
    return acting_as


def _hold_guards(
    session: Session,
    listing: Listing,
    transition: Transition,
    actor: Actor,
    acting_as: Part,
    reason: str,
    facts: Facts | None,
    now: int,
) -> None:
    attempt = Attempt(
        listing=listing,
        tier=_tier_concerned(session, listing, transition),
        actor=actor,
        acting_as=acting_as,
        reason=reason,
        history=chain.history(session, listing.id),
        facts=facts or NoReviewYet(),
        on_offer=is_on_offer(listing, now),
    )
    for name in transition.guards:
        if refusal := GUARDS[name](attempt):
            raise Conflict(
                f"{listing.slug} cannot {transition.event}: {refusal}",
                code="listing_guard",
                rule=f"listing.guard.{name}",
            )


def _tier_concerned(session: Session, listing: Listing, transition: Transition) -> str:
    """Return the tier that counts: `restore` is about the listed version, all else the newest."""
    if transition.event == "restore" and listing.listed_version is not None:
        return load(version_of(session, listing, listing.listed_version).content).tier
    return listing.tier


def record(
    session: Session,
    listing: Listing,
    event: str,
    origin: str,
    actor: Actor,
    acting_as: Part,
    at_us: int,
    reason: str = "",
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Append what happened to the history; for this wing only."""
    chain.append(
        session,
        ListingTransition(
            number=0,
            listing_id=listing.id,
            event=event,
            from_state=origin,
            to_state=listing.state,
            version=listing.version,
            actor=actor.name,
            acted_as=acting_as,
            at_us=at_us,
            reason=reason,
            evidence=canonical_json(dict(evidence or {})),
            prev_hash="",
            hash="",
        ),
    )
