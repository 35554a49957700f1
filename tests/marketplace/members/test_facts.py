"""Facts: two persons, a document, and days; and codes that verify an organisation."""

from __future__ import annotations

import pytest

from catalog.ground.clock import DAY_US, SECOND_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict
from catalog.ground.marker import read_marker
from marketplace.members.facts import (
    end_fact,
    enter_fact,
    facts_for,
    parse_value,
    state_at,
    verify_fact,
)
from marketplace.members.markers import FACTS
from marketplace.members.organisations import (
    create_organisation,
    masked_uscc,
    verify_organisation,
)
from marketplace.members.uscc import check_character

NOW = 1_700_000_000 * SECOND_US
DOCUMENT = {"evidence_sha256": "ab" * 32, "evidence_name": "licence.pdf"}
FIRST = "91440300MA5F37480"
CODE = FIRST + check_character(FIRST)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("flag", "是", True),
        ("flag", "False", False),
        ("number", "12", 12),
        ("date", "2026-02-28", "2026-02-28"),
        ("region", "4403", "4403"),
        ("set", "idc, isp,,idc", ["idc", "isp"]),
        ("text", " micro ", "micro"),
    ],
)
def test_values_are_read_by_their_kind(kind: str, text: str, value: object) -> None:
    assert parse_value(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("flag", "maybe"),
        ("number", "-1"),
        ("number", "1.5"),
        ("number", "٣"),
        ("date", "2026-02-30"),
        ("date", "20260228"),
        ("region", "440"),
        ("set", " , "),
        ("text", " "),
    ],
)
def test_what_is_no_value_of_its_kind_is_refused(kind: str, text: str) -> None:
    with pytest.raises(BadRequest, match=f"is not a {kind}"):
        parse_value(kind, text)


def _fact(database: Database) -> tuple[str, str]:
    with database.session() as session:
        org = create_organisation(session, "acme", "Acme", NOW)
        made = enter_fact(
            session,
            org.id,
            "org.is_opc",
            True,
            valid_from_us=NOW,
            valid_to_us=NOW + 10 * DAY_US,
            by="li",
            at_us=NOW,
            **DOCUMENT,
        )
        return org.id, made.id


def test_a_fact_takes_two_persons(database: Database) -> None:
    org_id, fact_id = _fact(database)
    with pytest.raises(Conflict, match="cannot verify"), database.session() as session:
        verify_fact(session, fact_id, "li", NOW)
    with database.reading() as session:
        before = read_marker(session, FACTS)
        assert [state_at(f, NOW) for f in facts_for(session, org_id)] == ["waiting"]
    with database.session() as session:
        verify_fact(session, fact_id, "wang", NOW)
    with database.reading() as session:
        (fact,) = facts_for(session, org_id)
        assert [state_at(fact, NOW + d * DAY_US) for d in (-1, 0, 10)] == [
            "coming",
            "in force",
            "ended",
        ]
        assert read_marker(session, FACTS) == before + 1


def test_the_database_itself_wants_four_eyes(database: Database) -> None:
    from sqlalchemy.exc import IntegrityError

    from marketplace.members.tables import OrgFact

    _, fact_id = _fact(database)
    with pytest.raises(IntegrityError), database.session() as session:
        fact = session.get_one(OrgFact, fact_id)
        fact.verified_by = fact.entered_by
        session.add(fact)


def test_a_fact_ends_earlier_but_never_later(database: Database) -> None:
    _, fact_id = _fact(database)
    with database.session() as session:
        verify_fact(session, fact_id, "wang", NOW)
        assert end_fact(session, fact_id, NOW + DAY_US, "zhao").valid_to_us == NOW + DAY_US
    with pytest.raises(Conflict, match="ends earlier"), database.session() as session:
        end_fact(session, fact_id, NOW + 2 * DAY_US, "zhao")


def test_no_fact_without_a_document(database: Database) -> None:
    with database.session() as session:
        org_id = create_organisation(session, "acme", "Acme", NOW).id
    for evidence in (
        {"evidence_sha256": "ab", "evidence_name": "x"},
        DOCUMENT | {"evidence_name": ""},
    ):
        with pytest.raises(BadRequest, match="evidence"), database.session() as session:
            enter_fact(
                session,
                org_id,
                "org.is_opc",
                True,
                valid_from_us=0,
                valid_to_us=None,
                by="li",
                at_us=NOW,
                **evidence,
            )


def test_a_code_verifies_one_organisation_for_good(database: Database) -> None:
    with database.session() as session:
        create_organisation(session, "acme", "Acme", NOW)
        org = verify_organisation(session, "acme", CODE.lower(), "深圳市某某公司", "wang", NOW)
        assert (org.uscc, org.name, org.verified_by) == (CODE, "深圳市某某公司", "wang")
        assert masked_uscc(org).startswith("91440300***")
        create_organisation(session, "other", "Other", NOW)
    with pytest.raises(Conflict, match="belongs to acme"), database.session() as session:
        verify_organisation(session, "other", CODE, None, "wang", NOW)
    wrong = FIRST + ("A" if CODE[-1] != "A" else "B")
    with pytest.raises(BadRequest), database.session() as session:
        verify_organisation(session, "other", wrong, None, "wang", NOW)
    second = "91440300MA5F37481"
    with pytest.raises(Conflict, match="verified as 91440300"), database.session() as session:
        verify_organisation(session, "acme", second + check_character(second), None, "wang", NOW)
