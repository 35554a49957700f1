"""Who acts for an organisation, and what each role may do.

role      calls   publishes   manages members and keys   sees money
owner       ●         ●                  ●                   ●
admin       ●         ●                  ●                   ●
dev         ●         ●                                      ●
finance                                                      ●
auditor                                                      ●
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.members.markers import KEYS
from marketplace.members.tables import ApiKey, Membership, Organisation

ROLES = ("owner", "admin", "dev", "finance", "auditor")
CALLERS = frozenset({"owner", "admin", "dev"})
"""Roles whose keys may call models; the others' keys read only."""
_NOTHING = "[]"


def members_of(session: Session, org_id: str) -> Sequence[Membership]:
    """Return the members now, in the order in which they came."""
    query = select(Membership).where(
        Membership.org_id == org_id, col(Membership.removed_at_us).is_(None)
    )
    return session.exec(query.order_by(col(Membership.added_at_us), col(Membership.id))).all()


def role_of(session: Session, org_id: str, member: str) -> str | None:
    """Return the member's role now, None for somebody who is none."""
    return next((m.role for m in members_of(session, org_id) if m.member == member), None)


def add_member(
    session: Session, org_id: str, member: str, role: str, by: str, at_us: int
) -> Membership:
    """Let `member` act for the organisation. Adding the same twice changes nothing."""
    if role not in ROLES:
        raise BadRequest(
            f"{role!r} is not a role.",
            rule="member.role",
            param="role",
            remedy=f"Use {', '.join(ROLES)}.",
        )
    if not member.strip():
        raise BadRequest("A member needs a name.", rule="member.name", param="member")
    _one_at_a_time(session, org_id)
    held = role_of(session, org_id, member)
    if held is not None and held != role:
        raise Conflict(
            f"{member} is {held} already.",
            rule="member.unique",
            remedy="Change the role: tokenmart member role.",
        )
    if held is not None:
        return _current(session, org_id, member)
    made = Membership(
        id=new_id("mbr"), org_id=org_id, member=member, role=role, added_by=by, added_at_us=at_us
    )
    session.add(made)
    session.flush()
    return made


def change_role(
    session: Session, org_id: str, member: str, role: str, by: str, at_us: int
) -> Membership:
    """Give the member another role; keys of a member who may no longer call are made to read only."""
    _one_at_a_time(session, org_id)
    current = _current(session, org_id, member)
    if current.role == role:
        return current
    if role not in CALLERS:
        for key in _keys(session, org_id, member):
            key.listings = _NOTHING
            session.add(key)
    _end(session, current, by, at_us, heir=role)
    made = add_member(session, org_id, member, role, by, at_us)
    raise_marker(session, KEYS)
    return made


def remove_member(session: Session, org_id: str, member: str, by: str, at_us: int) -> int:
    """End a membership and revoke the member's keys; returns how many keys that were."""
    _one_at_a_time(session, org_id)
    _end(session, _current(session, org_id, member), by, at_us, heir="")
    keys = _keys(session, org_id, member)
    for key in keys:
        key.revoked_at_us = at_us
        session.add(key)
    session.flush()
    raise_marker(session, KEYS)
    return len(keys)


def _one_at_a_time(session: Session, org_id: str) -> None:
    """Wait for whoever changes this organisation's members: two owners must not remove each other."""
    session.get_one(Organisation, org_id, with_for_update=True)


def _current(session: Session, org_id: str, member: str) -> Membership:
    for found in members_of(session, org_id):
        if found.member == member:
            return found
    raise NotFound(f"{member!r} is not a member.", rule="member.exists")


def _end(session: Session, membership: Membership, by: str, at_us: int, heir: str) -> None:
    owners = [m for m in members_of(session, membership.org_id) if m.role == "owner"]
    if owners == [membership] and heir != "owner":
        raise Conflict(
            f"{membership.member} is the last owner.",
            rule="member.last_owner",
            remedy="Make somebody else owner first.",
        )
    membership.removed_at_us, membership.removed_by = at_us, by
    session.add(membership)
    session.flush()


def _keys(session: Session, org_id: str, member: str) -> Sequence[ApiKey]:
    return session.exec(
        select(ApiKey).where(
            ApiKey.org_id == org_id,
            ApiKey.member == member,
            col(ApiKey.revoked_at_us).is_(None),
        )
    ).all()
