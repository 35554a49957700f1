"""What owners have earned, added up from the journal, and when it becomes theirs.

    a day's calls ──► usage       due 7 days after the day; what waits for funders is left out
    a claim paid  ──► settled     due at once: the funder has paid
    a refund, a disallowed or clawed-back line ──► negative, due at once, set off against the next
    an adjustment by two persons ──► either way, due at once

An accrual is made once for its kind and reference, so every job here can run again. Maturing nets what is
due for an organisation and moves it from `unsettled` to `available`; a negative net waits for the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlmodel import Session, col, func, select

from catalog.ground.clock import DAY_US, HOUR_US, from_datetime, zone
from catalog.ground.ids import new_id
from marketplace.ledger.accounts import account_id, apply_now, open_account, take_control
from marketplace.ledger.chart import CLEARING, Code, Rule, owner_available, owner_unsettled
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.reading import booked_at_us, events_between, fees_of, legs_of, moved
from marketplace.ledger.tables import Account, UsageEvent
from marketplace.payouts.holds import is_held
from marketplace.payouts.tables import Accrual, AccruedDay
from marketplace.vouchers.claims import claimant_org
from marketplace.vouchers.parts import Priced, parts_of
from marketplace.vouchers.rules import load
from marketplace.vouchers.schema import ProgrammeRules
from marketplace.vouchers.tables import (
    Adjustment,
    Claim,
    ClaimLine,
    Grant,
    Programme,
    Refund,
    RefundLeg,
)

MATURITY_US = 7 * DAY_US
LATE_US = HOUR_US
"""A day is added up this long after it ended, when every call of it has been booked."""
MATURED = "mature:"
"""How the ids of maturing begin; a reimbursement is available by its claim's own."""
_PAGE = 400


class Earned(NamedTuple):
    """Micro-yuan: what calls cost, the fee in it, the rest that matures, and what waits for funders."""

    gross_u: int = 0
    fee_u: int = 0
    net_u: int = 0
    waiting_u: int = 0

    def plus(self, other: Earned) -> Earned:
        return Earned(*(a + b for a, b in zip(self, other, strict=True)))


class Terms:
    """By grant account: whether its part of a call waits until its funders have paid."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waits: dict[int, bool] = {}
        self._rules: dict[str, ProgrammeRules] = {}

    def rules(self, programme_id: str) -> ProgrammeRules:
        """Return the rules of a programme version."""
        if programme_id not in self._rules:
            made = self._session.get_one(Programme, programme_id)
            self._rules[programme_id] = load(made.rules).rules
        return self._rules[programme_id]

    def waits(self, account: int) -> bool:
        """Return whether this account's part of a call waits; wallets and free quotas do not."""
        if account not in self._waits:
            query = select(Grant.programme_id).where(Grant.account_id == account)
            programme_id = self._session.exec(query).first()
            rules = self.rules(programme_id) if programme_id else None
            self._waits[account] = waits_for_funder(rules)
        return self._waits[account]


def waits_for_funder(rules: ProgrammeRules | None) -> bool:
    """Return whether what this programme pays of a call is the owner's only once a funder has paid."""
    return (
        rules is not None
        and rules.quota is None
        and rules.mode == "instant"
        and rules.payout_on == "funder_settled"
    )


class Day(NamedTuple):
    """What one Beijing day's calls earned, by the organisation of their listing's owner."""

    earned: Mapping[str, Earned]
    calls: int


def finished_days(session: Session, at_us: int) -> dict[str, Day]:
    """Return what every finished day earned that has not been added up yet.

    It reads each call of the day, and on SQLite nobody else writes during a transaction that writes; so
    do this in a session that only reads, and hand the result to `accrue`. The calls of a day that ended
    an hour ago are all booked.
    """
    terms = Terms(session)
    days = _days(session, at_us)
    return {day: _earned(session, terms, from_us, until_us) for day, from_us, until_us in days}


def accrue(session: Session, at_us: int, added_up: Mapping[str, Day] | None = None) -> int:
    """Add up every finished day, settled claim, refund and refusal not yet accrued; returns how many rows.

    `added_up` are days that `finished_days` has read already. Running it again adds nothing.
    """
    take_control(session)
    before = _count(session)
    terms = Terms(session)
    known = added_up or {}
    for day, from_us, until_us in _days(session, at_us):
        found = known.get(day) or _earned(session, terms, from_us, until_us)
        _accrue_day(session, found, day, until_us)
    _accrue_settled(session, terms, at_us)
    _accrue_refused(session, terms, at_us)
    _accrue_clawbacks(session, terms)
    _accrue_refunds(session, terms)
    _accrue_adjustments(session, at_us)
    session.flush()
    return _count(session) - before


def mature(session: Session, at_us: int) -> dict[str, int]:
    """Move what is due from `unsettled` to `available`; returns micro-yuan by organisation.

    Organisations under review are left out, and those that owe more than they earned.
    """
    take_control(session)
    query = select(Accrual).where(Accrual.matured_tx == "", Accrual.due_at_us <= at_us)
    due: dict[str, list[Accrual]] = defaultdict(list)
    for row in session.exec(query.order_by(col(Accrual.id))):
        due[row.org_id].append(row)
    done = {}
    for org_id, rows in sorted(due.items()):
        net_u = sum(row.net_u for row in rows)
        if net_u < 0 or is_held(session, org_id):
            continue
        _mature(session, org_id, rows, net_u, at_us)
        done[org_id] = net_u
    return done


def _mature(session: Session, org_id: str, rows: Sequence[Accrual], net_u: int, at_us: int) -> None:
    tx = f"{MATURED}{rows[-1].id}"
    if net_u:
        unsettled = open_account(session, owner_unsettled(org_id), Rule.PROJECTION)
        available = open_account(session, owner_available(org_id), Rule.DEBITS_WITHIN_CREDITS)
        entry = Entry(Code.MATURE, unsettled, available, net_u)
        apply_now(session, Post(tx, (entry,), at_us))
    for row in rows:
        row.matured_tx, row.matured_at_us = tx, at_us
        session.add(row)
    session.flush()


def _count(session: Session) -> int:
    return int(session.exec(select(func.count()).select_from(Accrual)).one())


def _days(session: Session, at_us: int) -> list[tuple[str, int, int]]:
    """Return the Beijing days that have ended and were not added up: (name, start, end exclusive)."""
    last_us = session.exec(select(func.max(AccruedDay.until_us))).one()
    if last_us is None:
        first_us = session.exec(select(func.min(UsageEvent.ended_at_us))).one()
        if first_us is None:
            return []
        last_us = _midnight(datetime.fromtimestamp(first_us // 1_000_000, zone))
    found: list[tuple[str, int, int]] = []
    day = datetime.fromtimestamp(int(last_us) // 1_000_000, zone)
    while True:
        following = day + timedelta(days=1)
        end_us = _midnight(following)
        if end_us + LATE_US > at_us:
            return found
        found.append((day.date().isoformat(), _midnight(day), end_us))
        day = following


def _midnight(day: datetime) -> int:
    return from_datetime(day.replace(hour=0, minute=0, second=0, microsecond=0))


def _earned(session: Session, terms: Terms, from_us: int, until_us: int) -> Day:
    clearing = account_id(session, CLEARING)
    earned: dict[str, Earned] = defaultdict(Earned)
    page: list[UsageEvent] = []
    calls = 0

    def add_up() -> None:
        ids = [row.id for row in page]
        legs, fees = legs_of(session, ids), fees_of(session, ids)
        for row in page:
            priced = Priced(row.cost_u, fees.get(row.id, 0))
            waiting_u = waiting_net_u = 0
            for part in parts_of(row.cost_u, legs.get(row.id, []), clearing):
                if terms.waits(part.leg.account_id):
                    waiting_u += part.leg.amount
                    waiting_net_u += priced.owner_u(part.low_u, part.high_u)
            net_u = row.cost_u - priced.fee_u - waiting_net_u
            gross_u = row.cost_u - waiting_u
            one = Earned(gross_u, gross_u - net_u, net_u, waiting_net_u)
            earned[row.owner_org_id] = earned[row.owner_org_id].plus(one)

    for row in events_between(session, from_us, until_us):
        page.append(row)
        calls += 1
        if len(page) == _PAGE:
            add_up()
            page.clear()
    add_up()
    return Day(earned, calls)


def _accrue_day(session: Session, found: Day, day: str, until_us: int) -> None:
    for org_id, sums in found.earned.items():
        if not any(sums):
            continue  # a reimbursed invoice: what its provider got never came through here
        add(session, org_id, "usage", day, sums, until_us - 1, until_us + MATURITY_US)
    session.add(AccruedDay(day=day, until_us=until_us, calls=found.calls))
    session.flush()


def _accrue_settled(session: Session, terms: Terms, at_us: int) -> None:
    """Accrue the owners' share of every claim that a funder has paid, and what was paid to claimants."""
    known = select(Accrual.ref).where(col(Accrual.kind).in_(("settled", "reimbursed")))
    query = select(Claim).where(Claim.state == "settled", col(Claim.id).not_in(known))
    for claim in session.exec(query.order_by(col(Claim.id))).all():
        rules = terms.rules(claim.programme_id)
        settled_at_us = claim.settled_at_us or at_us
        if rules.mode == "reimburse":
            _accrue_reimbursed(session, claim, settled_at_us)
        elif waits_for_funder(rules):
            paid = _lines(session, claim.id, ("allowed", "clawed_back"))
            for org_id, sums in _by_org(paid, lambda line: line.owner_org).items():
                add(session, org_id, "settled", claim.id, sums, settled_at_us, at_us)


def _accrue_reimbursed(session: Session, claim: Claim, settled_at_us: int) -> None:
    """Note what claimants were credited: it is available already, so the row is born matured.

    Where refunds came to more than use, the claimant owes that: it is set off like any other refund.
    """
    tx = f"claim:{claim.id}:settle"
    credited: dict[str, int] = defaultdict(int)
    owed: dict[str, int] = defaultdict(int)
    for move in moved(session, tx):
        for account, sums in ((move.credit_id, credited), (move.debit_id, owed)):
            kind, _, rest = session.get_one(Account, account).code.partition(":")
            if move.code == Code.REIMBURSE and kind == "owner":
                sums[rest.partition(":")[0]] += move.amount
    for org_id, amount_u in credited.items():
        sums_u = Earned(amount_u, 0, amount_u, 0)
        row = add(session, org_id, "reimbursed", claim.id, sums_u, settled_at_us, settled_at_us)
        if row is not None:
            row.matured_tx, row.matured_at_us = tx, settled_at_us
            session.add(row)
    for org_id, amount_u in owed.items():
        sums_u = Earned(-amount_u, 0, -amount_u, 0)
        ref = f"{claim.id}:owed"
        add(session, org_id, "reimbursed", ref, sums_u, settled_at_us, settled_at_us)


def _accrue_refused(session: Session, terms: Terms, at_us: int) -> None:
    """Accrue, as negative, what funders refused of shares that had matured with the call."""
    query = select(Claim).where(
        col(Claim.state).in_(("audited", "settled")), col(Claim.disallowed_u) != 0
    )
    for claim in session.exec(query.order_by(col(Claim.id))).all():
        rules = terms.rules(claim.programme_id)
        if rules.mode != "instant" or waits_for_funder(rules):
            continue
        audited_us = claim.audited_at_us or at_us
        times: dict[int, list[ClaimLine]] = defaultdict(list)
        for line in _lines(session, claim.id, ("disallowed",)):
            times[max(audited_us, line.decided_at_us or 0)].append(line)
        for refused_us, refused in times.items():
            # What the payer refused after the audit is an accrual of its own.
            ref = claim.id if refused_us == audited_us else f"{claim.id}:{refused_us}"
            sums = _by_org(refused, lambda line: line.owner_org)
            _negative(session, sums, "disallowed", ref, refused_us)


def _accrue_clawbacks(session: Session, terms: Terms) -> None:
    """Accrue, as negative, what funders took back after they had paid it."""
    query = (
        select(ClaimLine, Claim.programme_id)
        .join(Claim, col(Claim.id) == ClaimLine.claim_id)
        .where(ClaimLine.state == "clawed_back")
    )
    taken: dict[tuple[str, int], list[ClaimLine]] = defaultdict(list)
    rules: dict[str, ProgrammeRules] = {}
    for line, programme_id in session.exec(query).all():
        taken[line.claim_id, line.decided_at_us or 0].append(line)
        rules[line.claim_id] = terms.rules(programme_id)
    for (claim_id, decided_at_us), lines in taken.items():
        own = rules[claim_id]

        def who(line: ClaimLine, own: ProgrammeRules = own) -> str:
            if own.mode == "instant":
                return line.owner_org
            return claimant_org(session, own, line)

        sums = _by_org(lines, who, whole=own.mode != "instant")
        _negative(session, sums, "clawback", f"{claim_id}:{decided_at_us}", decided_at_us)


def _accrue_refunds(session: Session, terms: Terms) -> None:
    """Accrue, as negative, what owners gave back of shares that do not wait for a funder."""
    known = select(Accrual.ref).where(Accrual.kind == "refund")
    query = select(Refund).where(col(Refund.id).not_in(known)).order_by(col(Refund.at_us))
    for refund in session.exec(query).all():
        legs = session.exec(select(RefundLeg).where(RefundLeg.refund_id == refund.id)).all()
        sums = Earned()
        for leg in legs:
            grant = session.get(Grant, leg.grant_id) if leg.grant_id else None
            if grant is not None and terms.waits(grant.account_id):
                continue
            sums = sums.plus(Earned(leg.covered_u, leg.covered_u - leg.owner_u, leg.owner_u))
        _negative(session, {refund.owner_org: sums}, "refund", refund.id, refund.at_us)


def _accrue_adjustments(session: Session, at_us: int) -> None:
    """Accrue what two persons have moved from or to an unsettled share, at the instant of its booking."""
    known = select(Accrual.ref).where(Accrual.kind == "adjustment")
    query = select(Adjustment).where(Adjustment.state == "booked", col(Adjustment.id).not_in(known))
    for row in session.exec(query.order_by(col(Adjustment.id))).all():
        booked_us = booked_at_us(session, f"adjust:{row.id}") or at_us
        for code, sign in ((row.from_account, -1), (row.to_account, 1)):
            kind, _, rest = code.partition(":")
            if kind == "owner":
                sums = Earned(sign * row.amount_u, 0, sign * row.amount_u, 0)
                org_id = rest.partition(":")[0]
                add(session, org_id, "adjustment", row.id, sums, booked_us, booked_us)


def _lines(session: Session, claim_id: str, states: Sequence[str]) -> Sequence[ClaimLine]:
    query = select(ClaimLine).where(ClaimLine.claim_id == claim_id)
    return session.exec(query.where(col(ClaimLine.state).in_(states))).all()


def _by_org(
    lines: Iterable[ClaimLine], who: Callable[[ClaimLine], str], *, whole: bool = False
) -> dict[str, Earned]:
    """Return the lines' owner shares (or `whole` amounts) by organisation; '' is the platform."""
    sums: dict[str, Earned] = defaultdict(Earned)
    for line in lines:
        share_u = line.amount_u if whole else line.owner_u
        one = Earned(line.amount_u, line.amount_u - share_u, share_u)
        sums[who(line)] = sums[who(line)].plus(one)
    sums.pop("", None)
    return sums


def _negative(
    session: Session, sums: Mapping[str, Earned], kind: str, ref: str, at_us: int
) -> None:
    for org_id, earned in sums.items():
        add(session, org_id, kind, ref, Earned(*(-value for value in earned)), at_us, at_us)


def add(
    session: Session, org_id: str, kind: str, ref: str, sums: Earned, at_us: int, due_at_us: int
) -> Accrual | None:
    """Add an accrual, once for its organisation, kind and reference; None when it is there."""
    known = session.exec(
        select(Accrual.id).where(Accrual.org_id == org_id, Accrual.kind == kind, Accrual.ref == ref)
    ).first()
    if known is not None:
        return None
    row = Accrual(
        id=new_id("acr"),
        org_id=org_id,
        kind=kind,
        ref=ref,
        gross_u=sums.gross_u,
        fee_u=sums.fee_u,
        net_u=sums.net_u,
        waiting_u=sums.waiting_u,
        at_us=at_us,
        due_at_us=due_at_us,
    )
    session.add(row)
    session.flush()
    return row
