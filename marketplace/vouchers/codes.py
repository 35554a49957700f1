"""Redemption codes (兑换码): a voucher for whoever brings the code, so many times and no more.

A claim is one conditional update of the code's row: the database decides who is the last, so 150 who
come at once to a code for 100 leave with exactly 100 vouchers. The row counts a use only together with
the grant that it became.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlmodel import Session, col, func, select

from catalog.ground.clock import DAY_US
from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from marketplace.ledger.accounts import take_control
from marketplace.ledger.chart import Code
from marketplace.vouchers.applications import refuse_if_any
from marketplace.vouchers.caps import Against
from marketplace.vouchers.granting import Order, caps_for, issue_grants, sized
from marketplace.vouchers.knowledge import org_facts
from marketplace.vouchers.programmes import PUBLISHED
from marketplace.vouchers.rules import load
from marketplace.vouchers.service import midnight_after_us
from marketplace.vouchers.tables import CodeUse, Grant, Programme, VoucherCode
from marketplace.vouchers.terms import Refusal
from marketplace.vouchers.velocity import open_day

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SHOWN = 7
_TAKE = text(
    "UPDATE voucher_code SET uses = uses + 1 WHERE id = :id AND uses < uses_max"
    " AND expires_at_us > :at_us AND revoked_at_us IS NULL"
)


@dataclass(frozen=True, slots=True)
class CodeTerms:
    """What a code gives (`amount_u` micro-yuan each time), how often, until when (exclusive)."""

    amount_u: int
    uses_max: int
    expires_at_us: int
    per_org_max: int = 1
    grant_ttl_days: int | None = None


def digest(code: str) -> str:
    """Return what is stored of a code: SHA-256 of its letters, without case, spaces and dashes."""
    plain = "".join(letter for letter in code.upper() if letter.isalnum())
    return hashlib.sha256(plain.encode()).hexdigest()


def new_code() -> str:
    """Return `TM-` and 20 letters: 100 random bits, too many to guess, so a plain hash will do."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(20))
    return "TM-" + "-".join(letters[i : i + 5] for i in range(0, 20, 5))


def create_code(
    session: Session,
    code_id: str,
    made: Programme,
    terms: CodeTerms,
    by: str,
    at_us: int,
    secret: str | None = None,
) -> tuple[VoucherCode, str]:
    """Return the new code's row and the code itself, which is not kept. `code_id` is the client's."""
    if min(terms.amount_u, terms.uses_max, terms.per_org_max) < 1 or terms.expires_at_us <= at_us:
        raise BadRequest(
            "A code gives more than 0, at least once, and expires in the future.",
            rule="code.terms",
        )
    if session.get(VoucherCode, code_id) is not None:
        raise Conflict("This code was made; it is shown only once.", rule="code.once")
    secret = secret or new_code()
    row = VoucherCode(
        id=code_id,
        programme_id=made.id,
        sha256=digest(secret),
        prefix=secret[:_SHOWN],
        amount_u=terms.amount_u,
        uses_max=terms.uses_max,
        per_org_max=terms.per_org_max,
        expires_at_us=terms.expires_at_us,
        grant_ttl_days=terms.grant_ttl_days,
        author=by,
        at_us=at_us,
    )
    session.add(row)
    session.flush()
    return row, secret


def redeem(session: Session, tx: str, secret: str, org_id: str, by: str, at_us: int) -> Grant:
    """Turn a code into a grant under the client's id `tx`; the same id again returns the same grant.

    A refusal (eligibility, caps, pools) leaves the code's count as it was: the session rolls back.
    """
    take_control(session)
    known = session.exec(select(CodeUse).where(CodeUse.tx == tx)).first()
    if known is not None:
        if known.org_id != org_id:
            raise Conflict("This id redeemed a code for another.", rule="code.once")
        return session.get_one(Grant, known.grant_id)
    sha256 = digest(secret)
    code = session.exec(select(VoucherCode).where(VoucherCode.sha256 == sha256)).first()
    if code is None:
        raise NotFound("There is no such code.", code="code_unknown", rule="code.exists")
    _take(session, code, at_us)
    use = _use(session, code, tx, org_id, by, at_us)
    granted = issue_grants(session, _order(session, code, tx, org_id, at_us))[0]
    use.grant_id = granted.id
    session.add(use)
    session.flush()
    return granted


def revoke_code(session: Session, code_id: str, at_us: int) -> VoucherCode:
    """Let nobody redeem it any more; what it gave stays."""
    code = session.get(VoucherCode, code_id)
    if code is None:
        raise NotFound(f"There is no code {code_id!r}.", rule="code.exists")
    code.revoked_at_us = code.revoked_at_us or at_us
    session.add(code)
    session.flush()
    return code


def codes(session: Session, programme_id: str | None = None) -> Sequence[VoucherCode]:
    """Return codes, oldest first."""
    query = select(VoucherCode).order_by(col(VoucherCode.id))
    if programme_id is not None:
        query = query.where(VoucherCode.programme_id == programme_id)
    return session.exec(query).all()


def _take(session: Session, code: VoucherCode, at_us: int) -> None:
    taken = session.execute(_TAKE, {"id": code.id, "at_us": at_us})
    session.refresh(code)
    if getattr(taken, "rowcount", 0) == 1:
        return
    if code.revoked_at_us is not None:
        why, rule = "has been revoked", "code.revoked"
    elif code.expires_at_us <= at_us:
        why, rule = "has expired", "code.expired"
    else:
        why, rule = "has been used up", "code.used_up"
    raise Conflict(f"This code {why}.", code=rule.replace(".", "_"), rule=rule)


def _use(session: Session, code: VoucherCode, tx: str, org_id: str, by: str, at_us: int) -> CodeUse:
    query = select(func.count()).where(CodeUse.code_id == code.id, CodeUse.org_id == org_id)
    number = int(session.exec(query).one()) + 1
    if number > code.per_org_max:
        raise Conflict(
            f"An organisation may use this code {code.per_org_max} times.",
            code="code_per_org",
            rule="code.per_org_max",
        )
    use = CodeUse(code_id=code.id, org_id=org_id, n=number, tx=tx, by=by, at_us=at_us)
    session.add(use)
    session.flush()
    return use


def _order(session: Session, code: VoucherCode, tx: str, org_id: str, at_us: int) -> Order:
    """Return what to issue, after the same questions that an application is asked."""
    made = session.get_one(Programme, code.programme_id)
    sealed = load(made.rules)
    facts, against = org_facts(session, org_id, at_us).facts, Against(org_id)
    found = list(sealed.admit(facts, at_us))
    if made.state != PUBLISHED:
        found.append(Refusal("", sealed.name, "programme.state", "", f"It is {made.state}."))
    if any(cap.per == "provider" for cap in sealed.rules.caps):
        words = "Its vouchers name a provider, which a code cannot: apply for one."
        found.append(Refusal("", sealed.name, "caps.provider", "", words))
    open_day(session, sealed, org_id, at_us)
    size = sized(session, made, sealed, code.amount_u, facts, against, at_us)
    if size.amount_u < code.amount_u:
        found += size.bound_by
    refuse_if_any(found)
    expires_at_us = sealed.expiry_us(at_us)
    if code.grant_ttl_days is not None:
        ends_us = midnight_after_us(at_us) + (code.grant_ttl_days - 1) * DAY_US
        expires_at_us = min(expires_at_us, ends_us)
    return Order(
        tx=f"redeem:{code.id}:{tx}",
        made=made,
        org_id=org_id,
        amount=code.amount_u,
        at_us=at_us,
        expires_at_us=expires_at_us,
        why=Code.REDEEM_CODE,
        code_id=code.id,
        caps=caps_for(sealed, facts, against, at_us),
    )


def new_code_id() -> str:
    """Return a new id for a code."""
    return new_id("vcd")
