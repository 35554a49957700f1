"""Read the journal for those who explain, claim and pay out. Nothing here writes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlmodel import Session, and_, col, func, or_, select

from catalog.ground.errors import NotFound
from marketplace.ledger.chart import Code, Kind
from marketplace.ledger.holds import event_of, names_of
from marketplace.ledger.tables import Account, ArchivedLane, Rollup, Transfer, UsageEvent

Item = TypeVar("Item")
_CHUNK = 200
_PAYS = or_(
    col(Transfer.kind) == int(Kind.POST),
    and_(col(Transfer.kind) == int(Kind.POSTED), col(Transfer.code) == int(Code.USE)),
)
"""What an account paid of a call: from the call's own hold, or at once where it had none."""


class Paid(NamedTuple):
    """One posted leg of a call: `debit_total` is the payer's posted debits after it."""

    event_id: str
    leg: int
    account_id: int
    sink_id: int
    amount: int
    debit_total: int
    at_us: int


class Moved(NamedTuple):
    """One posted movement."""

    tx: str
    leg: int
    code: int
    debit_id: int
    credit_id: int
    amount: int
    debit_total: int | None


class Totals(NamedTuple):
    """The balances of a bounded account."""

    dr_pending: int
    dr_posted: int
    cr_posted: int

    @property
    def available(self) -> int:
        """What the account may still promise."""
        return self.cr_posted - self.dr_posted - self.dr_pending


def event(session: Session, event_id: str) -> UsageEvent:
    """Return a metered call; `NotFound` otherwise."""
    found = session.get(UsageEvent, event_id)
    if found is None:
        raise NotFound(f"There is no call {event_id!r} on record.", rule="usage.exists")
    return found


def events_of(
    session: Session, org_ids: Collection[str], from_us: int, until_us: int
) -> Iterator[UsageEvent]:
    """Yield the organisations' calls that ended from `from_us` on, before `until_us`, by organisation."""
    for org_id in sorted(org_ids):
        query = select(UsageEvent).where(UsageEvent.org_id == org_id)
        yield from _between(session, query, from_us, until_us)


def events_between(session: Session, from_us: int, until_us: int) -> Iterator[UsageEvent]:
    """Yield every call that ended from `from_us` on, before `until_us`, oldest first."""
    yield from _between(session, select(UsageEvent), from_us, until_us)


def _between(session: Session, query: Any, from_us: int, until_us: int) -> Iterator[UsageEvent]:
    ended = col(UsageEvent.ended_at_us)
    query = query.where(ended >= from_us, ended < until_us).order_by(ended, col(UsageEvent.id))
    yield from session.exec(query.execution_options(yield_per=_CHUNK))


def legs_of(session: Session, event_ids: Iterable[str]) -> dict[str, list[Paid]]:
    """Return who paid each call, in draw order; legs that paid nothing are left out."""
    found: dict[str, list[Paid]] = {}
    for chunk in _chunks(event_ids):
        txs = [name for event_id in chunk for name in names_of(event_id)]
        query = select(Transfer).where(col(Transfer.tx).in_(txs), _PAYS)
        for row in session.exec(query.order_by(col(Transfer.tx), col(Transfer.leg))):
            event_id = event_of(row.tx)
            if row.amount:
                legs = found.setdefault(event_id, [])
                total = row.debit_total or 0
                legs.append(
                    Paid(
                        event_id,
                        row.leg,
                        row.debit_id,
                        row.credit_id,
                        row.amount,
                        total,
                        row.at_us,
                    )
                )
    return found


def fees_of(session: Session, event_ids: Iterable[str]) -> dict[str, int]:
    """Return the platform's fee that was booked with each call, micro-yuan; absent means none."""
    found: dict[str, int] = {}
    for chunk in _chunks(event_ids):
        txs = [name for event_id in chunk for name in names_of(event_id)]
        query = select(Transfer.tx, Transfer.amount).where(
            col(Transfer.tx).in_(txs),
            Transfer.kind == int(Kind.POSTED),
            Transfer.code == int(Code.FEE),
        )
        for tx, amount in session.exec(query):
            event_id = event_of(tx)
            found[event_id] = found.get(event_id, 0) + amount
    return found


def moved(session: Session, tx: str) -> list[Moved]:
    """Return the one-phase movements booked under an id, in order."""
    query = select(Transfer).where(Transfer.tx == tx, Transfer.kind == int(Kind.POSTED))
    return [
        Moved(r.tx, r.leg, r.code, r.debit_id, r.credit_id, r.amount, r.debit_total)
        for r in session.exec(query.order_by(col(Transfer.leg)))
    ]


def booked_at_us(session: Session, tx: str) -> int | None:
    """Return when an id was booked; None when it was not, or when its row has been archived."""
    return session.exec(select(func.min(Transfer.at_us)).where(Transfer.tx == tx)).one()


def totals(session: Session, account_ids: Collection[int]) -> dict[int, Totals]:
    """Return the balances of bounded accounts, by id."""
    found: dict[int, Totals] = {}
    columns = (col(Account.id), Account.dr_pending, Account.dr_posted, Account.cr_posted)
    for chunk in _chunks(account_ids):
        query = select(*columns).where(col(Account.id).in_(chunk))
        for account_id, pending, debits, credits in session.exec(query):
            found[int(account_id or 0)] = Totals(pending, debits, credits)
    return found


def journal_balance_u(session: Session, code: str, before_us: int | None = None) -> int:
    """Return credits less debits of any account, of what was booked before the instant (default: of all).

    Summed over the journal and the totals that archives have left, so the instant is not an archived one.
    """
    found = session.exec(select(Account.id).where(Account.code == code)).first()
    if found is None:
        return 0
    # Rows that wait to be pruned are in the totals already.
    archived = select(ArchivedLane.lane).where(
        ArchivedLane.lane == Transfer.lane, ArchivedLane.last_seq >= Transfer.seq
    )
    posted = col(Transfer.kind).in_((int(Kind.POSTED), int(Kind.POST)))
    counted = [posted, ~archived.exists()]
    if before_us is not None:
        counted.append(col(Transfer.at_us) < before_us)
    amount = func.coalesce(func.sum(Transfer.amount), 0)
    credits = session.exec(select(amount).where(*counted, Transfer.credit_id == found)).one()
    debits = session.exec(select(amount).where(*counted, Transfer.debit_id == found)).one()
    kept = func.coalesce(func.sum(Rollup.credits - Rollup.debits), 0)
    before = session.exec(select(kept).where(Rollup.account_id == found)).one()
    return int(before) + int(credits) - int(debits)


def _chunks(items: Iterable[Item]) -> Iterator[Sequence[Item]]:
    source = iter(items)
    while chunk := list(islice(source, _CHUNK)):
        yield chunk
