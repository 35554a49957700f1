"""Members, their roles, their keys, and who a key turns out to be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from sqlmodel import select

from catalog.ground.clock import SECOND_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated
from catalog.ground.identity import Caller
from marketplace.members.identify import identify_by
from marketplace.members.keys import create_key
from marketplace.members.organisations import create_organisation
from marketplace.members.people import add_member, change_role, members_of, remove_member, role_of
from marketplace.members.projects import create_project, project, projects
from marketplace.members.tables import ApiKey, Membership, Organisation

NOW = 1_700_000_000 * SECOND_US


def _org(database: Database, slug: str = "acme") -> str:
    with database.session() as session:
        org = create_organisation(session, slug, "Acme", NOW)
        add_member(session, org.id, "li", "owner", "operator", NOW)
        return org.id


def _key(database: Database, org_id: str, member: str = "", *, operator: bool = False) -> str:
    with database.session() as session:
        return create_key(session, org_id, "k", NOW, member=member, operator=operator)[1]


def _who(database: Database, secret: str) -> Caller | None:
    return identify_by(database, lambda: NOW)(f"Bearer {secret}")


def test_a_member_s_key_has_the_member_s_role_in_its_own_organisation_only(
    database: Database,
) -> None:
    acme, other = _org(database), _org(database, "other")
    with database.session() as session:
        add_member(session, acme, "wang", "auditor", "li", NOW)
        add_member(session, other, "wang", "owner", "li", NOW)
    assert _who(database, _key(database, acme, "wang")) == Caller("wang", {"acme": "auditor"})
    assert _who(database, _key(database, other, "wang")) == Caller("wang", {"other": "owner"})


def test_a_key_of_nobody_acts_as_dev_and_an_operator_s_as_owner(database: Database) -> None:
    acme = _org(database)
    assert _who(database, _key(database, acme)) == Caller("acme", {"acme": "dev"})
    operator = _who(database, _key(database, acme, operator=True))
    assert operator == Caller("acme", {"acme": "owner"}, is_operator=True)
    assert identify_by(database)(None) is None


def test_whoever_leaves_loses_the_keys_and_the_record_stays(database: Database) -> None:
    acme = _org(database)
    with database.session() as session:
        add_member(session, acme, "wang", "dev", "li", NOW)
    secret = _key(database, acme, "wang")
    with database.session() as session:
        assert remove_member(session, acme, "wang", "li", NOW) == 1
    with pytest.raises(Unauthenticated):
        _who(database, secret)
    with database.reading() as session:
        assert [m.member for m in members_of(session, acme)] == ["li"]
        ended = [m for m in session.exec(select(Membership)) if m.member == "wang"]
        assert [(m.removed_by, m.removed_at_us) for m in ended] == [("li", NOW)]
    with database.session() as session:
        add_member(session, acme, "wang", "finance", "li", NOW + 1)
        assert role_of(session, acme, "wang") == "finance"


@pytest.mark.parametrize("role", ["finance", "auditor"])
def test_who_may_only_read_gets_keys_that_call_nothing(database: Database, role: str) -> None:
    acme = _org(database)
    with database.session() as session:
        add_member(session, acme, "wang", role, "li", NOW)
        key, _ = create_key(session, acme, "k", NOW, member="wang", listings=["a/b"])
        assert key.listings == "[]"


def test_a_role_that_may_no_longer_call_takes_its_keys_along(database: Database) -> None:
    acme = _org(database)
    with database.session() as session:
        add_member(session, acme, "wang", "dev", "li", NOW)
        key, _ = create_key(session, acme, "k", NOW, member="wang")
        change_role(session, acme, "wang", "auditor", "li", NOW + 1)
        key_id = key.id
    with database.reading() as session:
        assert session.get_one(ApiKey, key_id).listings == "[]"
        assert role_of(session, acme, "wang") == "auditor"


@pytest.mark.parametrize("slug", ["", "a/b", "Acme", "a b", "a--b", "-a", "a" * 65, "acme\n", "甲"])
def test_a_short_name_goes_into_addresses(database: Database, slug: str) -> None:
    with pytest.raises(BadRequest) as caught, database.session() as session:
        create_organisation(session, slug, "Acme", NOW)
    assert caught.value.rule == "organisation.slug"


def test_the_last_owner_stays(database: Database) -> None:
    acme = _org(database)
    with pytest.raises(Conflict, match="last owner"), database.session() as session:
        remove_member(session, acme, "li", "li", NOW)
    with pytest.raises(Conflict, match="last owner"), database.session() as session:
        change_role(session, acme, "li", "dev", "li", NOW)
    with database.session() as session:
        add_member(session, acme, "wang", "owner", "li", NOW)
        remove_member(session, acme, "li", "wang", NOW)


def test_two_owners_who_remove_each_other_at_once_leave_one(database: Database) -> None:
    acme = _org(database)
    with database.session() as session:
        add_member(session, acme, "wang", "owner", "li", NOW)

    def remove(member: str, by: str) -> None:
        with database.session() as session:
            remove_member(session, acme, member, by, NOW)

    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            remove_member(session, acme, "li", "wang", NOW)
            other = pool.submit(remove, "wang", "li")
            wait([other], timeout=0.5)  # it waits for us: longer would change nothing
        with pytest.raises(Conflict, match="last owner"):
            other.result()


def test_a_key_s_member_must_be_one(database: Database) -> None:
    acme = _org(database)
    with pytest.raises(BadRequest, match="not a member"), database.session() as session:
        create_key(session, acme, "k", NOW, member="nobody")
    with pytest.raises(BadRequest, match="not a role"), database.session() as session:
        add_member(session, acme, "wang", "king", "li", NOW)
    with pytest.raises(Conflict, match="dev already"), database.session() as session:
        add_member(session, acme, "zhao", "dev", "li", NOW)
        add_member(session, acme, "zhao", "owner", "li", NOW)


def test_a_suspended_organisation_s_keys_are_refused(database: Database) -> None:
    acme = _org(database)
    secret = _key(database, acme, "li")
    with database.session() as session:
        org = session.get_one(Organisation, acme)
        org.status = "suspended"
        session.add(org)
    with pytest.raises(Forbidden):
        _who(database, secret)


def test_networks_are_checked_when_they_are_written(database: Database) -> None:
    acme = _org(database)
    with database.session() as session:
        key, _ = create_key(session, acme, "k", NOW, cidrs=["10.1.2.3/8"])
        assert key.cidrs == '["10.0.0.0/8"]'
    with pytest.raises(BadRequest, match="not a network"), database.session() as session:
        create_key(session, acme, "k", NOW, cidrs=["ten"])


def test_projects_belong_to_one_organisation(database: Database) -> None:
    acme, other = _org(database), _org(database, "other")
    with database.session() as session:
        made = create_project(session, acme, " shop ", NOW)
        assert create_project(session, acme, "shop", NOW).id == made.id
        assert [p.name for p in projects(session, acme)] == ["shop"]
        assert project(session, acme, "shop").id == made.id
    with pytest.raises(NotFound), database.reading() as session:
        project(session, other, made.id)
