"""Programme versions on record: drafted, published, closed. Their bytes never change once published.

draft ─► published ─► closed        (a draft may be replaced; a closed one issues nothing more)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.errors import Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.ledger.accounts import take_control
from marketplace.vouchers.granting import MARKER
from marketplace.vouchers.pools import add_funder, appropriated_u, funder, funders_of, pools_u
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Funder, Programme

DRAFT, PUBLISHED, CLOSED = "draft", "published", "closed"
_VERSION = re.compile(r"[0-9]{1,9}")


def draft(session: Session, document: str | bytes, author: str, at_us: int) -> Programme:
    """Keep a version that nobody can apply to yet; a draft of the same version is replaced."""
    sealed = load(document)
    take_control(session)
    known = _version(session, sealed)
    if known is not None and known.state != DRAFT:
        return _same(known, sealed)
    if known is not None:
        known.rules, known.sha256 = sealed.canonical, sealed.sha256
        known.author, known.created_at_us = author, at_us
        session.add(known)
        session.flush()
        return known
    return _add(session, sealed, author, at_us)


def publish(session: Session, document: str | bytes, author: str, at_us: int) -> Programme:
    """Publish a version and open its funders' pools; the same bytes again change nothing."""
    sealed = load(document)
    take_control(session)
    known = _version(session, sealed)
    if known is not None and known.state != DRAFT:
        return _same(known, sealed)
    made = draft(session, document, author, at_us)
    made.state, made.published_at_us = PUBLISHED, at_us
    session.add(made)
    for position, part in enumerate(sealed.rules.funders):
        who = funder(session, part.funder, part.level)
        add_funder(session, made.id, position, who.id, part.share_bp)
    session.flush()
    raise_marker(session, MARKER)
    return made


def close(session: Session, made: Programme) -> Programme:
    """Issue nothing more under this version. What was issued lives on to its end; twice is once."""
    if made.state == DRAFT:
        raise Conflict(f"{made.code}@{made.version} is a draft.", rule="programme.state")
    made.state = CLOSED
    session.add(made)
    session.flush()
    raise_marker(session, MARKER)
    return made


def programme(session: Session, code: str, version: int | None = None) -> Programme:
    """Return a programme by code (or `code@version`): unless one is named, its newest version.

    A draft is only named, or returned where there is nothing else: v1 is in force while v2 is written.
    """
    name, at, named = code.partition("@")
    if at:
        version = int(named) if _VERSION.fullmatch(named) else 0
    query = select(Programme).where(Programme.code == name)
    if version is not None:
        query = query.where(Programme.version == version)
    order = (col(Programme.state) == DRAFT, col(Programme.version).desc())
    found = session.exec(query.order_by(*order)).first()
    if found is None:
        raise NotFound(f"There is no programme {code!r}.", rule="programme.exists")
    return found


def open_programme(session: Session, code: str) -> Programme:
    """Return what `programme` does; `Conflict` when that version issues nothing."""
    made = programme(session, code)
    if made.state != PUBLISHED:
        raise Conflict(
            f"{made.code}@{made.version} is {made.state}: it issues nothing.",
            rule="programme.state",
        )
    return made


def programmes(session: Session, state: str | None = None) -> Sequence[Programme]:
    """Return every version, by code and version."""
    query = select(Programme).order_by(col(Programme.code), col(Programme.version))
    return session.exec(query if state is None else query.where(Programme.state == state)).all()


def describe(session: Session, made: Programme) -> dict[str, Any]:
    """Return a programme with its funders' money, micro-yuan, for an answer or a table."""
    sealed = load(made.rules)
    parts = funders_of(session, made.id)
    left, given = pools_u(session, parts), appropriated_u(session, made.id)
    return {
        "id": made.id,
        "programme": sealed.name,
        "state": made.state,
        "title_zh": sealed.rules.title_zh,
        "title_en": sealed.rules.title_en,
        "kind": sealed.rules.kind,
        "mode": sealed.rules.mode,
        "claimant": sealed.rules.claimant,
        "sha256": made.sha256,
        "funders": [
            {
                "funder": session.get_one(Funder, part.funder_id).code,
                "share_bp": part.share_bp,
                "appropriated_u": given.get(part.funder_id, 0),
                "pool_u": left[part.funder_id],
            }
            for part in parts
        ],
    }


def _version(session: Session, sealed: Sealed) -> Programme | None:
    code, version = sealed.rules.code, sealed.rules.version
    return session.exec(
        select(Programme).where(Programme.code == code, Programme.version == version)
    ).first()


def _same(known: Programme, sealed: Sealed) -> Programme:
    if known.sha256 == sealed.sha256:
        return known
    raise Conflict(
        f"{sealed.name} is published and cannot be changed.",
        rule="programme.immutable",
        remedy=f"Publish version {sealed.rules.version + 1}.",
    )


def _add(session: Session, sealed: Sealed, author: str, at_us: int) -> Programme:
    made = Programme(
        id=new_id("prg"),
        code=sealed.rules.code,
        version=sealed.rules.version,
        rules=sealed.canonical,
        sha256=sealed.sha256,
        state=DRAFT,
        author=author,
        created_at_us=at_us,
    )
    session.add(made)
    session.flush()
    return made
