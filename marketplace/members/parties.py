"""Links between parties on record: shareholdings, control, family, what was declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from sqlmodel import Session, col, or_, select

from catalog.ground.errors import Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from catalog.ground.units import WHOLE_BP
from marketplace.members import uscc
from marketplace.members.markers import FACTS
from marketplace.members.organisations import organisation
from marketplace.members.related import Link, LinkKind, check_link
from marketplace.members.tables import Organisation, PartyLink

_OUTSIDE = "uscc:"


def party(session: Session, name: str) -> str:
    """Return the party that a slug or `uscc:…` names: an organisation here, or one that never calls.

    A code that belongs to an organisation here is that organisation.
    """
    if not name.startswith(_OUTSIDE):
        return organisation(session, name).id
    return as_known(session, _OUTSIDE + uscc.parse(name.removeprefix(_OUTSIDE)))


def as_known(session: Session, recorded: str) -> str:
    """Return a party as it is known now: a code on record may have become an organisation's since."""
    if not recorded.startswith(_OUTSIDE):
        return recorded
    code = recorded.removeprefix(_OUTSIDE)
    known = session.exec(select(Organisation.id).where(Organisation.uscc == code)).first()
    return known or recorded


def names_of(session: Session, known: str) -> frozenset[str]:
    """Return every name under which a party may be on record: its id, and its code from before."""
    found = session.get(Organisation, known)
    return frozenset((known, _OUTSIDE + found.uscc) if found and found.uscc else (known,))


def add_link(
    session: Session,
    first: str,
    second: str,
    kind: str,
    *,
    by: str,
    at_us: int,
    valid_from_us: int = 0,
    valid_to_us: int | None = None,
    holding_bp: int = WHOLE_BP,
    evidence_sha256: str = "",
    evidence_name: str = "",
) -> PartyLink:
    """Record a link; it counts at once, because a link only ever withholds public money."""
    link = Link(
        first, second, cast(LinkKind, kind), valid_from_us, valid_to_us, holding_bp=holding_bp
    )
    check_link(link)
    made = PartyLink(
        id=new_id("lnk"),
        first=first,
        second=second,
        kind=kind,
        holding_bp=holding_bp,
        valid_from_us=valid_from_us,
        valid_to_us=valid_to_us,
        evidence_sha256=evidence_sha256,
        evidence_name=evidence_name,
        entered_by=by,
        entered_at_us=at_us,
    )
    session.add(made)
    session.flush()
    raise_marker(session, FACTS)
    return made


def end_link(session: Session, link_id: str, until_us: int) -> PartyLink:
    """Let a link hold no longer than until that instant."""
    link = session.get(PartyLink, link_id)
    if link is None:
        raise NotFound(f"There is no link {link_id!r}.", rule="party_link.exists")
    if link.valid_to_us is not None and link.valid_to_us <= until_us:
        raise Conflict("The link ends earlier already.", rule="party_link.ended")
    link.valid_to_us = max(until_us, link.valid_from_us)
    session.add(link)
    session.flush()
    raise_marker(session, FACTS)
    return link


def links(session: Session, named: str | None = None) -> Sequence[PartyLink]:
    """Return the links on record, of one party when it is given."""
    query = select(PartyLink).order_by(col(PartyLink.entered_at_us), col(PartyLink.id))
    if named is not None:
        query = query.where(or_(PartyLink.first == named, PartyLink.second == named))
    return session.exec(query).all()


def all_links(session: Session) -> list[Link]:
    """Return every link as `related` wants it: a code that has become an organisation is that one."""
    known = session.exec(select(Organisation.uscc, Organisation.id)).all()
    ids = {_OUTSIDE + code: org_id for code, org_id in known if code}
    return [
        Link(
            ids.get(row.first, row.first),
            ids.get(row.second, row.second),
            cast(LinkKind, row.kind),
            row.valid_from_us,
            row.valid_to_us,
            row.holding_bp,
        )
        for row in links(session)
    ]
