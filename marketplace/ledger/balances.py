"""Every account's totals from the journal, and the journal itself as flat rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, text

from catalog.ground.clock import to_iso
from catalog.ground.database import Database
from catalog.ground.units import MAX_U
from marketplace.ledger.chart import Code, Kind
from marketplace.ledger.groups import Row, archived_through, stream
from marketplace.ledger.replay import account_rows
from marketplace.ledger.verify import ACCOUNTS, snapshot


class Balance(NamedTuple):
    """An account's posted debits and credits, what it has promised, and credits less debits; in `unit`."""

    account: str
    unit: str
    debits: int
    credits: int
    promised: int
    balance: int


EXPORTED = (
    "at", "lane", "seq", "tx", "leg", "kind", "code", "debit", "credit", "amount", "unit",
)  # fmt: skip
"""The columns of `export`."""


def trial_balance(database: Database) -> list[Balance]:
    """Return every account that was ever touched, by name. Per unit, debits equal credits."""
    with snapshot(database) as connection:
        accounts = account_rows(connection.execute(text(ACCOUNTS)))
        debits, credits = (_sums(connection, side) for side in ("debit", "credit"))
    touched = [
        a for a in accounts.values() if a.dr_pending or debits.get(a.id) or credits.get(a.id)
    ]
    return [
        Balance(
            a.code,
            a.unit,
            debits.get(a.id, 0),
            credits.get(a.id, 0),
            a.dr_pending,
            credits.get(a.id, 0) - debits.get(a.id, 0),
        )
        for a in sorted(touched, key=lambda account: account.code)
    ]


def _sums(connection: Connection, side: str) -> dict[int, int]:
    """Return posted totals by account: archived ones by their roll-up, the others row by row."""
    sums: dict[int, int] = {}
    through = {lane: seq for lane, (_, seq, _) in archived_through(connection).items()}
    waiting = " ".join(f"AND NOT (lane = {lane} AND seq <= {seq})" for lane, seq in through.items())
    for account, amount in stream(
        connection,
        f"SELECT account_id, sum({side}s) FROM ledger_rollup GROUP BY account_id",
    ):
        sums[account] = int(amount)
    for account, amount in stream(
        connection,
        f"SELECT {side}_id, sum(amount) FROM ledger_transfer "
        f"WHERE kind IN ({int(Kind.POSTED)}, {int(Kind.POST)}) {waiting} GROUP BY {side}_id",
    ):
        sums[account] = sums.get(account, 0) + int(amount)
    return sums


def export(database: Database, from_us: int = 0, to_us: int = MAX_U) -> Iterator[Row]:
    """Yield the journal's transfers of a period, in `EXPORTED` columns, from one snapshot."""
    with snapshot(database) as connection:
        names = {a.id: a for a in account_rows(connection.execute(text(ACCOUNTS))).values()}
        for lane, seq, tx, leg, kind, code, debit, credit, amount, at_us in stream(
            connection,
            "SELECT lane, seq, tx, leg, kind, code, debit_id, credit_id, amount, at_us "
            f"FROM ledger_transfer WHERE at_us >= {int(from_us)} AND at_us < {int(to_us)} "
            "ORDER BY lane, seq",
        ):
            yield (
                to_iso(at_us), lane, seq, tx, leg, Kind(kind).name, Code(code).name,
                names[debit].code, names[credit].code, amount, names[debit].unit,
            )  # fmt: skip
