"""What a programme gets to know: verified facts by date, relations to the end, filings."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.ground.clock import DAY_US, SECOND_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest
from catalog.listings.callable import CallableListing
from catalog.listings.tables import Listing
from marketplace.members.facts import enter_fact, verify_fact
from marketplace.members.organisations import create_organisation, verify_organisation
from marketplace.members.parties import add_link, end_link, party
from marketplace.members.uscc import check_character
from marketplace.vouchers.knowledge import Known, facts_of, kind_of_entry, org_facts

NOW = 1_700_000_000 * SECOND_US
SLUG = "maker/model"


def _org(database: Database, slug: str) -> str:
    with database.session() as session:
        return create_organisation(session, slug, slug, NOW).id


def _listing(database: Database, owner: str, **filing: Any) -> CallableListing:
    with database.session() as session:
        row = Listing(
            id="lst_1",
            slug=SLUG,
            kind="model",
            owner_org=owner,
            state="listed",
            tier="park",
            vertical="general",
            created_by="x",
            created_at_us=NOW,
            updated_at_us=NOW,
            **filing,
        )
        session.add(row)
    return CallableListing(
        "lst_1", SLUG, "model", "listed", "park", owner, 1, None, None, None, None, None
    )


def _enter(
    database: Database, org: str, key: str, value: Any, *, verified: bool = True, **more: Any
) -> None:
    with database.session() as session:
        made = enter_fact(
            session,
            org,
            key,
            value,
            valid_from_us=more.pop("since", 0),
            valid_to_us=more.pop("until", None),
            evidence_sha256="0" * 64,
            evidence_name="x.pdf",
            by="li",
            at_us=NOW,
            **more,
        )
        if verified:
            verify_fact(session, made.id, "wang", NOW)


def _known(database: Database, org: str, listing: CallableListing, **more: Any) -> Known:
    with database.reading() as session:
        return facts_of(session, org, listing, more.pop("at_us", NOW), **more)


def test_only_verified_facts_in_force_are_known(database: Database) -> None:
    caller, maker = _org(database, "caller"), _org(database, "maker")
    listing = _listing(database, maker)
    _enter(database, caller, "org.is_opc", True)
    _enter(database, caller, "org.size", "micro", verified=False)
    _enter(database, caller, "org.is_startup", True, until=NOW + DAY_US)
    _enter(database, caller, "org.incubators", ["a"])
    _enter(database, caller, "org.incubators", ["b"], since=NOW + 2 * DAY_US)
    today, changes_at_us = _known(database, caller, listing)
    assert today["org.is_opc"] is True
    assert today["org.is_startup"] is True
    assert today["org.incubators"] == frozenset({"a"})
    assert today["org.status"] == "active"
    assert "org.size" not in today
    assert changes_at_us == NOW + DAY_US
    later, changes_at_us = _known(database, caller, listing, at_us=NOW + 2 * DAY_US)
    assert "org.is_startup" not in later
    assert later["org.incubators"] == frozenset({"a", "b"})
    assert changes_at_us is None


def test_the_caller_s_facts_are_not_the_provider_s(database: Database) -> None:
    caller, maker = _org(database, "caller"), _org(database, "maker")
    listing = _listing(database, maker)
    _enter(database, maker, "org.is_opc", True)
    _enter(database, maker, "provider.licences", ["idc"])
    _enter(database, maker, "listing.shelves", ["sz-2025"], listing=SLUG)
    _enter(database, maker, "listing.shelves", ["other"], listing="maker/other")
    _enter(database, caller, "listing.shelves", ["forged"], listing=SLUG)
    _enter(database, caller, "provider.licences", ["isp"])
    facts = _known(database, caller, listing).facts
    assert "org.is_opc" not in facts
    assert facts["provider.licences"] == frozenset({"idc"})
    assert facts["listing.shelves"] == frozenset({"sz-2025"})
    with database.reading() as session:
        assert org_facts(session, maker, NOW).facts == {"org.status": "active", "org.is_opc": True}


def test_relations_are_followed_through_parties_that_never_call(database: Database) -> None:
    caller, maker = _org(database, "caller"), _org(database, "maker")
    listing = _listing(database, maker)
    first = "91440300MA5F37480"
    holding = "uscc:" + first + check_character(first)
    assert _known(database, caller, listing).facts["listing.related_party"] is False
    with database.session() as session:
        outside = party(session, holding)
        assert outside == holding
        add_link(session, maker, outside, "control", by="li", at_us=NOW)
        link = add_link(
            session, outside, caller, "shareholding", holding_bp=2500, by="li", at_us=NOW
        )
    facts = _known(database, caller, listing).facts
    assert (facts["listing.related_party"], facts["listing.self_owned"]) == (True, False)
    with database.session() as session:
        create_organisation(session, "holding", "Holding", NOW)
        joined = verify_organisation(session, "holding", holding[5:], None, "wang", NOW).id
        assert party(session, holding) == joined
    assert _known(database, joined, listing).facts["listing.related_party"] is True
    assert _known(database, caller, listing).facts["listing.related_party"] is True
    with database.session() as session:
        end_link(session, link.id, NOW + DAY_US)
    assert _known(database, caller, listing).changes_at_us == NOW + DAY_US
    later = _known(database, caller, listing, at_us=NOW + DAY_US)
    assert later.facts["listing.related_party"] is False


def test_one_s_own_listing_is_self_owned(database: Database) -> None:
    maker = _org(database, "maker")
    facts = _known(database, maker, _listing(database, maker), free=True).facts
    assert facts["listing.self_owned"] is True
    assert facts["listing.related_party"] is True
    assert facts["listing.quota_class"] == "free"


@pytest.mark.parametrize(
    ("filing", "told"),
    [
        ({}, "none"),
        ({"filing_status": "exempt"}, "none"),
        ({"filing_status": "local_testing"}, "pending"),
        ({"filing_status": "granted", "filing_route": "full"}, "filed"),
        ({"filing_status": "granted", "filing_route": "register"}, "registered"),
    ],
)
def test_filings_are_told_as_programmes_speak_of_them(
    database: Database, filing: dict[str, str], told: str
) -> None:
    caller, maker = _org(database, "caller"), _org(database, "maker")
    listing = _listing(database, maker, **filing)
    assert _known(database, caller, listing).facts["listing.filing_status"] == told


def test_derived_facts_are_not_entered() -> None:
    assert kind_of_entry("org.region") == "region"
    assert kind_of_entry("cluster.chip_origin", SLUG) == "text"
    for key, listing in (
        ("org.status", ""),
        ("listing.filing_status", SLUG),
        ("contract.paid", ""),
        ("listing.shelves", ""),
        ("org.region", SLUG),
        ("org.colour", ""),
    ):
        with pytest.raises(BadRequest):
            kind_of_entry(key, listing)
