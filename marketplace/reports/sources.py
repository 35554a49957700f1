"""What the reports read in common: months, flows through an account, funders' parts, chain heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlmodel import Session, col, func, select

from catalog.ground.clock import zone
from catalog.ground.errors import Conflict
from marketplace.ledger.accounts import account_id
from marketplace.ledger.chart import CLEARING, CNY, Code, Kind
from marketplace.ledger.reading import fees_of, legs_of
from marketplace.ledger.tables import Account, Archive, Lane, Transfer, UsageEvent
from marketplace.vouchers.claimable import Books as GrantBooks
from marketplace.vouchers.claimable import Item, books_of, leg_items
from marketplace.vouchers.parts import Priced, parts_of
from marketplace.vouchers.periods import Period, month
from marketplace.vouchers.tables import Funder, Grant, Programme

_POSTED = (int(Kind.POSTED), int(Kind.POST))


def refuse_archived(session: Session, period: Period) -> None:
    """Raise `Conflict` when some of the period is archived: what is left of it would be told for all."""
    until_us = session.exec(select(func.max(Archive.before_us))).one()
    if (until_us or 0) > period.from_us:
        raise archived(period.name)


def archived(what: str) -> Conflict:
    """Return the refusal to report on calls that are not in the database any more."""
    return Conflict(
        f"{what} has been archived: its calls are in the archive's file.",
        rule="report.archived",
        remedy="Take the report that was made before.",
    )


def day_of(at_us: int) -> str:
    """Return the Beijing day of an instant."""
    return datetime.fromtimestamp(at_us // 1_000_000, zone).date().isoformat()


class Flows(NamedTuple):
    """What went into an account and out of it, micro-yuan by code of the movement."""

    into: dict[Code, int]
    out: dict[Code, int]

    @property
    def net_u(self) -> int:
        """Credits less debits."""
        return sum(self.into.values()) - sum(self.out.values())


def flows(session: Session, code: str, from_us: int, until_us: int) -> Flows:
    """Return an account's posted movements from `from_us` on, before `until_us`, from the journal."""
    account = session.exec(select(Account.id).where(Account.code == code)).first()
    found = Flows({}, {})
    for side, column in ((found.into, Transfer.credit_id), (found.out, Transfer.debit_id)):
        query = (
            select(Transfer.code, func.sum(Transfer.amount))
            .where(column == account, col(Transfer.kind).in_(_POSTED))
            .where(Transfer.at_us >= from_us, Transfer.at_us < until_us)
            .group_by(col(Transfer.code))
        )
        for why, amount in session.exec(query):
            if amount:
                side[Code(why)] = int(amount)
    return found


class FunderPart(NamedTuple):
    """One funder's part of one leg; `now` is false for what is only paid back later (事后奖补)."""

    item: Item
    now: bool


def funder_parts(session: Session, events: Sequence[UsageEvent]) -> list[FunderPart]:
    """Return every funder's part of every voucher leg of these calls, exactly as claims have them."""
    books = _books(session, {event.org_id for event in events})
    clearing = account_id(session, CLEARING)
    ids = [event.id for event in events]
    legs, fees = legs_of(session, ids), fees_of(session, ids)
    found: list[FunderPart] = []
    for event in events:
        of_event = legs.get(event.id, [])
        priced = Priced(event.cost_u, fees.get(event.id, 0))
        places = {p.leg.leg: p.low_u for p in parts_of(event.cost_u, of_event, clearing)}
        for leg in of_event:
            book = books.get(leg.account_id)
            if book is not None:
                low_u = places.get(leg.leg)
                parts = leg_items(event, leg, book, priced, low_u)
                found += [FunderPart(item, low_u is not None) for item in parts]
    return found


def _books(session: Session, org_ids: Iterable[str]) -> dict[int, GrantBooks]:
    query = select(Grant.programme_id).where(
        col(Grant.org_id).in_(list(org_ids)), Grant.unit == CNY
    )
    found: dict[int, GrantBooks] = {}
    for programme_id in session.exec(query.distinct()):
        found |= books_of(session, programme_id)
    return {account: book for account, book in found.items() if book.grant.unit == CNY}


class Names:
    """Names by id, looked up once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._funders: dict[str, Funder] = {}
        self._programmes: dict[str, Programme] = {}

    def funder(self, funder_id: str) -> Funder:
        if funder_id not in self._funders:
            self._funders[funder_id] = self._session.get_one(Funder, funder_id)
        return self._funders[funder_id]

    def programme(self, grant_id: str) -> str:
        """Return `code@version` of a grant's programme."""
        if grant_id not in self._programmes:
            grant = self._session.get_one(Grant, grant_id)
            made = self._session.get_one(Programme, grant.programme_id)
            self._programmes[grant_id] = made
        found = self._programmes[grant_id]
        return f"{found.code}@{found.version}"


def heads(session: Session) -> dict[str, str]:
    """Return the head of each lane's hash chain, as `name: last row, head`."""
    lanes = session.exec(select(Lane).order_by(col(Lane.id))).all()
    return {lane.name: f"{lane.next_seq - 1} {lane.head}" for lane in lanes}


__all__ = [
    "Flows",
    "FunderPart",
    "Names",
    "Period",
    "day_of",
    "flows",
    "funder_parts",
    "heads",
    "month",
]
