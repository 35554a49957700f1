"""What is known now of a caller, a listing and its provider, in the words of the vocabulary.

Three sources: the organisation and the listing themselves, their dated facts that a second person has
verified, and the links between parties, followed to the end. What nobody has established is absent, and
an absent fact never speaks for a subsidy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest
from catalog.listings.callable import CallableListing
from catalog.listings.tables import Listing
from marketplace.members.parties import all_links, as_known
from marketplace.members.related import Link, are_related
from marketplace.members.tables import Organisation, OrgFact
from marketplace.vouchers.facts import DatedFact, Kind, facts_at, kind_of
from marketplace.vouchers.tables import Application
from marketplace.vouchers.terms import QUOTA_CLASS, RELATED_PARTY, SELF_OWNED, Facts, FactValue

DERIVED = frozenset(
    {
        "org.status",
        "listing.kind",
        "listing.filing_status",
        "listing.charge",
        QUOTA_CLASS,
        SELF_OWNED,
        RELATED_PARTY,
    }
)
"""Facts that follow from something else on record, so that nobody enters them."""
_ABOUT_LISTINGS = ("listing", "cluster")
_ABOUT_ORGS = ("org", "provider")
_FILING = {"granted": "filed"} | dict.fromkeys(
    ("not_assessed", "exempt", "refused", "cancelled"), "none"
)
_REGISTRATION = "register"


class Known(NamedTuple):
    """What holds now, and the instant at which some of it next begins or ends (None: never)."""

    facts: Facts
    changes_at_us: int | None


def kind_of_entry(key: str, listing: str = "") -> Kind:
    """Return the kind of a fact that a person may enter; BadRequest for any other.

    Facts of `listing.` and `cluster.` speak of one listing, the others of the organisation itself.
    """
    kind = kind_of(key)
    subject = key.partition(".")[0]
    if key in DERIVED or subject not in _ABOUT_LISTINGS + _ABOUT_ORGS:
        raise BadRequest(
            f"{key} is not entered: it follows from what is on record.", rule="fact.derived"
        )
    if (subject in _ABOUT_LISTINGS) != bool(listing):
        about = "needs the listing that it speaks of" if not listing else "speaks of no listing"
        raise BadRequest(f"{key} {about}.", rule="fact.listing", param="listing")
    return kind


def org_facts(session: Session, org_id: str, at_us: int) -> Known:
    """Return what is known of an organisation by itself: for admission to a programme."""
    rows = _verified(session, [org_id])
    dated = _dated(row for row in rows if row.key.startswith("org."))
    facts = {"org.status": _status(session, org_id), **facts_at(dated, at_us)}
    return Known(facts, _next_change(dated, at_us))


def facts_of(
    session: Session, org_id: str, listing: CallableListing, at_us: int, *, free: bool = False
) -> Known:
    """Return what is known of the caller, the listing and its provider.

    `free`: the model was called by its free name.
    """
    owner = listing.owner_org
    rows = _verified(session, [org_id, owner])
    dated = _dated(row for row in rows if _speaks(row, org_id, owner, listing.slug))
    links = all_links(session)
    facts: dict[str, FactValue] = {
        **facts_at(dated, at_us),
        "org.status": _status(session, org_id),
        "listing.kind": listing.kind,
        "listing.filing_status": _filing(session, listing.id),
        "listing.charge": "tokens",
        SELF_OWNED: owner == org_id,
        RELATED_PARTY: are_related(org_id, owner, links, at_us),
        QUOTA_CLASS: "free" if free else "default",
    }
    return Known(facts, _next_change([*dated, *links], at_us))


def contract_facts(session: Session, row: Application, at_us: int) -> Facts:
    """Return what is known of a contract outside the gateway: both parties and what it buys.

    What it buys is declared with the application (`contract.subject`, `contract.listing`) and seen by
    whoever accepts an invoice; everything about the provider and its listing is verified as ever.
    """
    declared, provider = declared_facts(row), as_known(session, row.provider)
    slug = str(declared.get("contract.listing", ""))
    rows = _verified(session, [row.org_id, provider])
    dated = _dated(fact for fact in rows if _speaks(fact, row.org_id, provider, slug))
    listing = session.exec(select(Listing).where(Listing.slug == slug)).first() if slug else None
    related = are_related(row.org_id, provider, all_links(session), at_us)
    facts: dict[str, FactValue] = {
        **declared,
        **facts_at(dated, at_us),
        "contract.supplier_related": related,
        "org.status": _status(session, row.org_id),
        "listing.charge": "contract",
        SELF_OWNED: provider == row.org_id,
        RELATED_PARTY: related,
        QUOTA_CLASS: "contract",
    }
    if "contract.subject" in declared:
        facts["listing.kind"] = declared["contract.subject"]
    if listing is not None and listing.owner_org == provider:
        facts["listing.kind"] = listing.kind
        facts["listing.filing_status"] = _filing(session, listing.id)
    return facts


def declared_facts(row: Application) -> dict[str, FactValue]:
    """Return what an application declares of its contract."""
    return {key: as_fact(value) for key, value in json.loads(row.facts).items()}


def as_fact(value: Any) -> FactValue:
    """Return a JSON value as facts hold it: a list is a set."""
    return frozenset(value) if isinstance(value, list) else cast(FactValue, value)


def _speaks(row: OrgFact, caller: str, owner: str, slug: str) -> bool:
    """Return whether a fact is about this caller, this provider or this listing."""
    if row.key.startswith("org."):
        return row.org_id == caller
    return row.org_id == owner and row.listing in ("", slug)


def _verified(session: Session, org_ids: Sequence[str]) -> Sequence[OrgFact]:
    return session.exec(
        select(OrgFact)
        .where(col(OrgFact.org_id).in_(set(org_ids)), col(OrgFact.verified_at_us).is_not(None))
        .order_by(col(OrgFact.entered_at_us), col(OrgFact.id))
    ).all()


def _dated(rows: Iterable[OrgFact]) -> list[DatedFact]:
    return [
        DatedFact(row.key, _value(row.value), row.valid_from_us, row.valid_to_us) for row in rows
    ]


def _value(text: str) -> FactValue:
    return as_fact(json.loads(text))


def _next_change(dated: Sequence[DatedFact | Link], at_us: int) -> int | None:
    instants = []
    for item in dated:
        if isinstance(item, Link):
            instants += [item.from_us, item.to_us]
        else:
            instants += [item.valid_from_us, item.valid_to_us]
    return min((i for i in instants if i is not None and i > at_us), default=None)


def _status(session: Session, org_id: str) -> str:
    return session.get_one(Organisation, org_id).status


def _filing(session: Session, listing_id: str) -> str:
    """Return the listing's filing as programmes speak of it: filed, registered, pending or none."""
    listing = session.get(Listing, listing_id)
    if listing is None:
        return "none"
    if listing.filing_status == "granted" and listing.filing_route == _REGISTRATION:
        return "registered"
    return _FILING.get(listing.filing_status, "pending")
