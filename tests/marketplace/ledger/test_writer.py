"""The writer: one transaction for all who wait, and what happens when the database does not answer."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.ledger_lost import lose_an_answer
from support.ledger_world import T0, TTL, World, usage

from catalog.ground.database import Database
from catalog.ground.driver import connect
from catalog.ground.errors import (
    Conflict,
    InternalError,
    LedgerCorrupt,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from marketplace.ledger import writer as writer_module
from marketplace.ledger.company import Company
from marketplace.ledger.dialect import USAGE_COLUMNS
from marketplace.ledger.operations import Available, Done, Entry, Held, Hold, Leg, Post, Settle
from marketplace.ledger.tables import UsageEvent
from marketplace.ledger.writer import LedgerWriter


@pytest.fixture
def writer(world: World) -> Iterator[LedgerWriter]:
    writer = LedgerWriter(world.database.raw_connection, "writer")
    yield writer
    writer.close()


def _batches(world: World) -> int:
    with world.database.reading() as session:
        return int(
            session.connection().execute(text("SELECT count(*) FROM ledger_batch")).scalar_one()
        )


def test_whoever_only_books_loads_no_orm() -> None:
    """A gateway's worker stays small: the writer and all it needs come without SQLAlchemy."""
    modules = [
        f"marketplace.ledger.{n}" for n in ("writer", "journal", "dialect", "operations", "chart")
    ]
    code = (
        f"import sys, {', '.join(modules)}, catalog.ground.driver\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'sqlalchemy', 'sqlmodel', 'pydantic', 'alembic'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_usage_columns_are_those_of_the_table() -> None:
    table: Any = UsageEvent.__table__  # type: ignore[attr-defined]
    assert [c.name for c in table.columns if c.name not in ("lane", "seq")] == USAGE_COLUMNS


def test_an_empty_database_is_told_apart_from_a_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    connection = connect(url)
    connection.execute(
        "CREATE TABLE ledger_lane (id INTEGER PRIMARY KEY, name TEXT UNIQUE, opened_at_us INTEGER, "
        "next_seq INTEGER, next_batch INTEGER, head TEXT)"
    )
    connection.execute("CREATE TABLE ledger_account (id INTEGER PRIMARY KEY, code TEXT)")
    connection.close()
    with pytest.raises(NotFound, match="no ledger"):
        LedgerWriter(lambda: connect(url), "lane")


def test_many_tasks_share_transactions(world: World, writer: LedgerWriter) -> None:
    wallet = world.account("wallet:a", 100)
    before = _batches(world)

    async def call(number: int) -> bool:
        tx = f"c{number}"
        try:
            await writer.apply(world.hold(tx, (wallet, 10)))
        except PaymentRequired:
            return False
        await asyncio.sleep(0.2)
        await writer.apply(world.settle(tx, [10], wallet=10, voucher=0))
        return True

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(call(number) for number in range(64)))

    assert sum(asyncio.run(all_at_once())) == 10
    assert world.totals(wallet) == (0, 100, 100)
    assert _batches(world) - before < 40


def test_many_threads_never_spend_more_than_there_is(world: World, writer: LedgerWriter) -> None:
    wallet = world.account("wallet:a", 1000)
    served = []

    def call(number: int) -> None:
        try:
            writer.submit(world.hold(f"c{number}", (wallet, 100)))
        except PaymentRequired:
            return
        writer.submit(world.settle(f"c{number}", [90], wallet=90, voucher=0))
        served.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Whoever settles gives 10 back, so an eleventh may fit; never a twelfth.
    assert 10 <= len(served) <= 11
    assert world.totals(wallet) == (0, 90 * len(served), 1000)


def _together(writer: LedgerWriter, *operations: Any) -> list[Any]:
    """Submit operations so that they wait together; returns outcomes and errors."""

    async def run() -> list[Any]:
        return await asyncio.gather(
            *(writer.apply(operation) for operation in operations), return_exceptions=True
        )

    return asyncio.run(run())


def test_whoever_spoils_a_batch_is_alone(world: World, writer: LedgerWriter) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c0", (wallet, 10)))
    world.do(world.hold("c1", (wallet, 10)))
    world.do(world.settle("c1", [10], wallet=10, voucher=0))

    def breaks(_available: Available) -> tuple[tuple[Leg, ...], str]:
        raise KeyError("a bug")

    stolen_event = world.settle("c0", [10], row=usage("c1", 10, wallet=10))
    outcomes = _together(
        writer,
        *(world.hold(f"d{i}", (wallet, 5)) for i in range(3)),
        Hold("bug", "org", (wallet,), breaks, T0, T0 + TTL),
        world.hold("c1", (wallet, 5)),
        world.settle("c0", [11], cost=11),
        stolen_event,
        *(world.hold(f"e{i}", (wallet, 5)) for i in range(3)),
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [*[Held] * 3, InternalError, Conflict, LedgerCorrupt, Conflict, *[Held] * 3]
    assert world.totals(wallet) == (40, 10, 100)
    assert writer.submit(world.settle("c0", [10], wallet=10, voucher=0)) == Done(changed=True)


def test_an_operation_that_no_database_can_take_is_our_fault_alone(
    world: World, writer: LedgerWriter
) -> None:
    wallet = world.account("wallet:a", 100)
    # No column of SQLite takes an object, no number of PostgreSQL takes a word.
    odd = Hold("odd", "org", (wallet,), lambda _: ((), object()), T0, "soon")  # type: ignore[arg-type, return-value]
    outcomes = _together(writer, world.hold("c1", (wallet, 5)), odd, world.hold("c2", (wallet, 5)))
    assert [type(outcome) for outcome in outcomes] == [Held, InternalError, Held]


def test_a_closed_writer_says_so(world: World) -> None:
    writer = LedgerWriter(world.database.raw_connection, "short")
    wallet = world.account("wallet:a", 100)
    writer.submit(world.post("p", wallet, world.bank, 1))
    writer.close()
    with pytest.raises(Unavailable):
        writer.submit(world.post("q", wallet, world.bank, 1))


def test_what_was_queued_is_finished_before_closing(world: World) -> None:
    writer = LedgerWriter(world.database.raw_connection, "short")
    wallet = world.account("wallet:a", 100)

    async def run() -> list[Any]:
        waiting = [
            asyncio.ensure_future(writer.apply(world.post(f"p{i}", wallet, world.bank, 1)))
            for i in range(50)
        ]
        await asyncio.sleep(0)
        await asyncio.to_thread(writer.close)
        return await asyncio.gather(*waiting)

    assert asyncio.run(run()) == [Done(changed=True)] * 50
    assert writer.queued == 0


def test_a_terminated_connection_repeats_nothing(postgres_url: str) -> None:
    database = Database(postgres_url)
    world = World(database)
    wallet = world.account("wallet:a", 100_000)
    writer = LedgerWriter(database.raw_connection, "cut-often")
    stop = threading.Event()
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        while not stop.wait(0.15):
            with database.session() as session:
                cuts += (
                    session.connection()
                    .execute(
                        text(
                            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                            "WHERE pid <> pg_backend_pid() AND datname = current_database() "
                            "AND backend_type = 'client backend'"
                        )
                    )
                    .scalar_one()
                )

    made = 0

    async def call(number: int) -> None:
        nonlocal made
        for again in range(300):
            if again >= 12 and cuts >= 2:
                break
            tx = f"c{number}-{again}"
            await writer.apply(world.hold(tx, (wallet, 10)))
            await writer.apply(world.settle(tx, [7], wallet=7, voucher=0))
            made += 1

    async def all_calls() -> None:
        await asyncio.gather(*(call(number) for number in range(16)))

    world.close()
    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        asyncio.run(all_calls())
    finally:
        stop.set()
        cutter.join()
        writer.close()
    assert cuts > 0
    assert world.totals(wallet) == (0, made * 7, 100_000)
    assert world.problems() == []
    database.dispose()


def test_a_commit_whose_answer_was_lost_is_not_done_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks just after COMMIT: the batch is repeated, and everybody gets its answer."""
    world = World(database)
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c0", (wallet, 20)))
    writer = LedgerWriter(database.raw_connection, "lost")
    lost = lose_an_answer(monkeypatch)
    outcomes = _together(
        writer,
        world.settle("c0", [15], wallet=15, voucher=0),
        world.hold("c1", (wallet, 30), plan="kept"),
        world.post("p", wallet, world.bank, 5),
    )
    assert lost
    assert [type(outcome) for outcome in outcomes] == [Done, Held, Done]
    assert outcomes[1] == Held((Leg(wallet, 30, world.clearing),), "kept")
    assert world.totals(wallet) == (30, 20, 100)
    writer.close()
    world.close()
    assert world.problems() == []


class _Full(Database):
    """A database whose disk is full whenever `full` says so."""

    full = False

    def raw_connection(self) -> Any:
        if self.kind == "postgresql":
            import psycopg

            if self.full:
                raise psycopg.errors.DiskFull("could not extend file: No space left on device")
            return super().raw_connection()
        connection = super().raw_connection()
        if self.full:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection


def test_a_full_disk_is_named_and_charges_nothing(database_url: str) -> None:
    database = _Full(database_url)
    world = World(database)
    wallet = world.account("wallet:a", 10_000)
    writer = LedgerWriter(database.raw_connection, "full")
    database.full = True
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"disk is full\. Nothing was charged") as refusal:
        for number in range(200):
            writer.submit(world.hold(f"c{number}", (wallet, 1), plan="x" * 5_000))
    assert refusal.value.retry_after_s
    assert time.monotonic() - started < 9
    database.full = False
    promised = world.totals(wallet)[0]
    writer.submit(world.hold("after", (wallet, 1)))
    assert world.totals(wallet)[0] == promised + 1
    writer.close()
    world.close()
    assert world.problems() == []
    database.dispose()


def test_a_database_that_stays_away_is_given_up_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database)
    wallet = world.account("wallet:a", 100)
    writer = LedgerWriter(lambda: database.raw_connection(), "away")
    monkeypatch.setattr(writer_module, "_PATIENCE_S", 0.5)
    reachable = database.raw_connection
    away = threading.Event()

    def connect() -> Any:
        if away.is_set():
            raise OSError("no route to host")
        return reachable()

    monkeypatch.setattr(database, "raw_connection", connect)
    away.set()
    with pytest.raises(Unavailable, match=r"cannot be reached\. Nothing was charged"):
        writer.submit(world.post("p", wallet, world.bank, 1))
    away.clear()
    assert writer.submit(world.post("p", wallet, world.bank, 1)) == Done(changed=True)
    writer.close()
    world.close()


def test_nobody_is_told_that_nothing_was_charged_while_that_is_not_known(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database goes away between COMMIT and its answer, and stays away."""
    world = World(database)
    wallet = world.account("wallet:a", 100)
    writer = LedgerWriter(database.raw_connection, "away")
    monkeypatch.setattr(writer_module, "_PATIENCE_S", 0.5)

    def unreachable() -> Any:
        raise OSError("no route to host")

    lose_an_answer(monkeypatch, lambda: monkeypatch.setattr(writer, "_connect", unreachable))
    with pytest.raises(Unavailable, match="not known yet"):
        writer.submit(world.charge("c1", (wallet, 30), wallet=30, voucher=0))
    writer.close()
    assert world.totals(wallet) == (0, 30, 100)
    world.close()


def test_a_repeated_batch_takes_no_hold_of_another_try_for_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is repeated under its key has the name of the try before; the writer was away meanwhile."""
    world = World(database)
    wallet = world.account("wallet:a", 100)
    writer = LedgerWriter(database.raw_connection, "away")
    first = world.hold("c0", (wallet, 20))
    world.do(first)
    reachable, tried = database.raw_connection, []

    def connect() -> Any:
        tried.append(True)
        if len(tried) == 1:
            raise OSError("no route to host")
        return reachable()

    monkeypatch.setattr(writer, "_connect", connect)
    later = Hold(first.tx, first.org_id, first.accounts, first.decide, first.at_us + 1, T0 + TTL)
    assert [type(outcome) for outcome in _together(writer, later)] == [Conflict]
    assert len(tried) == 2
    assert world.totals(wallet) == (20, 0, 100)
    writer.close()
    world.close()


def test_a_promise_of_nothing_whose_answer_was_lost_is_made_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that costs nothing leaves no row in the chain, so its lane's head tells nothing of it."""
    world = World(database)
    writer = LedgerWriter(database.raw_connection, "lost")
    lost = lose_an_answer(monkeypatch)
    assert _together(writer, world.hold("c1"), world.hold("c2")) == [Held((), "{}")] * 2
    assert lost
    # Whoever made it: the same name at another instant is somebody else's.
    lost.clear()
    writer._disconnect()
    assert [type(told) for told in _together(writer, world.hold("c1", at_us=T0 + 1))] == [Conflict]
    assert not lost
    writer.close()
    world.close()


def test_two_writers_end_each_others_holds(database: Database) -> None:
    """A settlement races a sweeper's release in another lane: one of them wins, money moves once."""
    world = World(database)
    wallet = world.account("wallet:a", 10_000)
    one, two = (
        LedgerWriter(database.raw_connection, "one"),
        LedgerWriter(database.raw_connection, "two"),
    )
    txs = [f"c{number}" for number in range(60)]

    async def race() -> tuple[list[Any], list[Any]]:
        await asyncio.gather(*(one.apply(world.hold(tx, (wallet, 10))) for tx in txs))
        settling = asyncio.gather(
            *(one.apply(world.settle(tx, [10], wallet=10, voucher=0)) for tx in txs),
            return_exceptions=True,
        )
        releasing = asyncio.gather(
            *(two.apply(world.release(tx, expired=True)) for tx in reversed(txs))
        )
        return await settling, await releasing

    settled, released = asyncio.run(race())
    one.close()
    two.close()
    for tx, paid, gone in zip(txs, settled, reversed(released), strict=True):
        assert isinstance(paid, Done) != gone.changed, tx
    paid_for = sum(isinstance(outcome, Done) for outcome in settled)
    assert world.totals(wallet) == (0, 10 * paid_for, 10_000)
    world.close()
    assert world.problems() == []


@pytest.mark.parametrize("kind", ["hold", "renew", "settle", "release", "post", "hold and post"])
def test_only_promises_may_be_answered_before_they_are_on_disk(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c0", (wallet, 20)))
    asked: list[bool] = []

    def listen(connection: Any) -> Any:
        dialect = original(connection)
        commit = dialect.commit

        def committed(*, durable: bool) -> None:
            asked.append(durable)
            commit(durable=durable)

        dialect.commit = committed
        return dialect

    original = writer_module.dialect_of
    monkeypatch.setattr(writer_module, "dialect_of", listen)
    writer = LedgerWriter(world.database.raw_connection, "listened")
    operations: dict[str, Any] = {
        "hold": world.hold("c1", (wallet, 5)),
        "renew": world.renew("c0", T0 + 2 * TTL),
        "settle": world.settle("c0", [15], wallet=15, voucher=0),
        "release": world.release("c0"),
        "post": world.post("p", wallet, world.bank, 1),
    }
    _together(writer, *(operations[name] for name in kind.split(" and ")))
    writer.close()
    assert asked[-1] == (kind not in ("hold", "renew"))


def test_a_power_cut_keeps_every_answered_settlement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk has at any moment is the log as far as it was synced: all that was settled is there,
    and of the promises made since then neither the hold nor its rows are."""
    from marketplace.migrations.migrate import migrate

    path = tmp_path / "ledger.db"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    world = World(database)
    wallet = world.account("wallet:a", 1_000)
    world.close()
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda log: synced.append(os.fstat(log).st_size))
    writer = LedgerWriter(database.raw_connection, "cut")
    for number in range(10):
        writer.submit(world.hold(f"c{number}", (wallet, 20)))
        if number % 2:
            writer.submit(world.settle(f"c{number}", [15], wallet=15, voucher=0))
    writer.submit(world.hold("last", (wallet, 20)))
    log = path.with_name("ledger.db-wal").read_bytes()
    assert len(synced) == 5
    assert synced[-1] < len(log)
    after = tmp_path / "after.db"
    after.write_bytes(path.read_bytes())
    after.with_name("after.db-wal").write_bytes(log[: synced[-1]])
    writer.close()
    database.dispose()

    survived = World(Database(f"sqlite:///{after}"))
    assert survived.problems() == []
    assert survived.totals(wallet) == (5 * 20, 5 * 15, 1_000)
    with pytest.raises(Conflict, match="no open hold last"):
        survived.do(survived.settle("last", [15], wallet=15, voucher=0))
    survived.close()
    survived.database.dispose()


@pytest.mark.parametrize("read", [False, True], ids=["", "while it is read"])
def test_what_could_not_be_synced_is_answered_when_it_is_in_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    """A failed sync is told once; those after it do well, and the log has a hole."""
    from marketplace.migrations.migrate import migrate

    path, after = tmp_path / "ledger.db", tmp_path / "after.db"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    world = World(database)
    wallet = world.account("wallet:a", 1_000)
    world.close()
    log, sound, holed = path.with_name("ledger.db-wal"), [0], []
    fails = iter([False, True])

    def sync(file: int) -> None:
        if next(fails, False):
            holed.append(log.read_bytes()[:32])
            raise OSError(errno.EIO, "it could not be written")
        if not holed:
            sound.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(writer_module, "_PATIENCE_S", 1.0)
    writer = LedgerWriter(database.raw_connection, "cut")
    writer.submit(world.hold("c1", (wallet, 20)))
    writer.submit(world.settle("c1", [15], wallet=15, voucher=0))
    writer.submit(world.hold("c2", (wallet, 20)))
    reader = connect(f"sqlite:///{path}")
    if read:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ledger_transfer").fetchone()
        with pytest.raises(Unavailable, match="not known yet"):
            writer.submit(world.settle("c2", [15], wallet=15, voucher=0))
        reader.execute("COMMIT")
    writer.submit(world.settle("c2", [15], wallet=15, voucher=0))
    # The power fails: of the log that has a hole, what lay before it is left.
    written = log.read_bytes()
    after.write_bytes(path.read_bytes())
    kept = written[: sound[-1]] if written[:32] == holed[0] else written
    after.with_name("after.db-wal").write_bytes(kept)
    reader.close()
    writer.close()
    database.dispose()

    survived = World(Database(f"sqlite:///{after}"))
    assert survived.problems() == []
    assert survived.totals(wallet) == (0, 2 * 15, 1_000)
    survived.close()
    survived.database.dispose()


def test_a_lonely_caller_never_waits_for_company() -> None:
    company = Company()
    for number in range(1_000):
        assert company.expected(1) == 0
        company.began(1, number * 1e-4)
        company.answered(1, 0)


def test_nobody_waits_where_few_come() -> None:
    company = Company()
    for number in range(100):
        company.began(2, number * 2e-3)
        company.answered(2, 2)
    assert company.expected(2) == 0


def test_under_load_a_batch_waits_for_those_who_were_there_before() -> None:
    company = Company()
    for number in range(100):
        company.began(8, number * 1e-3)
        company.answered(8, 8)
    assert company.expected(8) == 16
    assert company.expected(16) == 0
    # The load is over: whoever comes a second later is alone again.
    company.began(1, 1.0)
    assert company.expected(1) == 0


def test_late_settlements_and_posts_carry_what_they_say(world: World, writer: LedgerWriter) -> None:
    wallet = world.account("wallet:a", 100)
    writer.submit(world.hold("c1~late", (wallet, 10)))
    late = world.settle("c1~late", [10], row=usage("c1", 10, wallet=10))
    assert isinstance(late, Settle)
    assert writer.submit(late) == Done(changed=True)
    assert writer.submit(late) == Done(changed=False)
    several = Post("p", tuple(Entry(22, wallet, world.bank, n) for n in (1, 2, 3)), T0)  # type: ignore[arg-type]
    assert writer.submit(several) == Done(changed=True)
    assert world.left(wallet) == 84
