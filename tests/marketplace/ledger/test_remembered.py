"""What a writer on SQLite remembers from one transaction to the next: nothing that may have changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.ledger_world import T0, TTL, World

from catalog.ground.database import Database
from catalog.ground.errors import Conflict, LedgerCorrupt, PaymentRequired
from marketplace.ledger import dialect_sqlite
from marketplace.ledger.operations import Done, Held
from marketplace.ledger.workload import LANE, Books, hold, prepare, settle
from marketplace.ledger.writer import LedgerWriter


@pytest.fixture
def other(world: World) -> Iterator[World]:
    """Another writer of the same ledger, with a connection and a lane of its own."""
    other = World(world.database)
    yield other
    other.close()


def test_what_others_spend_is_seen(world: World, other: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("mine", (wallet, 40)))
    other.do(other.hold("theirs", (wallet, 50)))
    with pytest.raises(PaymentRequired):
        world.do(world.hold("too much", (wallet, 11)))
    world.do(world.hold("what is left", (wallet, 10)))
    other.do(other.release("theirs"))
    world.do(world.hold("what came back", (wallet, 50)))
    with pytest.raises(PaymentRequired):
        other.do(other.hold("one more", (wallet, 1)))
    assert world.totals(wallet) == (100, 0, 100)
    assert world.problems() == []


def test_an_account_that_is_opened_later_is_found(world: World, other: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.post("p", wallet, world.bank, 1))
    grant = other.account("grant:g", 30)
    world.do(world.hold("c1", (grant, 10), (wallet, 5)))
    assert world.totals(grant) == (10, 0, 30)


def test_of_several_holds_those_that_others_ended_are_told_apart(
    world: World, other: World
) -> None:
    wallet = world.account("wallet:a", 100)
    world.apply(*(world.hold(f"c{n}", (wallet, 10)) for n in range(4)))
    other.do(other.release("c1", expired=True))
    settled = world.apply(
        *(world.settle(f"c{n}", [7], wallet=7, voucher=0) for n in range(3)), world.release("c3")
    )
    assert [settled[0], *settled[2:]] == [Done(changed=True)] * 3
    assert isinstance(settled[1], Conflict)
    assert world.totals(wallet) == (0, 14, 100)
    assert world.problems() == []


def test_a_hold_that_somebody_else_ended_is_not_settled(world: World, other: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c0", (wallet, 10)))
    other.do(other.release("c0", expired=True))
    with pytest.raises(Conflict):
        world.do(world.settle("c0", [7], wallet=7, voucher=0))
    assert world.do(world.release("c0")) == Done(changed=False)
    assert world.problems() == []


def test_what_was_rolled_back_is_forgotten(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c0", (wallet, 10)))
    with pytest.raises(LedgerCorrupt):
        world.apply(world.hold("never", (wallet, 90)), world.settle("c0", [11], cost=11))
    with pytest.raises(Conflict):
        world.do(world.settle("never", [1], wallet=1, voucher=0))
    assert isinstance(world.do(world.hold("c1", (wallet, 90))), Held)
    world.do(world.settle("c0", [10], wallet=10, voucher=0))
    world.do(world.settle("c1", [90], wallet=90, voucher=0))
    assert world.totals(wallet) == (0, 100, 100)
    assert world.problems() == []


def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect_sqlite, "_MOST_KEPT", 3)
    wallets = [world.account(f"wallet:{n}", 100) for n in range(8)]
    for again in range(3):
        for n, wallet in enumerate(wallets):
            world.do(world.hold(f"c{n}-{again}", (wallet, 10)))
    for again in range(3):
        for n in range(8):
            world.do(world.settle(f"c{n}-{again}", [10], wallet=10, voucher=0, org=str(n)))
    assert [world.totals(wallet) for wallet in wallets] == [(0, 30, 100)] * 8
    assert world.problems() == []


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 32, 33, 100])
def test_any_number_of_rows_is_written(world: World, count: int) -> None:
    wallet = world.account("wallet:a", 1_000)
    held = world.apply(*(world.hold(f"c{n}", (wallet, 2)) for n in range(count)))
    assert [type(outcome) for outcome in held] == [Held] * count
    ended = world.apply(*(world.settle(f"c{n}", [1], wallet=1, voucher=0) for n in range(count)))
    assert ended == [Done(changed=True)] * count
    assert world.totals(wallet) == (0, count, 1_000)
    assert world.problems() == []


def test_a_writer_alone_reads_nothing_twice(sqlite_url: str) -> None:
    """The gain itself, counted: from the second transaction on nothing of the ledger is read."""
    database = Database(sqlite_url)
    prepare(database)
    books = Books(database)
    writer = LedgerWriter(database.raw_connection, LANE)
    said: list[str] = []
    for number in range(3):
        writer.submit(hold(books, f"gen_{number}", 1, 3, T0))
        writer.submit(settle(books, f"gen_{number}", 1, 3, T0 + TTL))
        if number == 1:
            dialect = writer._dialect
            assert isinstance(dialect, dialect_sqlite.SqliteDialect)
            dialect._connection.set_trace_callback(said.append)
    writer.close()
    kinds = [statement.split(" (")[0].split("=")[0].strip() for statement in said]
    assert [kind for kind in kinds if kind.startswith("SELECT")] == []
    assert kinds.count("PRAGMA data_version") == 2
    assert len(kinds) <= 24
    connection = database.raw_connection()
    assert connection.execute("SELECT tx FROM ledger_hold").fetchall() == []
    connection.close()
    database.dispose()
