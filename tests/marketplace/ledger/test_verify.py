"""Whatever is changed behind the ledger's back, `verify` says that something is off."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from support.ledger_world import PRICES, T0, World, usage

from catalog.ground.database import Database
from marketplace.ledger.chain import GENESIS, rows_sha256
from marketplace.ledger.chart import Code, Rule
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.verify import verify
from marketplace.ledger.writer import LedgerWriter


def _happen(database: Database) -> None:
    """Let everything happen once."""
    world = World(database)
    wallet = world.account("wallet:a", 1_000)
    grant = world.account("grant:g", 500)
    owed = world.account("recv:p:f", rule=Rule.CREDITS_WITHIN_DEBITS)
    for number in range(5):
        world.do(world.hold(f"c{number}", (grant, 30), (wallet, 70)))
        paid = world.settle(f"c{number}", [20, 40], cost=61, voucher=20, wallet=40)
        world.apply(paid, world.hold(f"open{number}", (wallet, 5)))
    world.do(world.hold("v", (wallet, 10)))
    world.do(world.release("v"))
    world.do(world.hold("x", (wallet, 10)))
    other = World(database)
    other.apply(world.release("x", expired=True))
    other.close()
    world.do(world.hold("res", (wallet, 100)))
    for number in range(3):
        smaller = (world.rehold("res", "res2", 60),) if number == 1 else ()
        legs, more = ((grant, 20), (wallet, 40)), {"voucher": 20, "wallet": 40}
        world.do(world.charge(f"p{number}", *legs, cost=61, reholds=smaller, **more))
    world.do(Post("claim", (Entry(Code.CLAIM, owed, world.bank, 40),), T0))
    world.do(Post("paid", (Entry(Code.SETTLE, world.bank, owed, 15),), T0))
    world.close()


def _tamper(database: Database, *statements: str) -> int:
    """Run SQL as somebody who owns the database: triggers off, checks ignored."""
    changed = 0
    with database.engine.connect() as connection:
        if database.kind == "sqlite":
            names = connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            )
            for (name,) in names.all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("SET session_replication_role = replica"))
        for statement in statements:
            changed += connection.execute(text(statement)).rowcount
        connection.commit()
    return changed


def test_an_untouched_ledger_is_exact(database: Database) -> None:
    _happen(database)
    report = verify(database, recost=lambda prices, buckets, _: sum(buckets))
    assert report.problems == []
    assert (report.transfers, report.events, report.open_holds) == (58, 8, 6)
    assert report.rows_per_s > 0
    assert len(report.heads) == 2


# Each column of each fact, changed in one row.
TRANSFER = {
    "tx": "'other'", "leg": "leg + 7", "kind": "4", "code": "code + 1",
    "debit_id": "debit_id + 1", "credit_id": "credit_id + 1", "amount": "amount + 1",
    "debit_total": "debit_total + 1", "at_us": "at_us + 1", "seq": "seq + 100000",
    "lane": "lane + 77",
}  # fmt: skip
EVENT_NUMBERS = (
    "started_at_us", "first_token_us", "ended_at_us", "input_uncached", "cache_read", "cache_write",
    "output", "reasoning", "streamed", "list_cost_u", "cost_u", "wallet_u", "voucher_u", "free_u",
    "overrun_u", "seq", "lane",
)  # fmt: skip
EVENT_TEXTS = (
    "id", "org_id", "key_id", "project_id", "listing", "release_digest", "endpoint_id",
    "owner_org_id", "price_version_id", "prices", "usage_source", "outcome", "raw_usage", "route",
    "request_sha256",
)  # fmt: skip
BATCH = {
    "n": "n + 1000",
    "first_seq": "first_seq - 5000000000",
    "last_seq": "last_seq + 1",
    "sha256": "'00'",
}
CHANGES = (
    [
        f"UPDATE ledger_transfer SET {column} = {value} WHERE tx = 'c2' AND kind = 3 AND leg = 1"
        for column, value in TRANSFER.items()
    ]
    + [
        f"UPDATE ledger_transfer SET {column} = {value} WHERE tx = 'p1' AND code = 4 AND leg = 1"
        for column, value in TRANSFER.items()
    ]
    + [
        f"UPDATE usage_event SET {name} = {name} + 1 WHERE id = '{event}'"
        for name in EVENT_NUMBERS
        for event in ("c2", "p1")
    ]
    + [
        f"UPDATE usage_event SET {name} = 'x' WHERE id = '{event}'"
        for name in EVENT_TEXTS
        for event in ("c2", "p1")
    ]
    + [
        f"UPDATE ledger_batch SET {column} = {value} WHERE (lane, n) IN (SELECT lane, max(n) - 1 "
        "FROM ledger_batch GROUP BY lane HAVING count(*) > 5)"
        for column, value in BATCH.items()
    ]
    + [
        "DELETE FROM ledger_transfer WHERE tx = 'c2' AND kind = 3 AND leg = 1",
        "DELETE FROM usage_event WHERE id = 'c2'",
        "DELETE FROM ledger_transfer WHERE tx = 'p1' AND code = 4 AND leg = 1",
        "DELETE FROM ledger_transfer WHERE tx = 'p1'",
        "DELETE FROM ledger_transfer WHERE tx = 'res' AND kind = 4",
        "DELETE FROM ledger_transfer WHERE tx = 'res2'",
        "DELETE FROM usage_event WHERE id = 'p1'",
        "DELETE FROM ledger_hold WHERE tx = 'res2'",
        "UPDATE ledger_hold SET legs = replace(legs, '60', '59') WHERE tx = 'res2'",
        "UPDATE ledger_hold SET tx = 'res' WHERE tx = 'res2'",
        "DELETE FROM ledger_batch WHERE n = 2",
        "DELETE FROM ledger_batch WHERE n > 3",
        "DELETE FROM ledger_hold WHERE tx = 'open3'",
        "UPDATE ledger_hold SET legs = replace(legs, '5', '4') WHERE tx = 'open3'",
        "UPDATE ledger_hold SET tx = 'another' WHERE tx = 'open3'",
        "INSERT INTO ledger_hold SELECT 'made up', lane, org_id, legs, plan, held_at_us, expires_at_us "
        "FROM ledger_hold WHERE tx = 'open3'",
        "UPDATE ledger_lane SET head = '00' WHERE next_batch > 5",
        "UPDATE ledger_lane SET next_seq = next_seq + 1 WHERE next_batch > 5",
        "DELETE FROM ledger_lane WHERE next_batch > 5",
        "UPDATE ledger_account SET cr_posted = cr_posted + 1 WHERE code = 'wallet:a'",
        "UPDATE ledger_account SET dr_posted = dr_posted - 1 WHERE code = 'wallet:a'",
        "UPDATE ledger_account SET dr_pending = dr_pending + 1 WHERE code = 'wallet:a'",
        "UPDATE ledger_account SET cr_pending = 1 WHERE code = 'recv:p:f'",
        "UPDATE ledger_account SET rule = 1 WHERE code = 'clearing'",
        "UPDATE ledger_account SET rule = 0 WHERE code = 'wallet:a'",
        "UPDATE ledger_account SET rule = 3 WHERE code = 'wallet:a'",
        "UPDATE ledger_account SET code = 'wallet:b' WHERE code = 'wallet:a'",
        "UPDATE ledger_account SET unit = 'TOK:x' WHERE code = 'wallet:a'",
        "UPDATE ledger_account SET code = 'grant:h' WHERE code = 'wallet:a'",
        "UPDATE ledger_account SET dr_posted = 5 WHERE code = 'ext:bank'",
        "DELETE FROM ledger_account WHERE code = 'grant:g'",
    ]
)


def test_any_change_is_found(sqlite_url: str, tmp_path: Path) -> None:
    """On SQLite, where a copy is one file; the replay is the same code on PostgreSQL."""
    database = Database(sqlite_url)
    _happen(database)
    overlooked = []
    for number, change in enumerate(CHANGES):
        copy = _copy_of(database, tmp_path / f"{number}.db")
        assert _tamper(copy, change) > 0, change
        if not verify(copy).problems:
            overlooked.append(change)
        copy.dispose()
    assert overlooked == []
    assert verify(database).problems == []
    database.dispose()


def test_changes_are_found_on_postgresql_too(postgres_url: str) -> None:
    database = Database(postgres_url)
    _happen(database)
    for change, undo in (
        ("ledger_transfer SET at_us = at_us + 1", "ledger_transfer SET at_us = at_us - 1"),
        ("usage_event SET seq = -seq", "usage_event SET seq = -seq"),
        ("usage_event SET cost_u = cost_u + 1", "usage_event SET cost_u = cost_u - 1"),
        ("ledger_batch SET sha256 = reverse(sha256)",) * 2,
        ("ledger_lane SET head = reverse(head)",) * 2,
        (
            "ledger_account SET cr_posted = cr_posted + 1 WHERE rule = 1",
            "ledger_account SET cr_posted = cr_posted - 1 WHERE rule = 1",
        ),
        (
            "ledger_hold SET tx = reverse(tx)",
            "ledger_hold SET tx = reverse(tx)",
        ),
    ):
        assert _tamper(database, f"UPDATE {change}") > 0
        assert verify(database).problems != [], change
        _tamper(database, f"UPDATE {undo}")
        assert verify(database).problems == [], undo
    database.dispose()


def _copy_of(database: Database, path: Path) -> Database:
    source = database.raw_connection()
    source.execute("VACUUM INTO ?", (str(path),))
    source.close()
    return Database(f"sqlite:///{path}")


def _rechained(database: Database) -> None:
    """Forge every chain anew, as an attacker with the source code would."""
    from marketplace.ledger.groups import Group, live_groups

    heads: dict[int, str] = {}
    updates = []
    with database.engine.connect() as connection:
        for group in live_groups(connection):
            assert isinstance(group, Group)
            head = rows_sha256(heads.get(group.lane, GENESIS), group.transfers, group.events)
            heads[group.lane] = head
            updates.append((group.lane, group.n, head))
    _tamper(
        database,
        *(
            f"UPDATE ledger_batch SET sha256 = '{head}' WHERE lane = {lane} AND n = {n}"
            for lane, n, head in updates
        ),
        *(
            f"UPDATE ledger_lane SET head = '{head}' WHERE id = {lane}"
            for lane, head in heads.items()
        ),
    )


FORGERIES = {
    "one pays less, another more": (
        "UPDATE ledger_transfer SET amount = amount - 1 WHERE tx = 'c2' AND kind = 3 AND leg = 1",
        "UPDATE ledger_transfer SET amount = amount + 1 WHERE tx = 'c3' AND kind = 3 AND leg = 1",
    ),
    "a call costs more, the owner gets it": (
        "UPDATE usage_event SET cost_u = cost_u + 1, overrun_u = overrun_u + 1 WHERE id = 'c2'",
    ),
    "the wallet's part is called the voucher's": (
        "UPDATE usage_event SET wallet_u = wallet_u - 1, voucher_u = voucher_u + 1 WHERE id = 'c2'",
    ),
    "the platform's part is called the voucher's": (
        "UPDATE usage_event SET overrun_u = overrun_u - 1, voucher_u = voucher_u + 1 WHERE id = 'c2'",
    ),
    "tokens that nobody used": (
        "UPDATE usage_event SET input_uncached = input_uncached + 1 WHERE id = 'c2'",
    ),
    "debit totals that overlap": (
        "UPDATE ledger_transfer SET debit_total = debit_total - 1 WHERE tx = 'c2' AND kind = 3",
    ),
    "a total left out": (
        "UPDATE ledger_transfer SET debit_total = NULL WHERE tx = 'c2' AND kind = 3 AND leg = 0",
    ),
    "a release of less than was promised": (
        "UPDATE ledger_transfer SET amount = amount - 1 WHERE tx = 'v' AND kind = 4",
    ),
    "an expiry that frees another account": (
        "UPDATE ledger_transfer SET debit_id = credit_id WHERE tx = 'x' AND kind = 5",
    ),
    "a charge takes less of one, more of another": (
        "UPDATE ledger_transfer SET amount = amount - 1 WHERE tx = 'p1' AND code = 4 AND leg = 1",
        "UPDATE ledger_transfer SET amount = amount + 1 WHERE tx = 'p2' AND code = 4 AND leg = 1",
    ),
    "a charge's voucher pays what its wallet paid": (
        "UPDATE ledger_transfer SET debit_id = (SELECT debit_id FROM ledger_transfer WHERE tx = 'p1' "
        "AND code = 4 AND leg = 0) WHERE tx = 'p1' AND code = 4 AND leg = 1",
    ),
    "a charge's wallet part is called the voucher's": (
        "UPDATE usage_event SET wallet_u = wallet_u - 1, voucher_u = voucher_u + 1 WHERE id = 'p1'",
    ),
    "a charge's debit totals overlap": (
        "UPDATE ledger_transfer SET debit_total = debit_total - 1 WHERE tx = 'p1' AND code = 4",
    ),
    "a charge's total left out": (
        "UPDATE ledger_transfer SET debit_total = NULL WHERE tx = 'p1' AND code = 4 AND leg = 0",
    ),
    "a reserve that gave up less than it held": (
        "UPDATE ledger_transfer SET amount = amount - 1 WHERE tx = 'res' AND kind = 4",
    ),
    "a reserve that kept more than its hold says": (
        "UPDATE ledger_transfer SET amount = amount + 1 WHERE tx = 'res2' AND kind = 2",
    ),
    "a call that another organisation's wallet paid": (
        "UPDATE usage_event SET org_id = 'b' WHERE id = 'p1'",
    ),
    "money between units": (
        "UPDATE ledger_account SET unit = 'TOK:x' WHERE code = 'grant:g'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_chain_does_not_hide_it(sqlite_url: str, forgery: str) -> None:
    database = Database(sqlite_url)
    _happen(database)
    _rechained(database)
    assert verify(database).problems == [], "forging alone changes nothing"
    assert _tamper(database, *FORGERIES[forgery]) > 0
    _rechained(database)

    def recost(prices: str, buckets: tuple[int, ...], _at_us: int) -> int:
        assert prices == PRICES
        return sum(buckets)

    found = verify(database, recost=recost).problems
    assert found != []
    assert not any("chain" in problem for problem in found)
    database.dispose()


@pytest.mark.parametrize("charged", [False, True], ids=["settled", "charged"])
def test_a_payment_without_an_event_is_found_under_a_forged_chain(
    sqlite_url: str, charged: bool
) -> None:
    """The last call is cut off its event, and batch and lane are made to end before it."""
    database = Database(sqlite_url)
    _happen(database)
    world = World(database)
    wallet = world.account("wallet:a")
    if charged:
        world.do(world.charge("last", (wallet, 9), wallet=9, voucher=0))
    else:
        world.do(world.hold("last", (wallet, 9)))
        world.do(world.settle("last", [9], wallet=9, voucher=0))
    world.close()
    _tamper(
        database,
        "DELETE FROM usage_event WHERE id = 'last'",
        f"UPDATE ledger_batch SET last_seq = last_seq - 1 WHERE lane = {world.lane} "
        f"AND n = (SELECT max(n) FROM ledger_batch WHERE lane = {world.lane})",
        f"UPDATE ledger_lane SET next_seq = next_seq - 1 WHERE id = {world.lane}",
    )
    _rechained(database)
    assert verify(database).problems == ["last: posted without an event"]
    database.dispose()


def test_checks_of_others_are_part_of_the_proof(database: Database) -> None:
    _happen(database)

    def budget(connection: Connection) -> Iterable[str]:
        count = connection.execute(text("SELECT count(*) FROM ledger_account")).scalar_one()
        yield f"{count} accounts"

    assert verify(database, checks=[budget]).problems == ["10 accounts"]


def test_a_sea_of_problems_does_not_fill_memory(world: World) -> None:
    wallet = world.account("wallet:a", 10_000)
    world.apply(*(world.hold(f"c{n}", (wallet, 1)) for n in range(1_200)))
    _tamper(world.database, "DELETE FROM ledger_hold")
    problems = verify(world.database).problems
    assert len(problems) == 1_001
    assert problems[-1] == "and more, which are not listed"
    with world.database.session() as session:
        session.execute(
            text(
                "INSERT INTO ledger_hold (tx, lane, org_id, legs, plan, held_at_us, expires_at_us) "
                "SELECT tx, lane, 'org', '[[' || debit_id || ',1,' || credit_id || ']]', '{}', 0, 0 "
                "FROM ledger_transfer WHERE kind = 2"
            )
        )


def test_a_running_ledger_can_be_proven(world: World) -> None:
    wallet = world.account("wallet:a", 1_000_000)
    writer = LedgerWriter(world.database.raw_connection, "busy")
    stop = threading.Event()

    def work(name: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            writer.submit(world.hold(f"{name}-{number}", (wallet, 3)))
            row = usage(f"{name}-{number}", 2, wallet=2)
            writer.submit(world.settle(f"{name}-{number}", [2], row=row))

    workers = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for worker in workers:
        worker.start()
    try:
        rows = []
        for _ in range(6):
            report = verify(world.database, rows.append)
            assert report.problems == []
    finally:
        stop.set()
        for worker in workers:
            worker.join()
        writer.close()
    assert max(rows) > 0


def test_a_link_covers_every_field_every_row_and_the_link_before() -> None:
    row = (7, 1, "tx", 0, 1, 4, 7, 8, 5, None, T0)
    event = (*usage("c1", 5), 7, 2)
    links = [
        rows_sha256(previous, transfers, events)
        for previous, transfers, events in (
            (GENESIS, [row], [event]),
            ("1" + GENESIS[1:], [row], [event]),
            (GENESIS, [row, row], [event]),
            (GENESIS, [row], [event, event]),
            (GENESIS, [row, event], []),
            (GENESIS, [row], []),
            (GENESIS, [], [event]),
            (GENESIS, [], []),
            (GENESIS, [(*row[:2], "tx0", *row[4:])], [event]),
            (GENESIS, [(*row[:2], '","', *row[3:])], [event]),
            *((GENESIS, [(*row[:i], "x", *row[i + 1 :])], [event]) for i in range(len(row))),
            *((GENESIS, [row], [(*event[:i], "x", *event[i + 1 :])]) for i in range(len(event))),
        )
    ]
    assert len(set(links)) == len(links)
