"""Leases: a grant with a tranche or a daily velocity is filled bit by bit, as it runs dry.

Each lease is an issue of its own, within every cap of that moment, so that a programme "until used up"
never has more out than a tranche for each organisation.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import PaymentRequired
from catalog.ground.marker import raise_marker
from marketplace.ledger.accounts import take_control
from marketplace.vouchers.applications import admission_facts, against_of, refusals, size_of
from marketplace.vouchers.granting import MARKER, Order, caps_for, fill, left_u
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Application, Grant, Programme
from marketplace.vouchers.velocity import open_day


def is_low(session: Session, grant: Grant, step_u: int) -> bool:
    """Return whether the grant may be filled and holds less than half a step."""
    if grant.ceiling is None or grant.amount >= grant.ceiling:
        return False
    return left_u(session, grant) < (step_u + 1) // 2


def lease(session: Session, grant: Grant, at_us: int) -> int:
    """Fill the grant by a step when it is low; returns how much came, micro-yuan."""
    made = session.get_one(Programme, grant.programme_id)
    sealed = load(made.rules)
    step_u = sealed.step_u or 0
    open_day(session, sealed, grant.org_id, at_us)
    if not is_low(session, grant, step_u):
        return 0
    take_control(session)
    if not is_low(session, grant, step_u) or grant.ceiling is None or grant.state != "active":
        return 0
    row = session.get_one(Application, grant.application_id)
    if refusals(session, made, sealed, row, at_us):
        return 0
    facts = admission_facts(session, row, at_us)
    wanted_u = min(step_u, grant.ceiling - grant.amount)
    found = size_of(session, made, sealed, row, wanted_u, facts, at_us)
    if found.amount_u <= 0:
        return 0
    caps = caps_for(sealed, facts, against_of(session, row), at_us)
    tx = f"lease:{grant.id}:{grant.amount}"
    order = Order(tx, made, grant.org_id, found.amount_u, at_us, caps=caps)
    try:
        fill(session, order, sealed, grant)
    except PaymentRequired:
        return 0
    raise_marker(session, MARKER)
    return found.amount_u


def lease_all(session: Session, at_us: int) -> int:
    """Fill every grant that is low; returns how many were."""
    return sum(1 for grant in _leasing(session, at_us) if lease(session, grant, at_us))


def _leasing(session: Session, at_us: int) -> Sequence[Grant]:
    query = select(Grant).where(
        col(Grant.ceiling).is_not(None),
        Grant.state == "active",
        col(Grant.expires_at_us) > at_us,
    )
    return session.exec(query).all()
