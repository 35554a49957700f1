"""What the compiled charge writer says of each charge: booked, refused, or unsure.

One that cannot be booked spoils nobody beside it, and one that is booked already is not booked again.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.compiled_charges import Booker, Ledger
from support.ledger_world import T0

from catalog.ground.errors import Conflict
from marketplace.ledger.chart import Code
from marketplace.ledger.operations import Charge, Done, Entry, Leg
from marketplace.ledger.writer import LedgerWriter

core = pytest.importorskip("marketplace.gateway.express._core")


# --- what is not booked --------------------------------------------------------------------------------


def test_too_little_money_refuses_its_own_charge_only(ledger: Ledger, booker: Booker) -> None:
    world = ledger.world
    world.do(world.hold("res_1", (ledger.wallet, 600)))
    amounts = [300, 101, 50, 51, 50, 1, 0]
    outcomes = booker.together(*(ledger.charge(f"c{n}", a) for n, a in enumerate(amounts)))
    assert outcomes == ["booked", "refused", "booked", "refused", "booked", "refused", "booked"]
    assert world.totals(ledger.wallet) == (600, 400, 1_000)
    assert ledger.ids() == {"c0", "c2", "c4", "c6"}


def _bad_charges(ledger: Ledger) -> dict[str, Charge]:
    world, wallet, most = ledger.world, ledger.wallet, 2**63 - 1
    clearing, fair = world.clearing, ledger.charge("bad", 3)
    row = fair.usage

    def entries(*more: Entry) -> Charge:
        return Charge(fair.tx, fair.legs, (*fair.entries, *more), row, T0)

    def of_usage(usage_row: tuple[Any, ...]) -> Charge:
        return Charge(fair.tx, fair.legs, fair.entries, usage_row, T0)

    return {
        "no account": ledger.balanced(Leg(10**6, 5, clearing)),
        "a projection pays": ledger.balanced(Leg(world.maker, 5, clearing)),
        "clearing pays": ledger.balanced(Leg(clearing, 5, clearing)),
        "a negative leg": ledger.balanced(Leg(wallet, -5, clearing)),
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
        booker.writer.send(fair.tx, ((1, 2),), fair.entries, fair.usage, T0)
    assert booker.do(fair) == "booked"


# --- once --------------------------------------------------------------------------------


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
