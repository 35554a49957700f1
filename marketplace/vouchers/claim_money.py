"""Where a claim's money stands: the movements of each step, and who bears what a funder does not pay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlmodel import Session

from marketplace.ledger.accounts import account_id, apply_now, open_account
from marketplace.ledger.chart import (
    DISALLOWED,
    FEE,
    Code,
    Rule,
    claimed,
    owner_available,
    owner_unsettled,
    receivable,
    reimburse_due,
)
from marketplace.ledger.operations import Entry, Post
from marketplace.vouchers.rules import load
from marketplace.vouchers.schema import ProgrammeRules
from marketplace.vouchers.tables import Application, Claim, ClaimLine, Grant, Programme, RefundLeg


def from_owners(
    session: Session,
    rules: ProgrammeRules,
    found: Iterable[ClaimLine],
    why: Code,
    *,
    reimbursed: bool,
) -> list[Entry]:
    """Return who bears what a funder does not pay: the owners and the fee, or who was to be reimbursed."""
    sink = open_account(session, DISALLOWED, Rule.PROJECTION)
    borne: dict[int, int] = {}

    def bear(account: int, amount_u: int) -> None:
        borne[account] = borne.get(account, 0) + amount_u

    for line in found:
        if rules.mode == "instant":
            owner = open_account(session, owner_unsettled(line.owner_org), Rule.PROJECTION)
            bear(owner, line.owner_u)
            bear(account_id(session, FEE), line.amount_u - line.owner_u)
        elif reimbursed:
            payee = claimant_org(session, rules, line)
            bear(_unsettled_or_fee(session, payee), line.amount_u)
        else:
            due = open_account(session, reimburse_due(line.org_id), Rule.PROJECTION)
            bear(due, line.amount_u)
    return [
        Entry(why, account, sink, amount) for account, amount in borne.items() if amount > 0
    ] + [Entry(why, sink, account, -amount) for account, amount in borne.items() if amount < 0]


def _unsettled_or_fee(session: Session, payee: str) -> int:
    if not payee:
        return account_id(session, FEE)
    return open_account(session, owner_unsettled(payee), Rule.PROJECTION)


def claimant_org(session: Session, rules: ProgrammeRules, line: ClaimLine) -> str:
    """Return the organisation that a reimbursed line is paid to, '' for the platform."""
    claimant: str = rules.claimant
    if claimant == "either":
        grant = session.get_one(Grant, line.grant_id)
        application = session.get(Application, grant.application_id)
        claimant = application.claimant if application else "demander"
    return {"demander": line.org_id, "provider": line.owner_org}.get(claimant, "")


def reimburse(session: Session, row: Claim, found: Sequence[ClaimLine]) -> list[Entry]:
    """Return what is paid on to claimants: each line, less what refunds took from what is due."""
    rules = load(session.get_one(Programme, row.programme_id).rules).rules
    if rules.mode != "reimburse":
        return []
    moves: dict[tuple[str, str], int] = {}
    for line in found:
        if line.refund_id and _taken_from_caller(session, line):
            continue
        way = (line.org_id, claimant_org(session, rules, line))
        moves[way] = moves.get(way, 0) + line.amount_u
    entries = []
    for (org_id, payee), amount_u in moves.items():
        due = open_account(session, reimburse_due(org_id), Rule.PROJECTION)
        to = (
            open_account(session, owner_available(payee), Rule.DEBITS_WITHIN_CREDITS)
            if payee
            else account_id(session, FEE)
        )
        if amount_u > 0:
            entries.append(Entry(Code.REIMBURSE, due, to, amount_u))
        elif amount_u < 0:
            # A refund takes the newest letters, which may be another funder's than the leg's: that one
            # pays this organisation more by as much.
            entries.append(Entry(Code.REIMBURSE, _unsettled_or_fee(session, payee), due, -amount_u))
    return entries


def _taken_from_caller(session: Session, line: ClaimLine) -> bool:
    """Return whether the leg had been paid out before its refund, which then took it from the caller."""
    leg = session.get_one(RefundLeg, (line.refund_id, line.leg))
    return leg.due_u > 0


def step_entries(
    session: Session,
    row: Claim,
    why: Code,
    debit: object,
    credit: object,
    amount_u: int,
) -> list[Entry]:
    """Return the movement between two of the claim's accounts, turned round when it is negative."""
    if not amount_u:
        return []
    sides = [_account(session, row, side) for side in (debit, credit)]
    if amount_u < 0:
        sides.reverse()
    return [Entry(why, sides[0], sides[1], abs(amount_u))]


_RULES = {claimed: Rule.CREDITS_WITHIN_DEBITS, receivable: Rule.CREDITS_WITHIN_DEBITS}


def _account(session: Session, row: Claim, name: object) -> int:
    assert callable(name)
    rule = _RULES.get(name, Rule.PROJECTION)
    return open_account(session, name(row.programme_id, row.funder_id), rule)


def move(
    session: Session,
    row: Claim,
    step: str,
    why: Code,
    debit: object,
    credit: object,
    amount_u: int,
    at_us: int,
) -> None:
    """Book a step that only moves the claim's amount between two of its accounts."""
    entries = step_entries(session, row, why, debit, credit, amount_u)
    apply_now(session, Post(f"claim:{row.id}:{step}", tuple(entries), at_us))
