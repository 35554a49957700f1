"""What must hold of any ledger, whoever wrote it: read from the database alone, after a walk or a race.

Each function yields what is off, in words; nothing means that all is well. What the house can prove of
itself is `verify` and `prove`; this is what these two do not look at.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

from sqlmodel import Session, col, select

from marketplace.ledger.chart import Code, owner_available, owner_paying, owner_unsettled
from marketplace.ledger.tables import UsageEvent
from marketplace.payouts.accruals import waits_for_funder
from marketplace.payouts.tables import Accrual, AccruedDay, Payout, Statement
from marketplace.reports.sources import flows
from marketplace.vouchers.periods import period
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import (
    CapUse,
    Claim,
    ClaimLine,
    Grant,
    Programme,
    Refund,
    RefundLeg,
)

_EVER_US = 2**62


def payout_problems(session: Session, orgs: list[str]) -> Iterator[str]:
    """14: nobody is paid what was not earned. Call it once every job has run and every day is added up.

    What is unsettled is what has not matured, and what funders have not paid, and nothing else; what is
    available is what matured or was reimbursed, less what was paid out.
    """
    waits = _waiting_grants(session)
    for org in orgs:
        unsettled = flows(session, owner_unsettled(org), 0, _EVER_US).net_u
        rows = session.exec(select(Accrual).where(Accrual.org_id == org)).all()
        ready = sum(row.net_u for row in rows if not row.matured_tx)
        expected = ready + _waiting_u(session, org, waits)
        if unsettled != expected:
            yield f"14 {org}: {unsettled} are unsettled, {expected} have still to mature"
        available = flows(session, owner_available(org), 0, _EVER_US)
        came = sum(row.net_u for row in rows if row.matured_tx)
        payouts = session.exec(select(Payout).where(Payout.org_id == org)).all()
        left = sum(row.amount_u for row in payouts if row.state != "reversed")
        if available.net_u != came - left:
            yield f"14 {org}: {available.net_u} are available, not {came} - {left}"
        paying = sum(row.amount_u for row in payouts if row.state not in ("paid", "reversed"))
        if flows(session, owner_paying(org), 0, _EVER_US).net_u != paying:
            yield f"14 {org}: payouts of {paying} are on their way, the ledger says otherwise"
        if available.net_u < 0 or came < left:
            yield f"14 {org}: more was paid out than became available"


def _waiting_grants(session: Session) -> set[str]:
    rules = {made.id: load(made.rules).rules for made in session.exec(select(Programme))}
    return {
        grant.id
        for grant in session.exec(select(Grant))
        if waits_for_funder(rules[grant.programme_id])
    }


def _waiting_u(session: Session, org: str, waits: set[str]) -> int:
    """Return the owner's share of what funders have neither paid nor refused, nor callers got back."""
    accruals = session.exec(select(Accrual).where(Accrual.org_id == org)).all()
    total = sum(row.waiting_u for row in accruals if row.kind == "usage")
    total -= sum(row.net_u for row in accruals if row.kind == "settled")
    legs = select(RefundLeg).join(Refund, col(Refund.id) == RefundLeg.refund_id)
    for leg in session.exec(legs.where(Refund.owner_org == org)):
        total -= leg.owner_u * (leg.grant_id in waits)
    lines = select(ClaimLine).where(ClaimLine.owner_org == org, ClaimLine.state == "disallowed")
    decided = lines.join(Claim, col(Claim.id) == ClaimLine.claim_id)
    for line in session.exec(decided.where(col(Claim.state).in_(("audited", "settled")))):
        total -= line.owner_u * (line.grant_id in waits)
    return total


def statement_problems(session: Session) -> Iterator[str]:
    """15: every statement says what the journal's movements of its month come to."""
    added_up = session.exec(select(AccruedDay.until_us)).all()
    for row in session.exec(select(Statement)):
        told, (_, start, end) = json.loads(row.body), period(row.period)
        before = flows(session, owner_available(row.org_id), 0, start).net_u
        month = flows(session, owner_available(row.org_id), start, end)
        expected = {
            "opening_u": before,
            "matured_u": month.into.get(Code.MATURE, 0),
            "reimbursed_u": month.into.get(Code.REIMBURSE, 0),
            "payouts_u": -month.out.get(Code.PAYOUT_HOLD, 0),
            "reversed_u": month.into.get(Code.PAYOUT_REVERSE, 0),
            "closing_u": before + month.net_u,
        }
        if told["available"] != expected:
            yield f"15 {row.org_id} {row.period}: says {told['available']}, the journal {expected}"
        sent = flows(session, owner_paying(row.org_id), start, end).out.get(Code.PAYOUT, 0)
        if told["paid_u"] != sent:
            yield f"15 {row.org_id} {row.period}: says {told['paid_u']} paid, the journal {sent}"
        accrued = flows(session, owner_unsettled(row.org_id), start, end).into.get(Code.ACCRUE, 0)
        usage = told["earned"]["usage"]
        if usage["net_u"] + usage["waiting_for_funders_u"] != accrued:
            yield f"15 {row.org_id} {row.period}: says {usage} earned, the journal {accrued}"
        if end not in added_up and accrued:
            yield f"15 {row.org_id} {row.period}: was told before its last day was added up"


def claim_problems(session: Session) -> Iterator[str]:
    """8: a leg is in one live line of each funder; what was given back of it shares its fate."""
    legs: dict[tuple[str, str, int], list[ClaimLine]] = defaultdict(list)
    for line in session.exec(select(ClaimLine).where(ClaimLine.state != "withdrawn")):
        legs[line.funder_id, line.event_id, line.leg].append(line)
    for key, lines in legs.items():
        refunds = [line.refund_id for line in lines]
        if len(refunds) != len(set(refunds)):
            yield f"8 {key}: is in two live claim lines"
        own = [line.state for line in lines if not line.refund_id]
        if any(state in ("disallowed", "clawed_back") for state in own) and any(
            line.refund_id and line.state == "allowed" for line in lines
        ):
            yield f"8 {key}: its funder got back what it had not paid"


def cap_problems(session: Session) -> Iterator[str]:
    """5: under every cap, what was issued (or issued and not returned) is within it."""
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in session.exec(select(CapUse)):
        counted[row.key][0] += row.issued_u
        counted[row.key][1] += row.issued_u - row.returned_u
    for made in session.exec(select(Programme)):
        rules = load(made.rules).rules
        for cap in rules.caps:
            scope = f"group:{cap.group}" if cap.group else rules.code
            for key, (issued, kept) in counted.items():
                if key.startswith(f"{scope}/{cap.per}/"):
                    used = kept if cap.basis == "used" else issued
                    if used > cap.amount_u:
                        yield f"5 {key}: {used} of {cap.amount_u}"


def usage_problems(session: Session, orgs: list[tuple[str, str]]) -> Iterator[str]:
    """6: these pairs (caller, owner) were related all along: no voucher ever paid between them."""
    for caller, owner in orgs:
        query = select(UsageEvent).where(
            UsageEvent.org_id == caller, UsageEvent.owner_org_id == owner
        )
        for event in session.exec(query):
            if event.voucher_u:
                yield f"6 {event.id}: a voucher paid {event.voucher_u} between {caller} and {owner}"
