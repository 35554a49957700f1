"""Claims: from used vouchers to the funders' money, line by line.

    draft ─► submitted ─► audited ─► settled          each step by another person than the last
      └────────┴─► withdrawn: its lines may be claimed again

One claim is one funder's part of one programme version up to the end of a period. Accounts follow it:
`claimed` when drafted, `receivable` or `disallowed` when audited, `settled` when paid. What is disallowed
is taken from the owner's unsettled share (or from what would have been reimbursed), never from the pool.
Refunds are lines of their own, negative, in the next claim: a claimed leg is never edited.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlmodel import Session, col, func, or_, select

from catalog.ground.clock import to_datetime, zone
from catalog.ground.errors import BadRequest, Conflict, NotFound
from marketplace.ledger.accounts import account_id, apply_now, open_account, take_control
from marketplace.ledger.chart import (
    DISALLOWED,
    FEE,
    Code,
    Rule,
    claimable,
    claimed,
    disallowed,
    owner_available,
    owner_unsettled,
    receivable,
    reimburse_due,
    settled,
)
from marketplace.ledger.operations import Entry, Post
from marketplace.vouchers.claimable import Item, refund_items, used_items
from marketplace.vouchers.four_eyes import two_persons
from marketplace.vouchers.rules import load
from marketplace.vouchers.schema import ProgrammeRules
from marketplace.vouchers.tables import (
    Application,
    Claim,
    ClaimLine,
    Grant,
    Programme,
    RefundLeg,
)

DRAFT, SUBMITTED, AUDITED, SETTLED, WITHDRAWN = (
    "draft",
    "submitted",
    "audited",
    "settled",
    "withdrawn",
)
PENDING, ALLOWED, REFUSED, CLAWED = "pending", "allowed", "disallowed", "clawed_back"
_FROM_THE_JOURNAL = frozenset({"delivery_or_metering", "usage_log"})
"""Evidence that the ledger itself gives: the metered calls behind each line."""


class Period(NamedTuple):
    """A period of calls: from `from_us` on, before `until_us`."""

    name: str
    from_us: int
    until_us: int


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
    items = _unclaimed(session, made.id, funder_id, period)
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
    session.add_all(_line(row, n, item) for n, item in enumerate(items, 1))
    session.flush()
    _move(session, row, "draft", Code.CLAIM, claimed, claimable, total_u, at_us)
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
    made = session.get_one(Programme, row.programme_id)
    _check_evidence(session, load(made.rules).rules, row, evidence)
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
        _decide(session, line, "withdrawn", "", by, at_us)
    row.state = WITHDRAWN
    session.add(row)
    _move(session, row, "withdraw", Code.CLAIM, claimable, claimed, row.total_u, at_us)
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
    drafted nor who submitted it. A refused leg takes its refunds in the same claim with it.
    """
    row = _step(session, claim_id, SUBMITTED, AUDITED)
    if row.state == AUDITED:
        return row
    two_persons(by, row.drafted_by, row.submitted_by, what="claim")
    found = {line.n: line for line in lines(session, row.id)}
    for verdict in verdicts:
        line = found.get(verdict.n)
        if line is None:
            raise NotFound(f"The claim has no line {verdict.n}.", rule="claim.line")
        if not verdict.allow and not verdict.reason.strip():
            raise BadRequest(
                f"Line {verdict.n}: a refusal says why.", rule="claim.reason", param="reason"
            )
        state = ALLOWED if verdict.allow else REFUSED
        _decide(session, line, state, verdict.reason, by, at_us)
    _follow(session, found.values(), by, at_us)
    waiting = [line for line in found.values() if line.state == PENDING]
    for line in waiting if rest else ():
        _decide(session, line, ALLOWED, "", by, at_us)
    session.flush()
    if rest or not waiting:
        _close_audit(session, row, list(found.values()), by, at_us)
    return row


def settle(session: Session, claim_id: str, bank_ref: str, by: str, at_us: int) -> Claim:
    """Book that the funder has paid what was allowed. `by` neither drafted, submitted nor audited it."""
    row = _step(session, claim_id, AUDITED, SETTLED)
    if row.state == SETTLED:
        if row.bank_ref != bank_ref:
            raise Conflict("It was settled under another bank reference.", rule="claim.once")
        return row
    two_persons(by, row.drafted_by, row.submitted_by, row.audited_by, what="claim")
    if not bank_ref.strip():
        raise BadRequest("Give the bank's reference.", rule="claim.bank_ref", param="bank_ref")
    row.state, row.bank_ref, row.settled_by, row.settled_at_us = SETTLED, bank_ref, by, at_us
    session.add(row)
    entries = _entries(session, row, Code.SETTLE, settled, receivable, row.allowed_u)
    allowed = [line for line in lines(session, row.id) if line.state == ALLOWED]
    entries += _reimburse(session, row, allowed)
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
    _check_clawback(rules, row.settled_at_us, at_us, reason)
    found = [line for line in lines(session, row.id) if line.n in set(numbers)]
    taken = [line for line in found if line.state == ALLOWED and not line.refund_id]
    if not taken:
        if found and all(line.state == CLAWED for line in found):
            return row
        raise Conflict("None of these lines was paid.", rule="claim.line")
    # What was given back of a leg since then, the funder has got already.
    taken += [
        other
        for line in taken
        for other in _of_leg(session, line)
        if other.refund_id and other.state == ALLOWED
    ]
    for line in taken:
        _decide(session, line, CLAWED, reason, by, at_us)
    total_u = sum(line.amount_u for line in taken)
    entries = _entries(session, row, Code.CLAWBACK, disallowed, settled, total_u)
    entries += _from_owners(session, rules, taken, Code.CLAWBACK, reimbursed=True)
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


def lines(
    session: Session, claim_id: str, after: int = 0, limit: int | None = None
) -> Sequence[ClaimLine]:
    """Return a claim's lines by number, those after line `after`."""
    query = select(ClaimLine).where(ClaimLine.claim_id == claim_id, col(ClaimLine.n) > after)
    return session.exec(query.order_by(col(ClaimLine.n)).limit(limit)).all()


def lines_sha256(found: Iterable[ClaimLine]) -> str:
    """Return the SHA-256 (hex) of the lines as they are claimed: what a funder signs for."""
    told = "".join(
        f"{line.n}\t{line.event_id}\t{line.leg}\t{line.refund_id}\t{line.grant_id}\t{line.amount_u}\n"
        for line in found
    )
    return hashlib.sha256(told.encode()).hexdigest()


def _unclaimed(session: Session, programme_id: str, funder_id: str, period: Period) -> list[Item]:
    """Return the funder's items without a live line. The last claim's period is looked through again."""
    last_us = session.exec(
        select(func.max(Claim.from_us)).where(
            Claim.programme_id == programme_id,
            Claim.funder_id == funder_id,
            Claim.state != WITHDRAWN,
        )
    ).one()
    # Without a claim so far everything counts; a call may be booked after the period that it ended in.
    from_us = min(int(last_us or 0), period.from_us)
    live = {
        (event_id, leg, refund_id)
        for event_id, leg, refund_id in session.exec(
            select(ClaimLine.event_id, ClaimLine.leg, ClaimLine.refund_id)
            .join(Claim, col(Claim.id) == ClaimLine.claim_id)
            .where(
                Claim.programme_id == programme_id,
                ClaimLine.funder_id == funder_id,
                ClaimLine.state != "withdrawn",
                or_(col(Claim.until_us) > from_us, ClaimLine.refund_id != ""),
            )
        )
    }
    items = [
        *used_items(session, programme_id, from_us, period.until_us),
        *refund_items(session, programme_id, period.until_us),
    ]
    return [
        item
        for item in items
        if item.funder_id == funder_id and (item.event_id, item.leg, item.refund_id) not in live
    ]


def _line(row: Claim, n: int, item: Item) -> ClaimLine:
    return ClaimLine(
        claim_id=row.id,
        n=n,
        funder_id=row.funder_id,
        event_id=item.event_id,
        leg=item.leg,
        refund_id=item.refund_id,
        grant_id=item.grant_id,
        org_id=item.org_id,
        owner_org=item.owner_org,
        amount_u=item.amount_u,
        owner_u=item.owner_u,
        state=PENDING,
    )


def _step(session: Session, claim_id: str, before: str, after: str) -> Claim:
    """Return the claim in state `before`, or `after` when the step was done already."""
    take_control(session)
    row = claim(session, claim_id)
    if row.state not in (before, after):
        raise Conflict(f"This claim is {row.state}, not {before}.", rule="claim.state")
    return row


def _decide(
    session: Session, line: ClaimLine, state: str, reason: str, by: str, at_us: int
) -> None:
    line.state, line.reason, line.decided_by, line.decided_at_us = state, reason, by, at_us
    session.add(line)


def _follow(session: Session, found: Iterable[ClaimLine], by: str, at_us: int) -> None:
    """Let refunds follow the leg that they give back: what was not paid is not paid back."""
    session.flush()
    for row in found:
        if row.refund_id and any(
            line.state in (REFUSED, CLAWED) and not line.refund_id for line in _of_leg(session, row)
        ):
            _decide(session, row, REFUSED, "follows the leg that it gives back", by, at_us)


def _of_leg(session: Session, row: ClaimLine) -> Sequence[ClaimLine]:
    """Return this funder's live lines about the same leg of the same call."""
    return session.exec(
        select(ClaimLine).where(
            ClaimLine.event_id == row.event_id,
            ClaimLine.leg == row.leg,
            ClaimLine.funder_id == row.funder_id,
            ClaimLine.state != "withdrawn",
        )
    ).all()


def _close_audit(
    session: Session, row: Claim, found: Sequence[ClaimLine], by: str, at_us: int
) -> None:
    allowed_u = sum(line.amount_u for line in found if line.state == ALLOWED)
    refused = [line for line in found if line.state == REFUSED]
    refused_u = sum(line.amount_u for line in refused)
    if allowed_u < 0:
        raise Conflict(
            "What is allowed is less than the refunds in this claim.",
            rule="claim.negative",
            remedy="Withdraw the claim: its refunds are set off in the next one.",
        )
    row.allowed_u, row.disallowed_u = allowed_u, refused_u
    row.state, row.audited_by, row.audited_at_us = AUDITED, by, at_us
    session.add(row)
    rules = load(session.get_one(Programme, row.programme_id).rules).rules
    entries = _entries(session, row, Code.ALLOW, receivable, claimed, allowed_u)
    entries += _entries(session, row, Code.DISALLOW, disallowed, claimed, refused_u)
    entries += _from_owners(session, rules, refused, Code.DISALLOW, reimbursed=False)
    apply_now(session, Post(f"claim:{row.id}:audit", tuple(entries), at_us))


def _from_owners(
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


def _reimburse(session: Session, row: Claim, found: Sequence[ClaimLine]) -> list[Entry]:
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


def _entries(
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


def _move(
    session: Session,
    row: Claim,
    step: str,
    why: Code,
    debit: object,
    credit: object,
    amount_u: int,
    at_us: int,
) -> None:
    entries = _entries(session, row, why, debit, credit, amount_u)
    apply_now(session, Post(f"claim:{row.id}:{step}", tuple(entries), at_us))


def _check_evidence(
    session: Session, rules: ProgrammeRules, row: Claim, evidence: Sequence[Mapping[str, str]]
) -> None:
    given = {item.get("kind", "") for item in evidence} | _FROM_THE_JOURNAL
    query = (
        select(Application.evidence)
        .join(Grant, col(Grant.application_id) == Application.id)
        .join(ClaimLine, col(ClaimLine.grant_id) == Grant.id)
        .where(ClaimLine.claim_id == row.id)
        .distinct()
    )
    with_applications = [{i["kind"] for i in json.loads(text)} for text in session.exec(query)]
    given |= set.intersection(*with_applications) if with_applications else set()
    missing = [kind for kind in rules.evidence if kind not in given]
    if missing:
        raise BadRequest(
            f"The claim lacks evidence: {', '.join(missing)}.",
            rule="claim.evidence",
            param="evidence",
            remedy="Attach each with its name and sha256.",
        )


def _check_clawback(rules: ProgrammeRules, settled_at_us: int, at_us: int, reason: str) -> None:
    if not reason.strip():
        raise BadRequest("A clawback says why.", rule="claim.reason", param="reason")
    months = rules.clawback.months if rules.clawback else 0
    start, now = (to_datetime(us).astimezone(zone) for us in (settled_at_us, at_us))
    passed = (now.year - start.year) * 12 + now.month - start.month - (now.day < start.day)
    if passed >= months:
        clause = rules.clawback.clause if rules.clawback else ""
        raise Conflict(
            f"Money can be asked back for {months} months after it was paid.",
            rule="clawback.months",
            details={"clause": clause},
        )
