"""The compiled charge writer leaves what Python's journal leaves: the same rows, in the same batches.

And all that was sent is booked before it closes.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.compiled_charges import Booker, Ledger
from support.ledger_world import T0, usage

from catalog.ground.errors import PaymentRequired
from marketplace.ledger.chart import Code, Rule
from marketplace.ledger.journal import BatchRun
from marketplace.ledger.operations import Charge, Done, Entry, Leg

core = pytest.importorskip("marketplace.gateway.express._core")


ODD = [
    "", "plain", 'a "quoted" \\ text', "tab\tline\nreturn\r\b\f", "\x01\x1f\x7f", "模型 π é",
    "🜚 \u2028\u2029", "</script>", "x" * 3_000, "nul\0in it",
]  # fmt: skip


class Walk:
    """Random charges on a ledger with every kind of account that a call may touch."""

    def __init__(self, url: str, seed: int) -> None:
        self.ledger, self.random = Ledger(url), random.Random(seed)
        world = self.ledger.world
        self.payers = [self.ledger.wallet]
        self.payers += [world.account(f"grant:{n}", 300 * n) for n in range(3)]
        self.sinks = [world.clearing] * 3 + [world.account("quota_used:x", rule=Rule.PROJECTION)]
        self.takers = [world.maker, world.account("platform:fee2", rule=Rule.PROJECTION)]
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
        if chance.random() < 0.3:
            # An account with a bound gets something, and one that is owed is debited.
            entries.append(Entry(Code.ADJUST, world.bank, chance.choice(self.payers), 2))
            entries.append(Entry(Code.ADJUST, self.owed, world.bank, 5))
        row = usage(tx, cost, wallet=paid[True], voucher=paid[False])
        changed: dict[Any, list[Any]] = {
            "key": ODD,
            "maker/mini": ODD,
            "{}": ODD,
            T0: [T0, -5, 2**63 - 1],
        }
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
    log = ledger.path.with_name("tokenmart.db-wal")
    sizes = []
    for wave in range(60):
        booker.together(*(ledger.charge(f"c{wave}-{n}") for n in range(50)))
        sizes.append(log.stat().st_size)
    assert max(sizes) < 2 * 1000 * 4096


# --- opening and closing --------------------------------------------------------------------------------


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
        core.ChargeWriter(str(ledger.path), 999, clearing)
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
