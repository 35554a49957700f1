"""Dated facts with evidence: entered by one person, verified by another, ended but never rewritten.

Which facts there are is not known here: whoever enters one hands in the kind of its value (see
`marketplace.vouchers.knowledge`, where the vocabulary is).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.members.markers import FACTS
from marketplace.members.tables import OrgFact

_FLAGS = {"true": True, "yes": True, "是": True, "false": False, "no": False, "否": False}
_SHA256 = re.compile(r"[0-9a-f]{64}")
Value = str | int | bool | list[str]


def parse_value(kind: str, text: str) -> Value:
    """Return the value that `text` names: `是`, `440305`, `2026-12-31`, `idc,isp`; BadRequest if none.

    Kinds: text, flag, number (whole, not negative), date (YYYY-MM-DD), region (2, 4 or 6 digits of
    GB/T 2260), set (texts between commas).
    """
    text = text.strip()
    value: Value | None = text or None
    if kind == "flag":
        value = _FLAGS.get(text.lower())
    elif kind == "number":
        value = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
    elif kind == "date":
        value = text if _is_day(text) else None
    elif kind == "region":
        value = text if re.fullmatch(r"([0-9]{2}){1,3}", text) else None
    elif kind == "set":
        value = sorted({part.strip() for part in text.split(",")} - {""}) or None
    if value is None:
        raise BadRequest(f"{text!r} is not a {kind}.", rule="fact.value", param="value")
    return value


def enter_fact(
    session: Session,
    org_id: str,
    key: str,
    value: Value,
    *,
    valid_from_us: int,
    valid_to_us: int | None,
    evidence_sha256: str,
    evidence_name: str,
    by: str,
    at_us: int,
    listing: str = "",
) -> OrgFact:
    """Add a fact that waits for its verification. `listing`: the slug it speaks of, '' for none."""
    if not _SHA256.fullmatch(evidence_sha256) or not evidence_name:
        raise BadRequest(
            "A fact needs evidence: the name of a document and the sha256 of its bytes.",
            rule="fact.evidence",
            param="evidence",
        )
    if valid_to_us is not None and valid_to_us <= valid_from_us:
        raise BadRequest("The fact ends before it begins.", rule="fact.period", param="valid_to")
    made = OrgFact(
        id=new_id("fct"),
        org_id=org_id,
        listing=listing,
        key=key,
        value=json.dumps(value, ensure_ascii=False),
        valid_from_us=valid_from_us,
        valid_to_us=valid_to_us,
        evidence_sha256=evidence_sha256,
        evidence_name=evidence_name,
        entered_by=by,
        entered_at_us=at_us,
    )
    session.add(made)
    session.flush()
    return made


def verify_fact(session: Session, fact_id: str, by: str, at_us: int) -> OrgFact:
    """Let the fact count: `by` has compared it with its evidence, and is not who entered it."""
    fact = _fact(session, fact_id)
    if fact.verified_at_us is not None:
        return fact
    if by == fact.entered_by:
        raise Conflict(
            f"{by} entered this fact and cannot verify it.",
            rule="fact.four_eyes",
            remedy="Ask a second person.",
        )
    fact.verified_by, fact.verified_at_us = by, at_us
    session.add(fact)
    session.flush()
    raise_marker(session, FACTS)
    return fact


def end_fact(session: Session, fact_id: str, until_us: int, by: str) -> OrgFact:
    """Let the fact hold no longer than until that instant; what it paid for until then stands."""
    fact = _fact(session, fact_id)
    if fact.ended_by or (fact.valid_to_us is not None and fact.valid_to_us <= until_us):
        raise Conflict("The fact ends earlier already.", rule="fact.ended")
    fact.valid_to_us, fact.ended_by = max(until_us, fact.valid_from_us), by
    session.add(fact)
    session.flush()
    raise_marker(session, FACTS)
    return fact


def facts_for(session: Session, org_id: str) -> Sequence[OrgFact]:
    """Return everything on record about an organisation and its listings, oldest first."""
    query = select(OrgFact).where(OrgFact.org_id == org_id)
    return session.exec(query.order_by(col(OrgFact.entered_at_us), col(OrgFact.id))).all()


def state_at(fact: OrgFact, at_us: int) -> str:
    """Return `waiting` (for its verification), `coming`, `in force` or `ended`."""
    if fact.verified_at_us is None:
        return "waiting"
    if at_us < fact.valid_from_us:
        return "coming"
    return "in force" if fact.valid_to_us is None or at_us < fact.valid_to_us else "ended"


def _fact(session: Session, fact_id: str) -> OrgFact:
    fact = session.get(OrgFact, fact_id)
    if fact is None:
        raise NotFound(f"There is no fact {fact_id!r}.", rule="fact.exists")
    return fact


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
