"""Two writers on one ledger, Python's and the compiled one: each sees what the other did, in its turn."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.compiled_charges import Booker, Ledger, plain_charge
from support.ledger_world import usage
from support.market import wait_until

from catalog.ground.errors import Conflict, LedgerCorrupt, PaymentRequired, TokenMartError
from marketplace.ledger.operations import Charge, Leg
from marketplace.ledger.writer import LedgerWriter

core = pytest.importorskip("marketplace.gateway.express._core")


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
    bad = ledger.balanced(Leg(ledger.wallet, -1, ledger.world.clearing))
    for spoiled, error in ((ledger.charge("c1"), Conflict), (bad, LedgerCorrupt)):
        with pytest.raises(error):
            writer.submit(spoiled)
        assert booker.do(ledger.charge(f"after {error}")) == "booked"
    writer.close()


def _sleeps(thread: threading.Thread) -> bool:
    """Return whether the kernel has nothing to do for a thread until another one wakes it."""
    status = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "S"


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """No thread has to leave the interpreter's lock to another one before it waits for something else."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(600)
    yield
    sys.setswitchinterval(interval_s)


@pytest.mark.usefixtures("undisturbed")
def test_whoever_waits_longest_has_the_next_turn() -> None:
    turns, order = core.Turn(), []
    here: set[int] = set()
    waiting: list[threading.Thread] = []

    def write(number: int) -> None:
        here.add(number)
        with core.Turn():
            order.append(number)

    def queued(number: int) -> bool:
        # Once it is here it waits for nothing else: if it sleeps, it stands in the queue.
        return number in here and _sleeps(waiting[number])

    with turns:
        for number in range(8):
            waiting.append(threading.Thread(target=write, args=(number,)))
            waiting[-1].start()
            wait_until(partial(queued, number))
        assert order == []
    for thread in waiting:
        thread.join()
    assert order == list(range(8))


def test_a_turn_that_was_not_taken_cannot_be_given() -> None:
    with pytest.raises(RuntimeError, match="not been taken"):
        core.Turn().__exit__(None, None, None)
