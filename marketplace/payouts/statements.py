"""An organisation's month: what it earned, what became available, what was paid out. To the micro-yuan.

The available balance is told as its movements, so that opening + movements = closing = the ledger's sum.
A statement is made once the month has ended and its last day can be added up, and is not rewritten: what
happened in the month is added up first, so it is told here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.errors import Conflict
from catalog.ground.ids import new_id
from marketplace.ledger.accounts import take_control
from marketplace.ledger.reading import booked_at_us
from marketplace.members.tables import Organisation
from marketplace.payouts.accruals import LATE_US, MATURED, accrue
from marketplace.payouts.tables import Accrual, Payout, Statement
from marketplace.vouchers.periods import month

KINDS = ("usage", "settled", "refund", "disallowed", "clawback", "adjustment", "reimbursed")


def statement(session: Session, org_id: str, period: str, at_us: int) -> Statement:
    """Return the organisation's statement of a month, made when it is asked for first."""
    known = _known(session, org_id, period)
    if known is not None:
        return known
    _, from_us, until_us = month(period)
    if until_us > at_us:
        raise Conflict(f"{period} has not ended yet.", rule="statement.period")
    if until_us + LATE_US > at_us:
        raise Conflict(
            f"The last day of {period} has not been added up yet.",
            rule="statement.period",
            remedy="Ask again in an hour.",
        )
    take_control(session)  # two may ask for it first
    known = _known(session, org_id, period)
    if known is not None:
        return known
    accrue(session, at_us)
    told = body(session, org_id, period, from_us, until_us)
    text = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    row = Statement(
        id=new_id("stm"),
        org_id=org_id,
        period=period,
        body=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        at_us=at_us,
    )
    session.add(row)
    session.flush()
    return row


def _known(session: Session, org_id: str, period: str) -> Statement | None:
    query = select(Statement).where(Statement.org_id == org_id, Statement.period == period)
    return session.exec(query).first()


def body(session: Session, org_id: str, period: str, from_us: int, until_us: int) -> dict[str, Any]:
    """Return what a statement says, micro-yuan, for the instants from `from_us` on before `until_us`."""
    org = session.get_one(Organisation, org_id)
    accruals = session.exec(
        select(Accrual).where(Accrual.org_id == org_id).order_by(col(Accrual.id))
    ).all()
    payouts = session.exec(select(Payout).where(Payout.org_id == org_id)).all()
    opening = _available(accruals, payouts, 0, from_us)
    month = _available(accruals, payouts, from_us, until_us)
    earned = [row for row in accruals if from_us <= row.at_us < until_us]
    return {
        "organisation": org.slug,
        "name": org.name,
        "uscc": org.uscc,
        "period": period,
        "earned": {
            kind: {
                "gross_u": sum(row.gross_u for row in earned if row.kind == kind),
                "fee_u": sum(row.fee_u for row in earned if row.kind == kind),
                "net_u": sum(row.net_u for row in earned if row.kind == kind),
                "waiting_for_funders_u": sum(row.waiting_u for row in earned if row.kind == kind),
            }
            for kind in KINDS
        },
        "available": {
            "opening_u": sum(opening.values()),
            **month,
            "closing_u": sum(opening.values()) + sum(month.values()),
        },
        "paid_u": sum(
            row.amount_u
            for row in payouts
            if row.was_paid and from_us <= (_paid_at_us(session, row) or 0) < until_us
        ),
    }


def _paid_at_us(session: Session, row: Payout) -> int | None:
    """Return when a payout left for the bank: also one that came back since."""
    if row.state == "paid":
        return row.closed_at_us
    return booked_at_us(session, f"payout:{row.id}:paid")


def _available(accruals: Any, payouts: Any, from_us: int, until_us: int) -> dict[str, int]:
    """Return the movements of the available balance in a span, signed."""

    def within(at_us: int | None) -> bool:
        return at_us is not None and from_us <= at_us < until_us

    matured = [row for row in accruals if row.matured_tx and within(row.matured_at_us)]
    return {
        "matured_u": sum(r.net_u for r in matured if r.matured_tx.startswith(MATURED)),
        "reimbursed_u": sum(r.net_u for r in matured if not r.matured_tx.startswith(MATURED)),
        "payouts_u": -sum(row.amount_u for row in payouts if within(row.prepared_at_us)),
        "reversed_u": sum(
            row.amount_u for row in payouts if row.state == "reversed" and within(row.closed_at_us)
        ),
    }
