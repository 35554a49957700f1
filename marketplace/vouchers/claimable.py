"""What a funder owes for: its exact part of every leg, derived from the journal and never stored before.

A leg's letters lie between what had been used of the grant before and after it. Both follow from the
debit total that the journal keeps with the posting, less the grant's shifts. So the parts of all legs and
refunds of a grant follow each other without gap or overlap, and each funder's sum is `drawn(T)`: within
one micro-yuan of its share, whatever period or claim it falls into.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlmodel import Session, col, select

from marketplace.ledger.accounts import account_id
from marketplace.ledger.chart import CLEARING
from marketplace.ledger.reading import Paid, events_of, fees_of, legs_of
from marketplace.ledger.tables import UsageEvent
from marketplace.vouchers.parts import Priced, parts_of, pieces
from marketplace.vouchers.pools import programme_epochs
from marketplace.vouchers.returning import used_before
from marketplace.vouchers.split import FunderSplit, Shares
from marketplace.vouchers.tables import Grant, GrantEpoch, GrantShift, Refund, RefundLeg

_PAGE = 400


class Item(NamedTuple):
    """One funder's part of one leg, or of what was given back of it (then negative)."""

    funder_id: str
    event_id: str
    leg: int
    refund_id: str
    grant_id: str
    org_id: str
    owner_org: str
    amount_u: int
    owner_u: int
    at_us: int


class Books(NamedTuple):
    """What is needed of a grant to say whose its letters are."""

    grant: Grant
    split: FunderSplit
    shifts: Sequence[GrantShift]


def books_of(session: Session, programme_id: str) -> dict[int, Books]:
    """Return a programme version's grants by their account."""
    grants = session.exec(select(Grant).where(Grant.programme_id == programme_id)).all()
    own = Grant.programme_id == programme_id
    epochs: dict[str, list[tuple[int, Shares]]] = {}
    for row in session.exec(
        select(GrantEpoch)
        .join(Grant, col(Grant.id) == GrantEpoch.grant_id)
        .where(own)
        .order_by(col(GrantEpoch.start_u))
    ):
        shares = tuple((funder_id, bp) for funder_id, bp in json.loads(row.shares))
        epochs.setdefault(row.grant_id, []).append((row.start_u, shares))
    shifts: dict[str, list[GrantShift]] = {}
    for shift in session.exec(
        select(GrantShift)
        .join(Grant, col(Grant.id) == GrantShift.grant_id)
        .where(own)
        .order_by(col(GrantShift.n))
    ):
        shifts.setdefault(shift.grant_id, []).append(shift)
    usual = FunderSplit(programme_epochs(session, programme_id))
    return {
        grant.account_id: Books(
            grant,
            FunderSplit(epochs[grant.id]) if grant.id in epochs else usual,
            shifts.get(grant.id, []),
        )
        for grant in grants
    }


def used_items(session: Session, programme_id: str, from_us: int, until_us: int) -> Iterator[Item]:
    """Yield every funder's part of every leg of calls that ended from `from_us` on, before `until_us`."""
    books = books_of(session, programme_id)
    clearing = account_id(session, CLEARING)
    orgs = {book.grant.org_id for book in books.values()}
    page: list[UsageEvent] = []
    for event in events_of(session, orgs, from_us, until_us):
        page.append(event)
        if len(page) == _PAGE:
            yield from _items(session, page, books, clearing)
            page = []
    yield from _items(session, page, books, clearing)


def _items(
    session: Session, events: Sequence[UsageEvent], books: Mapping[int, Books], clearing: int
) -> Iterator[Item]:
    ids = [event.id for event in events]
    legs, fees = legs_of(session, ids), fees_of(session, ids)
    for event in events:
        of_event = legs.get(event.id, [])
        priced = Priced(event.cost_u, fees.get(event.id, 0))
        places = {p.leg.leg: p.low_u for p in parts_of(event.cost_u, of_event, clearing)}
        for leg in of_event:
            book = books.get(leg.account_id)
            if book is not None:
                yield from leg_items(event, leg, book, priced, places.get(leg.leg))


def leg_items(
    event: UsageEvent, leg: Paid, book: Books, priced: Priced, low_u: int | None
) -> Iterator[Item]:
    """Yield the funders' parts of one leg. `low_u` is its place in the cost, None if reimbursed later."""
    before = used_before(book.shifts, leg.debit_total - leg.amount)
    amounts = book.split.between(before, before + leg.amount)
    places = pieces(low_u or 0, amounts)
    for funder_id, amount_u, (low, high) in zip(book.split.funders, amounts, places, strict=True):
        if amount_u:
            owner_u = 0 if low_u is None else priced.owner_u(low, high)
            yield Item(
                funder_id,
                event.id,
                leg.leg,
                "",
                book.grant.id,
                event.org_id,
                event.owner_org_id,
                amount_u,
                owner_u,
                event.ended_at_us,
            )


def refund_items(session: Session, programme_id: str, until_us: int) -> Iterator[Item]:
    """Yield every funder's part of what was refunded before `until_us`, as negative items."""
    books = {book.grant.id: book for book in books_of(session, programme_id).values()}
    query = (
        select(RefundLeg, Refund)
        .join(Refund, col(Refund.id) == RefundLeg.refund_id)
        .join(Grant, col(Grant.id) == RefundLeg.grant_id)
        .where(Grant.programme_id == programme_id, Refund.at_us < until_us)
        .order_by(col(Refund.at_us), col(Refund.id), col(RefundLeg.leg))
    )
    for row, refund in session.exec(query).all():
        book = books[row.grant_id]
        priced, low_u = _priced(session, refund, row)
        amounts = book.split.between(row.from_total - row.amount_u, row.from_total)
        places = pieces(low_u, amounts)
        for funder_id, amount_u, place in zip(book.split.funders, amounts, places, strict=True):
            if amount_u:
                owner_u = priced.owner_u(*place) if row.covered_u else 0
                yield Item(
                    funder_id,
                    refund.event_id,
                    row.leg,
                    refund.id,
                    row.grant_id,
                    book.grant.org_id,
                    refund.owner_org,
                    -amount_u,
                    -owner_u,
                    refund.at_us,
                )


def _priced(session: Session, refund: Refund, row: RefundLeg) -> tuple[Priced, int]:
    """Return how the refunded call divides between owner and fee, and where the leg lies in it.

    Once the call is archived the refund's own sums tell: of what it gave back, so much was the owner's.
    """
    event = session.get(UsageEvent, refund.event_id)
    if event is None:
        return Priced(row.covered_u, row.covered_u - row.owner_u), 0
    return Priced(event.cost_u, fees_of(session, [event.id]).get(event.id, 0)), row.low_u
