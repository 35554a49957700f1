"""Claims: from used vouchers to the funders' money, line by line.

    draft ─► submitted ─► audited ─► settled          each step by another person than the last
      └────────┴─► withdrawn: its     └─► lines refused by the payer
                   lines may be claimed again

One claim is one funder's part of one programme version up to the end of a period. Accounts follow it:
`claimed` when drafted, `receivable` or `disallowed` when audited, `settled` when paid. What is disallowed
is taken from the owner's unsettled share (or from what would have been reimbursed), never from the pool.
Refunds are lines of their own, negative, in the next claim: a claimed leg is never edited.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlmodel import Session

from catalog.ground.errors import BadRequest, Conflict, NotFound
from marketplace.ledger.accounts import apply_now, take_control
from marketplace.ledger.chart import Code, claimable, claimed, disallowed, receivable, settled
from marketplace.ledger.operations import Post
from marketplace.members.four_eyes import two_persons
from marketplace.vouchers.claim_checks import check_clawback, check_evidence, check_window
from marketplace.vouchers.claim_lines import (
    ALLOWED,
    CLAWED,
    PENDING,
    REFUSED,
    WITHDRAWN,
    decide,
    follow,
    line_of,
    lines,
    lines_sha256,
    of_leg,
    unclaimed,
)
from marketplace.vouchers.claim_money import (
    claimant_org,
    from_owners,
    move,
    reimburse,
    step_entries,
)
from marketplace.vouchers.claim_rules import findings, words
from marketplace.vouchers.periods import Period
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Claim, ClaimLine, Programme
from marketplace.vouchers.terms import Refusal

__all__ = [
    "Period",
    "Verdict",
    "audit",
    "claim",
    "claimant_org",
    "clawback",
    "draft",
    "lines",
    "lines_sha256",
    "refuse",
    "settle",
    "submit",
    "withdraw",
]

DRAFT, SUBMITTED, AUDITED, SETTLED = "draft", "submitted", "audited", "settled"


class Verdict(NamedTuple):
    """What the auditor says of line `n`; a refusal has a reason."""

    n: int
    allow: bool
    reason: str = ""


def draft(
    session: Session,
    claim_id: str,
    made: Programme,
    funder_id: str,
    period: Period,
    by: str,
    at_us: int,
) -> Claim:
    """Collect what this funder owes up to the period's end and was not claimed yet; once for the id.

    `Conflict` when there is nothing, or when refunds exceed use: they wait for the next period.
    """
    take_control(session)
    known = session.get(Claim, claim_id)
    if known is not None:
        return known
    rules = load(made.rules).rules
    if rules.quota is not None:
        raise Conflict("A free quota is not claimed from anybody.", rule="claim.quota")
    if period.until_us > at_us:
        raise Conflict("The period has not ended yet.", rule="claim.period")
    items = unclaimed(session, made, funder_id, period)
    total_u = sum(item.amount_u for item in items)
    if total_u <= 0:
        raise Conflict(
            f"There is nothing to claim: {len(items)} lines, {total_u} micro-yuan.",
            rule="claim.nothing",
            remedy="Refunds beyond use are set off in the next period.",
        )
    row = Claim(
        id=claim_id,
        programme_id=made.id,
        funder_id=funder_id,
        period=period.name,
        from_us=period.from_us,
        until_us=period.until_us,
        state=DRAFT,
        lines=len(items),
        total_u=total_u,
        drafted_by=by,
        drafted_at_us=at_us,
    )
    session.add(row)
    session.flush()
    session.add_all(line_of(row, n, item) for n, item in enumerate(items, 1))
    session.flush()
    move(session, row, "draft", Code.CLAIM, claimed, claimable, total_u, at_us)
    return row


def submit(
    session: Session,
    claim_id: str,
    evidence: Sequence[Mapping[str, str]],
    by: str,
    at_us: int,
) -> Claim:
    """Hand the claim in with its evidence (`[{kind, name, sha256}]`); it cannot change any more."""
    row = _step(session, claim_id, DRAFT, SUBMITTED)
    if row.state == SUBMITTED:
        return row
    sealed = load(session.get_one(Programme, row.programme_id).rules)
    check_window(sealed, at_us)
    check_evidence(session, sealed.rules, row, evidence)
    row.evidence = json.dumps([dict(item) for item in evidence], ensure_ascii=False)
    row.sha256 = lines_sha256(lines(session, row.id))
    row.state, row.submitted_by, row.submitted_at_us = SUBMITTED, by, at_us
    session.add(row)
    session.flush()
    return row


def withdraw(session: Session, claim_id: str, by: str, at_us: int) -> Claim:
    """Take a claim back before it is audited: its lines may be claimed again."""
    take_control(session)
    row = claim(session, claim_id)
    if row.state == WITHDRAWN:
        return row
    if row.state not in (DRAFT, SUBMITTED):
        raise Conflict(f"This claim is {row.state}.", rule="claim.state")
    for line in lines(session, row.id):
        decide(session, line, WITHDRAWN, "", by, at_us)
    row.state = WITHDRAWN
    session.add(row)
    move(session, row, "withdraw", Code.CLAIM, claimable, claimed, row.total_u, at_us)
    return row


def audit(
    session: Session,
    claim_id: str,
    verdicts: Iterable[Verdict],
    by: str,
    at_us: int,
    *,
    rest: bool = False,
) -> Claim:
    """Record what the auditor says of lines; `rest` allows every line not spoken of.

    When no line is pending any more the claim is audited and the ledger moves. `by` is neither who
    drafted nor who submitted it. A refused leg takes its refunds in the same claim with it, and what a
    rule refuses (`claim_rules`) nobody can allow.
    """
    row = _step(session, claim_id, SUBMITTED, AUDITED)
    if row.state == AUDITED:
        return row
    two_persons(by, row.drafted_by, row.submitted_by, what="claim")
    found = {line.n: line for line in lines(session, row.id)}
    refused = findings(session, row, list(found.values()))
    for n, finding in refused.items():
        # Allowed in an earlier sitting, before the link became known, it is refused all the same.
        if found[n].state != REFUSED:
            decide(session, found[n], REFUSED, words(finding), by, at_us)
    for verdict in verdicts:
        line = found.get(verdict.n)
        if line is None:
            raise NotFound(f"The claim has no line {verdict.n}.", rule="claim.line")
        if verdict.allow and verdict.n in refused:
            raise _forbidden(verdict.n, refused[verdict.n])
        if not verdict.allow and not verdict.reason.strip():
            raise BadRequest(
                f"Line {verdict.n}: a refusal says why.", rule="claim.reason", param="reason"
            )
        state = ALLOWED if verdict.allow else REFUSED
        decide(session, line, state, verdict.reason, by, at_us)
    follow(session, found.values(), by, at_us)
    waiting = [line for line in found.values() if line.state == PENDING]
    for line in waiting if rest else ():
        decide(session, line, ALLOWED, "", by, at_us)
    session.flush()
    if rest or not waiting:
        _close_audit(session, row, list(found.values()), by, at_us)
    return row


def _negative() -> Conflict:
    return Conflict(
        "What is allowed is less than the refunds in this claim.",
        rule="claim.negative",
        remedy="Withdraw it before its audit: its refunds are set off in the next one.",
    )


def _forbidden(n: int, finding: Refusal) -> Conflict:
    return Conflict(
        f"Line {n} cannot be allowed. {finding.message}",
        rule=finding.rule,
        remedy="Leave it out of the verdicts: it is refused by the rule.",
        details={"clause": finding.clause},
    )


def refuse(
    session: Session, claim_id: str, numbers: Sequence[int], reason: str, by: str, at_us: int
) -> Claim:
    """Book that the funder will not pay allowed lines (all of them when none is named), and why.

    The claim stays audited, over what is left. `by` neither drafted nor submitted it. A leg takes its
    refunds in the same claim with it; refusing the same again changes nothing.
    """
    take_control(session)
    row = claim(session, claim_id)
    if row.state != AUDITED:
        raise Conflict(f"This claim is {row.state}, not {AUDITED}.", rule="claim.state")
    two_persons(by, row.drafted_by, row.submitted_by, what="claim")
    if not reason.strip():
        raise BadRequest("A refusal says why.", rule="claim.reason", param="reason")
    # It comes after the audit even where a clock stands still: accruals tell the two apart by it.
    at_us = max(at_us, (row.audited_at_us or 0) + 1)
    found = {line.n: line for line in lines(session, row.id)}
    named = [found[n] for n in numbers if n in found] if numbers else list(found.values())
    if len(named) < len(set(numbers)):
        raise NotFound("The claim has no such line.", rule="claim.line")
    legs = {(line.event_id, line.leg) for line in named if not line.refund_id}
    taken = [
        line
        for line in found.values()
        if line.state == ALLOWED and (line.event_id, line.leg) in legs
    ]
    if not taken:
        return row
    for line in taken:
        decide(session, line, REFUSED, reason, by, at_us)
    total_u = sum(line.amount_u for line in taken)
    if row.allowed_u < total_u:
        raise _negative()
    row.allowed_u, row.disallowed_u = row.allowed_u - total_u, row.disallowed_u + total_u
    session.add(row)
    rules = load(session.get_one(Programme, row.programme_id).rules).rules
    entries = step_entries(session, row, Code.DISALLOW, disallowed, receivable, total_u)
    entries += from_owners(session, rules, taken, Code.DISALLOW, reimbursed=False)
    apply_now(session, Post(f"claim:{row.id}:refuse:{taken[0].n}", tuple(entries), at_us))
    return row


def settle(session: Session, claim_id: str, bank_ref: str, by: str, at_us: int) -> Claim:
    """Book that the funder has paid what was allowed. `by` neither drafted, submitted nor audited it.

    Whoever allowed a line has audited it, though another ended the audit.
    """
    row = _step(session, claim_id, AUDITED, SETTLED)
    if row.state == SETTLED:
        if row.bank_ref != bank_ref:
            raise Conflict("It was settled under another bank reference.", rule="claim.once")
        return row
    allowed = [line for line in lines(session, row.id) if line.state == ALLOWED]
    auditors = {row.audited_by, *(line.decided_by for line in allowed)}
    two_persons(by, row.drafted_by, row.submitted_by, *auditors, what="claim")
    if not bank_ref.strip():
        raise BadRequest("Give the bank's reference.", rule="claim.bank_ref", param="bank_ref")
    row.state, row.bank_ref, row.settled_by, row.settled_at_us = SETTLED, bank_ref, by, at_us
    session.add(row)
    entries = step_entries(session, row, Code.SETTLE, settled, receivable, row.allowed_u)
    entries += reimburse(session, row, allowed)
    apply_now(session, Post(f"claim:{row.id}:settle", tuple(entries), at_us))
    return row


def clawback(
    session: Session, claim_id: str, numbers: Sequence[int], reason: str, by: str, at_us: int
) -> Claim:
    """Book that a funder takes back lines that it had paid, within the months that its rules give.

    Owners (or who was reimbursed) owe it: their unsettled share goes down, below zero if it must.
    """
    take_control(session)
    row = claim(session, claim_id)
    if row.state != SETTLED or row.settled_at_us is None:
        raise Conflict("Only a settled claim is clawed back.", rule="claim.state")
    two_persons(by, row.settled_by, what="claim")
    made = session.get_one(Programme, row.programme_id)
    rules = load(made.rules).rules
    check_clawback(rules, row.settled_at_us, at_us, reason)
    found = [line for line in lines(session, row.id) if line.n in set(numbers)]
    if len(found) < len(set(numbers)):
        raise NotFound("The claim has no such line.", rule="claim.line")
    taken = [line for line in found if line.state == ALLOWED and not line.refund_id]
    if not taken:
        if found and all(line.state == CLAWED for line in found):
            return row
        raise Conflict("None of these lines was paid.", rule="claim.line")
    # What was given back of a leg since then, the funder has got already.
    taken += [
        other
        for line in taken
        for other in of_leg(session, line)
        if other.refund_id and other.state == ALLOWED
    ]
    for line in taken:
        decide(session, line, CLAWED, reason, by, at_us)
    total_u = sum(line.amount_u for line in taken)
    entries = step_entries(session, row, Code.CLAWBACK, disallowed, settled, total_u)
    entries += from_owners(session, rules, taken, Code.CLAWBACK, reimbursed=True)
    tx = f"claim:{row.id}:clawback:{taken[0].n}"
    apply_now(session, Post(tx, tuple(entries), at_us))
    session.flush()
    return row


def claim(session: Session, claim_id: str) -> Claim:
    """Return a claim; `NotFound` otherwise."""
    found = session.get(Claim, claim_id)
    if found is None:
        raise NotFound(f"There is no claim {claim_id!r}.", rule="claim.exists")
    return found


def _step(session: Session, claim_id: str, before: str, after: str) -> Claim:
    """Return the claim in state `before`, or `after` when the step was done already."""
    take_control(session)
    row = claim(session, claim_id)
    if row.state not in (before, after):
        raise Conflict(f"This claim is {row.state}, not {before}.", rule="claim.state")
    return row


def _close_audit(
    session: Session, row: Claim, found: Sequence[ClaimLine], by: str, at_us: int
) -> None:
    allowed_u = sum(line.amount_u for line in found if line.state == ALLOWED)
    refused = [line for line in found if line.state == REFUSED]
    refused_u = sum(line.amount_u for line in refused)
    if allowed_u < 0:
        raise _negative()
    row.allowed_u, row.disallowed_u = allowed_u, refused_u
    row.state, row.audited_by, row.audited_at_us = AUDITED, by, at_us
    session.add(row)
    rules = load(session.get_one(Programme, row.programme_id).rules).rules
    entries = step_entries(session, row, Code.ALLOW, receivable, claimed, allowed_u)
    entries += step_entries(session, row, Code.DISALLOW, disallowed, claimed, refused_u)
    entries += from_owners(session, rules, refused, Code.DISALLOW, reimbursed=False)
    apply_now(session, Post(f"claim:{row.id}:audit", tuple(entries), at_us))
