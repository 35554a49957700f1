"""A programme's money: what funders appropriate, what the pools hold, and how a grant is split.

    ext:funder:F ─ FUND ─► pool:P:F ─ ISSUE ─► grant:g ─ USE ─► the call
                               ▲─────── LAPSE, VOID_GRANT ──┘

The letters of a grant (see `split`) are issued from its end and used from its beginning: a grant of A of
which T was used has cost each funder `drawn(A)` so far, of which `drawn(T)` was spent. What lapses are
the last letters, so it goes back to exactly those who backed them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlmodel import Session, col, func, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from marketplace.ledger.accounts import apply_now, open_account, take_control
from marketplace.ledger.chart import Code, Rule, funder_outside, pool
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.reading import totals
from marketplace.vouchers.backing import Epochs
from marketplace.vouchers.caps import period_key
from marketplace.vouchers.rules import load
from marketplace.vouchers.split import FunderSplit, drawn
from marketplace.vouchers.tables import Appropriation, Funder, Grant, GrantEpoch, ProgrammeFunder
from marketplace.vouchers.tables import Programme as ProgrammeRow

PLATFORM = "platform"
"""The funder that covers what another cannot, and that gives free quotas."""


def funder(session: Session, code: str, level: str = "") -> Funder:
    """Return the funder called `code`; with a `level` it is added when there is none."""
    found = session.exec(select(Funder).where(Funder.code == code)).first()
    if found is None and not level:
        raise NotFound(f"There is no funder {code!r}.", rule="funder.exists")
    if found is None:
        found = Funder(id=new_id("fnd"), code=code, name_zh=code, name_en=code, level=level)
        session.add(found)
        session.flush()
    return found


def funders_of(session: Session, programme_id: str) -> Sequence[ProgrammeFunder]:
    """Return who funds a programme, in the order of its rules; a covering platform stands last."""
    query = select(ProgrammeFunder).where(ProgrammeFunder.programme_id == programme_id)
    return session.exec(query.order_by(col(ProgrammeFunder.position))).all()


def add_funder(
    session: Session, programme_id: str, position: int, funder_id: str, share_bp: int
) -> ProgrammeFunder:
    """Open a funder's pool in a programme."""
    account = open_account(session, pool(programme_id, funder_id), Rule.DEBITS_WITHIN_CREDITS)
    made = ProgrammeFunder(
        programme_id=programme_id,
        position=position,
        funder_id=funder_id,
        share_bp=share_bp,
        pool_account_id=account,
    )
    session.add(made)
    session.flush()
    return made


def covering(session: Session, programme_id: str) -> ProgrammeFunder:
    """Return the platform's place among the funders, opened when another funder ran out."""
    parts = funders_of(session, programme_id)
    platform = funder(session, PLATFORM, PLATFORM)
    found = next((part for part in parts if part.funder_id == platform.id), None)
    return found or add_funder(session, programme_id, len(parts), platform.id, 0)


def pools_u(session: Session, parts: Sequence[ProgrammeFunder]) -> dict[str, int]:
    """Return what each funder has left to issue, micro-yuan by funder id."""
    held = totals(session, [part.pool_account_id for part in parts])
    return {part.funder_id: held[part.pool_account_id].available for part in parts}


def epochs_of(session: Session, grant: Grant) -> Epochs:
    """Return the epochs of a grant's split, by funder id."""
    query = select(GrantEpoch).where(GrantEpoch.grant_id == grant.id)
    rows = session.exec(query.order_by(col(GrantEpoch.start_u))).all()
    if rows:
        return [(row.start_u, tuple((f, bp) for f, bp in json.loads(row.shares))) for row in rows]
    return programme_epochs(session, grant.programme_id)


def programme_epochs(session: Session, programme_id: str) -> Epochs:
    """Return the split of a grant that no funder's exhaustion has changed."""
    parts = funders_of(session, programme_id)
    return [(0, tuple((part.funder_id, part.share_bp) for part in parts if part.share_bp))]


def keep_epochs(session: Session, grant: Grant, epochs: Epochs) -> None:
    """Store a split that differs from the programme's own. Epochs that are there are not changed."""
    known = set(
        session.exec(select(GrantEpoch.start_u).where(GrantEpoch.grant_id == grant.id)).all()
    )
    for start_u, shares in epochs:
        if start_u not in known:
            text = json.dumps(list(shares))
            session.add(GrantEpoch(grant_id=grant.id, start_u=start_u, shares=text))
    session.flush()


def split_of(session: Session, grant: Grant) -> FunderSplit:
    """Return how the grant's letters belong to funders (ids)."""
    return FunderSplit(epochs_of(session, grant))


def fund(
    session: Session,
    tx: str,
    programme_id: str,
    amount_u: int,
    at_us: int,
    *,
    by: str = "system",
    document: str = "",
) -> None:
    """Book what the funders appropriate together: `amount_u` split by their shares, exactly."""
    parts = funders_of(session, programme_id)
    amounts = drawn(tuple(part.share_bp for part in parts), amount_u)
    shares = {part.funder_id: amount for part, amount in zip(parts, amounts, strict=True) if amount}
    appropriate(session, tx, programme_id, shares, at_us, by=by, document=document)


def appropriate(
    session: Session,
    tx: str,
    programme_id: str,
    amounts_u: Mapping[str, int],
    at_us: int,
    *,
    by: str,
    document: str = "",
) -> None:
    """Book appropriations, micro-yuan by funder id, under the client's id `tx`; once.

    Raises `Conflict` when a budget of the programme or of a funder would be exceeded, naming its clause.
    """
    take_control(session)
    made = session.get_one(ProgrammeRow, programme_id)
    places = {part.funder_id: part for part in funders_of(session, programme_id)}
    entries = []
    for funder_id, amount_u in amounts_u.items():
        if funder_id not in places or amount_u <= 0:
            raise BadRequest(
                "Name a funder of this programme and an amount above 0.", rule="fund.amount"
            )
        if session.get(Appropriation, f"{tx}:{funder_id}") is not None:
            return
    _check_budget(session, made, amounts_u, at_us)
    for funder_id, amount_u in amounts_u.items():
        outside = open_account(session, funder_outside(funder_id), Rule.PROJECTION)
        entries.append(Entry(Code.FUND, outside, places[funder_id].pool_account_id, amount_u))
        row = Appropriation(
            id=f"{tx}:{funder_id}",
            programme_id=programme_id,
            funder_id=funder_id,
            amount_u=amount_u,
            document=document,
            by=by,
            at_us=at_us,
        )
        session.add(row)
    apply_now(session, Post(tx, tuple(entries), at_us))


def _check_budget(
    session: Session, made: ProgrammeRow, amounts_u: Mapping[str, int], at_us: int
) -> None:
    rules = load(made.rules).rules
    period = period_key(rules.budget.period, at_us)
    so_far: dict[str, int] = {}
    rows = session.exec(
        select(Appropriation)
        .join(ProgrammeRow, col(ProgrammeRow.id) == Appropriation.programme_id)
        .where(ProgrammeRow.code == made.code)
    )
    for row in rows:
        if period_key(rules.budget.period, row.at_us) == period:
            so_far[row.funder_id] = so_far.get(row.funder_id, 0) + row.amount_u
    limits = {part.funder: part.budget_u for part in rules.funders if part.budget_u is not None}
    for funder_id, amount_u in amounts_u.items():
        code = session.get_one(Funder, funder_id).code
        after_u = so_far.get(funder_id, 0) + amount_u
        if code in limits and after_u > limits[code]:
            raise _over(f"the budget of {code}", limits[code], after_u, rules.budget.clause)
    total_u = sum(so_far.values()) + sum(amounts_u.values())
    if rules.budget.total_u is not None and total_u > rules.budget.total_u:
        raise _over(
            f"the budget of {made.code}", rules.budget.total_u, total_u, rules.budget.clause
        )


def _over(what: str, limit_u: int, after_u: int, clause: str) -> Conflict:
    return Conflict(
        f"This would appropriate {after_u} micro-yuan where {what} is {limit_u}.",
        rule="programme.budget",
        remedy="Appropriate less, or publish a version with a larger budget.",
        details={"limit_u": limit_u, "would_be_u": after_u, "clause": clause},
    )


def appropriated_u(session: Session, programme_id: str) -> dict[str, int]:
    """Return what each funder (id) has appropriated to one programme version, micro-yuan."""
    rows = session.exec(
        select(Appropriation.funder_id, func.sum(Appropriation.amount_u))
        .where(Appropriation.programme_id == programme_id)
        .group_by(Appropriation.funder_id)
    )
    return {funder_id: int(amount) for funder_id, amount in rows}
