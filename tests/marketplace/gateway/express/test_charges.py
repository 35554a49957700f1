"""The compiled charge writer: the rows of Python's journal, once, and nothing said before it is on disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.compiled_charges import Booker, plain_charge
from support.fault_database import Disk
from support.ledger_world import T0, World, usage

from catalog.ground.database import Database
from catalog.ground.errors import Conflict, LedgerCorrupt, PaymentRequired, TokenMartError
from marketplace.ledger.accounts import open_lane
from marketplace.ledger.chart import Code, Rule
from marketplace.ledger.dialect import EVENT_COLUMNS, TRANSFER_COLUMNS
from marketplace.ledger.journal import BatchRun
from marketplace.ledger.operations import Charge, Done, Entry, Leg
from marketplace.ledger.verify import verify
from marketplace.ledger.writer import LedgerWriter

core = pytest.importorskip("marketplace.gateway.express._core")

TABLES = {
    "ledger_transfer": ", ".join(TRANSFER_COLUMNS),
    "usage_event": ", ".join(EVENT_COLUMNS),
    "ledger_account": "id, code, rule, dr_pending, dr_posted, cr_pending, cr_posted",
    "ledger_batch": "lane, n, first_seq, last_seq, sha256",
    "ledger_lane": "id, name, next_seq, next_batch, head",
}
ODD = [
    "", "plain", 'a "quoted" \\ text', "tab\tline\nreturn\r\b\f", "\x01\x1f\x7f", "模型 π é",
    "🜚 \u2028\u2029", "</script>", "x" * 3_000, "nul\0in it",
]  # fmt: skip


def _path(database: Database) -> Path:
    return Path(database.url.removeprefix("sqlite:///"))


class Ledger:
    """A ledger on SQLite with a wallet of 1,000 and a lane for the compiled writer."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.world = World(self.database)
        with self.database.session() as session:
            self.lane = open_lane(session, "express")
        self.wallet = self.world.account("wallet:a", 1_000)

    def booker(self, patience_s: float = 30.0) -> Booker:
        return Booker(_path(self.database), self.lane, self.world.clearing, patience_s)

    def charge(self, tx: str, amount: int = 1, **more: Any) -> Charge:
        world = self.world
        return plain_charge(tx, self.wallet, world.clearing, world.maker, amount, **more)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        connection = self.database.raw_connection()
        try:
            return {
                table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
                for table, columns in TABLES.items()
            }
        finally:
            connection.close()

    def ids(self) -> set[str]:
        return {row[0] for row in self.rows()["usage_event"]}

    def close(self) -> None:
        self.world.close()
        problems = self.world.problems()
        self.database.dispose()
        assert problems == []


@pytest.fixture
def template(request: pytest.FixtureRequest) -> Path:
    """A migrated database, to be copied."""
    path: Path = request.getfixturevalue("_sqlite_template")
    return path


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    """A ledger that must still be exact when the test is done."""
    ledger = Ledger(sqlite_url)
    yield ledger
    ledger.close()


@pytest.fixture
def booker(ledger: Ledger) -> Iterator[Booker]:
    booker = ledger.booker()
    yield booker
    booker.close()


# --- the same as Python's -----------------------------------------------------------------------------


class Walk:
    """Random charges on a ledger with every kind of account that a call may touch."""

    def __init__(self, url: str, seed: int) -> None:
        self.ledger, self.random = Ledger(url), random.Random(seed)
        world = self.ledger.world
        self.payers = [self.ledger.wallet]
        self.payers += [world.account(f"grant:{n}", 300 * n) for n in range(3)]
        projection = {"rule": Rule.PROJECTION}
        self.sinks = [world.clearing] * 3 + [world.account("quota_used:x", **projection)]
        self.takers = [world.maker, world.account("platform:fee2", **projection)]
        self.owed = world.account("owed", rule=Rule.CREDITS_WITHIN_DEBITS)
        world.do(world.hold("res_1", (self.ledger.wallet, 100)))
        self.count = 0

    def charge(self) -> Charge:
        """Return a charge as a call may leave it: legs, overrun, and what leaves clearing in pieces."""
        chance, world = self.random, self.ledger.world
        self.count += 1
        tx, paid = f"gen_{self.count:06d}", {True: 0, False: 0}
        legs = []
        for _ in range(chance.randrange(4)):
            leg = Leg(
                chance.choice(self.payers),
                chance.choice([0, 1, 3, 10, 40]),
                chance.choice(self.sinks),
            )
            legs.append(leg)
            if leg.sink_id == world.clearing:
                paid[leg.account_id == self.ledger.wallet] += leg.amount
        over = chance.randrange(3)
        cost = left = sum(paid.values()) + over
        entries = [Entry(Code.OVERRUN, world.overrun, world.clearing, over)]
        while left:
            amount = chance.randint(1, left)
            entries.append(Entry(Code.ACCRUE, world.clearing, chance.choice(self.takers), amount))
            left -= amount
        if (
            chance.random() < 0.3
        ):  # an account with a bound gets something, and one that is owed is debited
            entries.append(Entry(Code.ADJUST, world.bank, chance.choice(self.payers), 2))
            entries.append(Entry(Code.ADJUST, self.owed, world.bank, 5))
        row = usage(tx, cost, wallet=paid[True], voucher=paid[False])
        changed = {"key": ODD, "maker/mini": ODD, "{}": ODD, T0: [T0, -5, 2**63 - 1]}
        odd = tuple(chance.choice(changed.get(value, [value])) for value in row)
        return Charge(tx, tuple(legs), tuple(entries), odd, T0 + chance.randrange(10**9))

    def batch(self) -> list[Charge]:
        charges = [self.charge() for _ in range(self.random.choice([1, 1, 2, 5, 16, 17, 40]))]
        if self.random.random() < 0.3:  # somebody sends one twice
            charges.insert(self.random.randrange(len(charges)), self.random.choice(charges))
        return charges

    def between(self) -> None:
        """Do what other writers do."""
        world, chance = self.ledger.world, self.random
        name = f"p{self.count}"
        match chance.randrange(4):
            case 0:
                world.do(world.post(name, world.bank, chance.choice(self.payers), 50))
            case 1:
                self.payers.append(world.account(f"grant:{name}", 60))
            case 2 if world.left(self.ledger.wallet) > 10:
                world.do(world.hold(name, (self.ledger.wallet, 10)))


def _by_python(walk: Walk, charges: list[Charge]) -> list[str]:
    """Book a batch with the journal, in the compiled writer's lane."""
    world = walk.ledger.world
    world.dialect.begin()
    outcomes = BatchRun(world.dialect, walk.ledger.lane, world.clearing).apply(charges)
    world.dialect.commit()
    words = {Done: "booked", PaymentRequired: "refused"}
    return [words[type(outcome)] for outcome in outcomes]


@pytest.mark.parametrize("seed", range(8))
def test_the_same_charges_leave_the_same_rows(tmp_path: Path, template: Path, seed: int) -> None:
    walks = []
    for name in ("python.db", "compiled.db"):
        shutil.copy(template, tmp_path / name)
        walks.append(Walk(f"sqlite:///{tmp_path / name}", seed))
    python, compiled = walks
    booker = compiled.ledger.booker()
    said = set()
    for _ in range(30):
        expected = _by_python(python, python.batch())
        assert booker.together(*compiled.batch()) == expected
        said.update(expected)
        python.between()
        compiled.between()
    booker.close()
    assert said == {"booked", "refused"}
    ours, theirs = compiled.ledger.rows(), python.ledger.rows()
    # The rest of each world is in a lane of its own, of a random name.
    for rows in (ours, theirs):
        rows["ledger_lane"] = [row for row in rows["ledger_lane"] if row[1] == "express"]
    assert ours == theirs
    assert len(ours["usage_event"]) > 100
    for walk in walks:
        walk.ledger.close()


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 32, 33, 100, 512])
def test_any_number_of_charges_is_one_batch(ledger: Ledger, booker: Booker, count: int) -> None:
    charges = [ledger.charge(f"c{n}") for n in range(count)]
    assert booker.together(*charges) == ["booked"] * count
    batches = [row for row in ledger.rows()["ledger_batch"] if row[0] == ledger.lane]
    assert [row[:4] for row in batches] == [(ledger.lane, 1, 1, 3 * count)]
    assert ledger.world.totals(ledger.wallet) == (0, count, 1_000)


def test_more_than_a_batch_holds_go_into_the_next_ones(ledger: Ledger, booker: Booker) -> None:
    outcomes = booker.together(*(ledger.charge(f"c{n}") for n in range(1_200)))
    assert outcomes == ["booked"] * 1_000 + ["refused"] * 200
    batches = [row for row in ledger.rows()["ledger_batch"] if row[0] == ledger.lane]
    assert [row[3] // 3 for row in batches] == [512, 1_000]


def test_the_log_does_not_grow_for_ever(ledger: Ledger, booker: Booker) -> None:
    ledger.world.do(ledger.world.post("rich", ledger.world.bank, ledger.wallet, 10**6))
    log = _path(ledger.database).with_name("tokenmart.db-wal")
    sizes = []
    for wave in range(60):
        booker.together(*(ledger.charge(f"c{wave}-{n}") for n in range(50)))
        sizes.append(log.stat().st_size)
    assert max(sizes) < 2 * 1000 * 4096


# --- what others do meanwhile -------------------------------------------------------------------------


def test_what_others_spend_and_bring_is_seen(ledger: Ledger, booker: Booker) -> None:
    world, wallet = ledger.world, ledger.wallet
    assert booker.do(ledger.charge("c1", 400)) == "booked"
    world.do(world.hold("theirs", (wallet, 500)))
    assert booker.do(ledger.charge("c2", 101)) == "refused"
    world.do(world.charge("c3", (wallet, 50), wallet=50, voucher=0))
    assert booker.do(ledger.charge("c2", 51)) == "refused"
    assert booker.do(ledger.charge("c2", 50)) == "booked"
    world.do(world.release("theirs"))
    assert booker.do(ledger.charge("c4", 500)) == "booked"
    assert world.totals(wallet) == (0, 1_000, 1_000)


def test_an_account_that_is_opened_later_is_found(ledger: Ledger, booker: Booker) -> None:
    charge = plain_charge("c1", ledger.wallet + 1, ledger.world.clearing, ledger.world.maker, 5)
    row = usage("c1", 5, voucher=5)
    charge = Charge(charge.tx, charge.legs, charge.entries, row, charge.at_us)
    assert booker.do(charge) == "unsure"
    assert ledger.world.account("grant:g", 30) == ledger.wallet + 1
    assert booker.do(charge) == "booked"


def test_python_and_compiled_writer_share_a_ledger(ledger: Ledger) -> None:
    """From several threads, some ids sent to both; the money is not enough for all."""
    world, wallet = ledger.world, ledger.wallet
    writer = LedgerWriter(ledger.database.raw_connection, "python", core.Turn())
    booker = ledger.booker()
    shared = [f"shared{n}" for n in range(60)]
    python: dict[str, str] = {}
    held: list[str] = []

    def charges() -> None:
        for tx in shared:
            try:
                writer.submit(ledger.charge(tx, 2))
            except TokenMartError as error:
                python[tx] = type(error).__name__
            else:
                python[tx] = "Done"

    def holds(thread: int) -> None:
        for n in range(60):
            tx = f"h{thread}-{n}"
            try:
                writer.submit(world.hold(tx, (wallet, 10)))
            except PaymentRequired:
                continue
            writer.submit(world.settle(tx, [5], wallet=5, voucher=0))
            held.append(tx)

    threads = [threading.Thread(target=charges)]
    threads += [threading.Thread(target=holds, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    own = [booker.send(ledger.charge(f"own{n}", 3)) for n in range(40)]
    same = [booker.send(ledger.charge(tx, 2)) for tx in reversed(shared)]
    own += [booker.send(ledger.charge(f"own{n}", 3)) for n in range(40, 100)]
    compiled = dict(zip(reversed(shared), booker.wait(same), strict=True))
    owned = booker.wait(own).count("booked")
    for thread in threads:
        thread.join()
    writer.close()
    booker.close()
    there = ledger.ids()
    for tx in shared:
        assert (compiled[tx], python[tx], tx in there) in (
            ("booked", "Conflict", True),
            ("booked", "Done", True),
            ("refused", "Done", True),  # decided before the money that a settlement gave back
            ("refused", "PaymentRequired", False),
            ("booked", "PaymentRequired", True),
        )
    once = sum(tx in there for tx in shared)
    assert len(there) == once + owned + len(held)
    assert ledger.world.totals(wallet) == (0, 2 * once + 3 * owned + 5 * len(held), 1_000)


def test_pythons_writer_gives_its_turn_back_whatever_happens(
    ledger: Ledger, booker: Booker
) -> None:
    writer = LedgerWriter(ledger.database.raw_connection, "python", core.Turn())
    assert booker.do(ledger.charge("c1")) == "booked"
    bad = _balanced(ledger, Leg(ledger.wallet, -1, ledger.world.clearing))
    for spoiled, error in ((ledger.charge("c1"), Conflict), (bad, LedgerCorrupt)):
        with pytest.raises(error):
            writer.submit(spoiled)
        assert booker.do(ledger.charge(f"after {error}")) == "booked"
    writer.close()


def test_whoever_waits_longest_has_the_next_turn() -> None:
    turns, order, waiting = core.Turn(), [], []

    def write(number: int) -> None:
        with core.Turn():
            order.append(number)

    with turns:
        for number in range(8):
            waiting.append(threading.Thread(target=write, args=(number,)))
            waiting[-1].start()
            time.sleep(0.02)
        assert order == []
    for thread in waiting:
        thread.join()
    assert order == list(range(8))


def test_a_turn_that_was_not_taken_cannot_be_given() -> None:
    with pytest.raises(RuntimeError, match="not been taken"):
        core.Turn().__exit__(None, None, None)


# --- what is not booked -------------------------------------------------------------------------------


def test_too_little_money_refuses_its_own_charge_only(ledger: Ledger, booker: Booker) -> None:
    world = ledger.world
    world.do(world.hold("res_1", (ledger.wallet, 600)))
    amounts = [300, 101, 50, 51, 50, 1, 0]
    outcomes = booker.together(*(ledger.charge(f"c{n}", a) for n, a in enumerate(amounts)))
    assert outcomes == ["booked", "refused", "booked", "refused", "booked", "refused", "booked"]
    assert world.totals(ledger.wallet) == (600, 400, 1_000)
    assert ledger.ids() == {"c0", "c2", "c4", "c6"}


def _balanced(ledger: Ledger, *legs: Leg) -> Charge:
    through = sum(leg.amount for leg in legs)
    entry = Entry(Code.ACCRUE, ledger.world.clearing, ledger.world.maker, through)
    return Charge("bad", legs, (entry,), usage("bad", through, wallet=through), T0)


def _bad_charges(ledger: Ledger) -> dict[str, Charge]:
    world, wallet, most = ledger.world, ledger.wallet, 2**63 - 1
    clearing, fair = world.clearing, ledger.charge("bad", 3)
    row = fair.usage

    def entries(*more: Entry) -> Charge:
        return Charge(fair.tx, fair.legs, (*fair.entries, *more), row, T0)

    def of_usage(usage_row: tuple[Any, ...]) -> Charge:
        return Charge(fair.tx, fair.legs, fair.entries, usage_row, T0)

    return {
        "no account": _balanced(ledger, Leg(10**6, 5, clearing)),
        "a projection pays": _balanced(ledger, Leg(world.maker, 5, clearing)),
        "clearing pays": _balanced(ledger, Leg(clearing, 5, clearing)),
        "a negative leg": _balanced(ledger, Leg(wallet, -5, clearing)),
        "a negative entry": entries(Entry(Code.FEE, world.maker, world.bank, -1)),
        "too little leaves clearing": entries(Entry(Code.OVERRUN, world.overrun, clearing, 1)),
        "too much leaves clearing": entries(Entry(Code.ACCRUE, clearing, world.maker, 1)),
        "nothing of it in clearing": Charge("bad", (), (fair.entries[0],), row, T0),
        "totals beyond 64 bits": entries(*[Entry(Code.FUND, world.bank, wallet, most)] * 2),
        "an account below zero": entries(Entry(Code.ADJUST, wallet, world.bank, 2_000)),
        "a name that a post has": Charge("fund:wallet:a", fair.legs, fair.entries, row, T0),
        "an event without its last column": of_usage(row[:-1]),
        "an event with one column more": of_usage((*row, "")),
        "an event without a name": of_usage((5, *row[1:])),
        "an event that is nothing": of_usage(()),
        "a text that is no text": of_usage((*row[:-1], b"caf\xe9")),
        "half a character": of_usage((*row[:-1], b"\xed\xa0\x80")),
        "a name that is no text": of_usage((b"\xff", *row[1:])),
    }


@pytest.mark.parametrize("alone", [True, False])
def test_a_charge_that_cannot_be_is_unsure_and_spoils_nobody(
    ledger: Ledger, booker: Booker, alone: bool
) -> None:
    bads = _bad_charges(ledger)
    for number, (name, bad) in enumerate(bads.items()):
        before = ledger.rows()
        if alone:
            assert booker.do(bad) == "unsure", name
            assert ledger.rows() == before, name
            continue
        fair = [ledger.charge(f"c{number}-{n}") for n in range(6)]
        outcomes = booker.together(*fair[:2], bad, *fair[2:])
        assert outcomes == ["booked", "booked", "unsure", *["booked"] * 4], name
        assert ledger.ids() == {row[0] for row in before["usage_event"]} | {
            charge.tx for charge in fair
        }


def test_what_no_column_takes_is_not_even_sent(ledger: Ledger, booker: Booker) -> None:
    fair = ledger.charge("c1")
    for bad in (2**63, 1.5, None, "\ud800"):
        with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
            booker.send(Charge(fair.tx, fair.legs, fair.entries, (*fair.usage[:-1], bad), T0))
    with pytest.raises(TypeError, match="3 numbers"):
        booker.send(Charge(fair.tx, ((1, 2),), fair.entries, fair.usage, T0))  # type: ignore[arg-type]
    assert booker.do(fair) == "booked"


# --- once ---------------------------------------------------------------------------------------------


def test_what_is_booked_already_is_booked(ledger: Ledger, booker: Booker) -> None:
    """Among others, twice in a batch, by another lane, and also where the money has gone meanwhile."""
    first = [ledger.charge(f"c{n}", 100) for n in range(3)]
    assert booker.together(*first) == ["booked"] * 3
    by_python = ledger.charge("p1", 100)
    ledger.world.do(by_python)
    more = [ledger.charge(f"d{n}", 100) for n in range(3)]
    outcomes = booker.together(more[0], first[1], more[1], by_python, more[1], more[2], first[2])
    assert outcomes == ["booked"] * 7
    assert ledger.world.totals(ledger.wallet) == (0, 700, 1_000)
    assert booker.do(ledger.charge("rest", 250)) == "booked"
    before = ledger.rows()
    assert booker.together(*first, ledger.charge("e1", 51)) == [*["booked"] * 3, "refused"]
    assert ledger.rows() == before


def test_another_event_under_a_name_that_is_taken_is_unsure(ledger: Ledger, booker: Booker) -> None:
    assert booker.do(ledger.charge("c1", 10)) == "booked"
    before = ledger.rows()
    for other in (
        ledger.charge("c1", 11),
        ledger.charge("c1", 10, org="b"),
        ledger.charge("c1", 5_000),
    ):
        assert booker.do(other) == "unsure"
    assert ledger.rows() == before
    pair = [ledger.charge("c2", 1), ledger.charge("c2", 2), ledger.charge("c3", 1)]
    assert booker.together(*pair) == ["booked", "unsure", "booked"]


def test_many_that_are_known_cost_one_more_look(ledger: Ledger, booker: Booker) -> None:
    charges = [ledger.charge(f"c{n}") for n in range(200)]
    assert booker.together(*charges) == ["booked"] * 200
    again = [charge for pair in zip(charges, charges, strict=True) for charge in pair]
    fresh = [ledger.charge(f"d{n}") for n in range(50)]
    assert booker.together(*again, *fresh) == ["booked"] * 450
    # Found out in one transaction, not by halving.
    assert ledger.rows()["ledger_batch"][-1][1] == 2


def test_an_id_that_python_is_given_as_well_is_booked_once(ledger: Ledger, booker: Booker) -> None:
    assert booker.do(ledger.charge("c1")) == "booked"
    writer = LedgerWriter(ledger.database.raw_connection, "python", core.Turn())
    with pytest.raises(Conflict):
        writer.submit(ledger.charge("c1"))
    assert writer.submit(ledger.charge("c2")) == Done(changed=True)
    writer.close()
    assert booker.do(ledger.charge("c2")) == "booked"
    assert ledger.world.totals(ledger.wallet) == (0, 2, 1_000)


# --- a database that fails ----------------------------------------------------------------------------


def test_a_locked_database_is_waited_for(ledger: Ledger, booker: Booker) -> None:
    other = ledger.database.raw_connection()
    other.execute("BEGIN IMMEDIATE")
    sent = [booker.send(ledger.charge(f"c{n}")) for n in range(5)]
    assert not booker.writer.wait(0.3)
    other.execute("ROLLBACK")
    other.close()
    assert booker.wait(sent) == ["booked"] * 5


def test_a_database_that_stays_locked_makes_unsure(ledger: Ledger) -> None:
    booker = ledger.booker(patience_s=0.2)
    other = ledger.database.raw_connection()
    other.execute("BEGIN IMMEDIATE")
    assert booker.together(*(ledger.charge(f"c{n}") for n in range(5))) == ["unsure"] * 5
    other.execute("ROLLBACK")
    other.close()
    assert ledger.ids() == set()
    assert booker.together(*(ledger.charge(f"c{n}") for n in range(5))) == ["booked"] * 5
    with core.Turn():
        assert booker.wait([booker.send(ledger.charge("c5"))]) == ["unsure"]
    assert booker.do(ledger.charge("c5")) == "booked"
    booker.close()


def test_a_full_disk_books_nothing_that_it_does_not_say(tmp_path: Path, template: Path) -> None:
    disk = Disk(tmp_path / "disk", "8m")
    if not disk.small:
        pytest.skip("mounting a small disk takes root")
    try:
        path = disk.folder / "ledger.db"
        shutil.copy(template, path)
        ledger = Ledger(f"sqlite:///{path}")
        booker = ledger.booker()
        booked = {"c0"} if booker.do(ledger.charge("c0")) == "booked" else set()
        disk.fill()
        said = []
        for number in range(40):
            charges = [ledger.charge(f"c{number}-{n}", key="x" * 500) for n in range(20)]
            said += (outcomes := booker.together(*charges))
            booked |= {c.tx for c, told in zip(charges, outcomes, strict=True) if told == "booked"}
        assert said[-20:] == ["unsure"] * 20
        assert ledger.ids() == booked
        disk.free()
        assert booker.together(*charges) == ["booked"] * 20
        booker.close()
        ledger.close()
    finally:
        disk.remove()


_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int fdatasync(int fd) {
  char link[64], path[4096] = {0};
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length > 4 && strcmp(path + length - 4, "-wal") == 0) {
    if (access(getenv("SYNC_FAILS"), F_OK) == 0) { errno = EIO; return -1; }
    struct stat now;
    fstat(fd, &now);
    int log = open(getenv("SYNC_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0644);
    dprintf(log, "%lld\n", (long long)now.st_size);
    close(log);
  }
  return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""


def _with_shim(folder: Path, code: str, *arguments: object) -> str:
    """Run code in a process whose syncs of the log can fail, and are noted; returns what it printed."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the test compiles a library of its own")
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(_SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    added = {
        "LD_PRELOAD": " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)])),
        "SYNC_FAILS": str(folder / "fails"),
        "SYNC_LOG": str(folder / "synced"),
        "PYTHONPATH": os.pathsep.join(["tests", *sys.path]),
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | added, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_SYNC_FAILS = """
import sys
from pathlib import Path
from support.compiled_charges import Booker, plain_charge
from catalog.ground.driver import connect
path, lane, clearing, wallet, maker, fails = sys.argv[1:]
lane, clearing, wallet, maker = map(int, (lane, clearing, wallet, maker))
held = connect(f"sqlite:///{path}")
booker, fails = Booker(path, lane, clearing), Path(fails)
def charges(name):
    return [plain_charge(f"{name}{n}", wallet, clearing, maker, 1) for n in range(3)]
print(*booker.together(*charges("a")))
fails.touch()
print(*booker.together(*charges("b")))
print(*booker.together(*charges("c")))
fails.unlink()
print(*booker.together(*charges("b"), *charges("c")))
booker.close()
"""


def test_what_could_not_be_synced_is_not_booked_before_it_is(
    ledger: Ledger, tmp_path: Path
) -> None:
    """The first batch after the error is committed; its outcome is unsure, and nobody builds on it until the
    whole log is in the database."""
    world = ledger.world
    told = _with_shim(
        tmp_path, _SYNC_FAILS, _path(ledger.database), ledger.lane, world.clearing, ledger.wallet,
        world.maker, tmp_path / "fails",
    )  # fmt: skip
    assert told.splitlines() == [
        "booked booked booked",
        "unsure unsure unsure",
        "unsure unsure unsure",
        "booked booked booked booked booked booked",
    ]
    assert ledger.world.totals(ledger.wallet) == (0, 9, 1_000)


_POWER_CUT = """
import shutil, sys
from pathlib import Path
from support.compiled_charges import Booker, plain_charge
from catalog.ground.driver import connect
path, lane, clearing, wallet, maker, after = sys.argv[1:]
lane, clearing, wallet, maker = map(int, (lane, clearing, wallet, maker))
held = connect(f"sqlite:///{path}")
booker = Booker(path, lane, clearing)
for wave in range(12):
    charges = [plain_charge(f"c{wave}-{n}", wallet, clearing, maker, 1) for n in range(5)]
    assert booker.together(*charges) == ["booked"] * 5
held.execute("PRAGMA synchronous = OFF")  # a power cut forgets what this connection does
held.execute("UPDATE ledger_lane SET opened_at_us = opened_at_us + 1")
shutil.copy(path, after)
shutil.copy(f"{path}-wal", f"{after}-wal")
booker.close()
"""


def test_a_power_cut_keeps_every_booked_charge(ledger: Ledger, tmp_path: Path) -> None:
    """What the disk has for certain is the log as far as it was synced."""
    world, after = ledger.world, tmp_path / "after.db"
    ledger.world.close()
    _with_shim(
        tmp_path, _POWER_CUT, _path(ledger.database), ledger.lane, world.clearing, ledger.wallet,
        world.maker, after,
    )  # fmt: skip
    synced = [int(size) for size in (tmp_path / "synced").read_text().split()]
    log = after.with_name("after.db-wal")
    assert len(synced) == 12
    assert synced[-1] < log.stat().st_size
    os.truncate(log, synced[-1])
    database = Database(f"sqlite:///{after}")
    assert verify(database).problems == []
    connection = database.raw_connection()
    assert connection.execute("SELECT count(*) FROM usage_event").fetchone() == (60,)
    connection.close()
    database.dispose()


def test_a_killed_process_has_booked_all_that_it_said(ledger: Ledger, tmp_path: Path) -> None:
    world, chance = ledger.world, random.Random(7)
    world.do(world.post("rich", world.bank, ledger.wallet, 10**9))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    numbers = [ledger.lane, world.clearing, ledger.wallet, world.maker]
    for seed in range(6):
        command = [sys.executable, "-m", "support.compiled_charges", _path(ledger.database)]
        child = subprocess.Popen([*map(str, [*command, *numbers, seed, tmp_path])], env=environment)
        while not (tmp_path / f"ready-{seed}").exists():
            assert child.poll() is None
            time.sleep(0.01)
        time.sleep(chance.random() * 0.4)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert world.problems() == []
        answered = set((tmp_path / "answered").read_text().split())
        assert answered <= ledger.ids()
    assert answered


# --- opening and closing ------------------------------------------------------------------------------


def test_what_is_queued_is_booked_before_it_closes(ledger: Ledger) -> None:
    booker = ledger.booker()
    sent = [booker.send(ledger.charge(f"c{n}")) for n in range(30)]
    booker.close()
    booker.close()
    assert booker.writer.queued == 0
    late = booker.send(ledger.charge("late"))
    assert booker.wait([*sent, late]) == [*["booked"] * 30, "unsure"]
    assert len(ledger.ids()) == 30


def test_whoever_forgets_a_writer_closes_it(ledger: Ledger) -> None:
    booker = ledger.booker()
    booker.send(ledger.charge("c1"))
    del booker
    assert ledger.ids() == {"c1"}


def test_it_says_why_it_cannot_be_opened(ledger: Ledger, tmp_path: Path) -> None:
    clearing = ledger.world.clearing
    with pytest.raises(RuntimeError, match="cannot open the ledger: unable to open"):
        core.ChargeWriter(str(tmp_path / "none.db"), ledger.lane, clearing)
    with pytest.raises(RuntimeError, match="no such lane"):
        core.ChargeWriter(str(_path(ledger.database)), 999, clearing)
    (tmp_path / "text").write_text("no database at all " * 100)
    with pytest.raises(RuntimeError, match="not a database"):
        core.ChargeWriter(str(tmp_path / "text"), ledger.lane, clearing)
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()
    with pytest.raises(RuntimeError, match="cannot open the ledger"):
        core.ChargeWriter(str(tmp_path / "empty.db"), ledger.lane, clearing)


def test_only_the_sqlite_that_python_uses_will_do() -> None:
    code = (
        "from marketplace.gateway.express._core import ChargeWriter\n"
        "try:\n    ChargeWriter('none', 1, 1)\nexcept RuntimeError as why:\n    print(why)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "has not been loaded" in done.stdout
