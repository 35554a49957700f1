"""Whoever reads the journal is told the same of a charged call as of one that was held and settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlmodel import Session, col, select
from support.economy import TTL_S, Economy, unhurried
from support.ledger_world import World

from catalog.ground.database import Database
from marketplace.cli.ledger import recost
from marketplace.gateway.endpoints import describe
from marketplace.gateway.money import Call
from marketplace.ledger.operations import Done
from marketplace.ledger.reading import event, fees_of, legs_of
from marketplace.ledger.tables import UsageEvent
from marketplace.ledger.verify import verify
from marketplace.prices.components import Buckets
from marketplace.reports.audit import drill
from marketplace.vouchers import claims
from marketplace.vouchers.claimable import used_items
from marketplace.vouchers.proof import prove
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.tables import ClaimLine


class Twins:
    """Two organisations with the same wallets and vouchers: one's calls are held, the other's charged."""

    def __init__(self, database: Database) -> None:
        unhurried(database)
        self.database = database
        self.world = World(database)
        self.e = Economy(database, self.world)
        for org in ("a", "b"):
            self.e.top_up(org, 200)
            for code in ("city", "district", "later"):
                self.e.issue(org, code, 25)

    def call(self, org: str, most: int, used: int, *, free: bool = False) -> Call:
        """Make a call that may use `most` and uses `used` tokens; returns it with its bill."""
        e = self.e
        e.now += 1
        call = e.call(org, *e.payers(org, "maker", free=free), most)
        if org == "a":
            e.world.do(call.hold(TTL_S))
        else:
            held = dict.fromkeys(call.accounts, 0)
            for account in held:
                held[account] = e.world.left(account)
            call.decide(held)
        bill = call.settle(Buckets(0, 0, 0, used, 0), "{}", "provider", "ok", e.now)
        operation = bill.operation(call, call.tx, e.now) if org == "a" else bill.charge(call)
        assert e.world.do(operation) == Done(changed=True)
        return call

    def both(self, most: int, used: int, *, free: bool = False) -> tuple[str, str]:
        """Make the same call twice, held and charged; returns their ids."""
        at_us = self.e.now
        held = self.call("a", most, used, free=free)
        self.e.now = at_us
        return held.id, self.call("b", most, used, free=free).id


@pytest.fixture
def twins(database: Database) -> Iterator[Twins]:
    twins = Twins(database)
    yield twins
    twins.world.close()
    assert verify(database, recost=recost).problems == []


def _as_of(twins: Twins, told: Any) -> Any:
    """Return what was told with the charged twin's names in the place of the held one's."""
    if isinstance(told, dict):
        return {key: _as_of(twins, value) for key, value in told.items()}
    if isinstance(told, list):
        return [_as_of(twins, value) for value in told]
    if not isinstance(told, str):
        return told
    by_code = {
        code: [g.id for g in twins.e.grants if g.code == code]
        for code in ("city", "district", "later")
    }
    for held, charged in by_code.values():
        told = told.replace(held, charged)
    return told.replace(twins.e.org("a"), twins.e.org("b"))


CALLS = [(60, 60), (60, 33), (40, 0), (20, 26), (7, 7)]
"""What a call may use, and what it uses; more of that is the platform's overrun."""


def test_legs_fees_and_descriptions_are_those_of_a_settled_hold(twins: Twins) -> None:
    pairs = [twins.both(most, used) for most, used in CALLS]
    free = twins.both(30, 20, free=True)
    pairs.append(free)
    accounts = dict(
        zip(
            [g.account for g in twins.e.grants if g.org == "a"] + [twins.e.wallet_ids["a"]],
            [g.account for g in twins.e.grants if g.org == "b"] + [twins.e.wallet_ids["b"]],
            strict=True,
        )
    )
    with twins.database.reading() as session:
        for held, charged in pairs:
            legs, fees = legs_of(session, [held, charged]), fees_of(session, [held, charged])
            assert fees.get(held) == fees.get(charged)
            one, two = (
                [(p.leg, p.account_id, p.amount, p.debit_total) for p in legs.get(call, [])]
                for call in (held, charged)
            )
            if (held, charged) == free:
                # Its quota is its organisation's own, opened on the day's first call.
                one, two = ([(leg, *rest) for leg, _, *rest in each] for each in (one, two))
            else:
                one = [(leg, accounts[account], *rest) for leg, account, *rest in one]
            assert one == two
            told = [describe(session, event(session, call)) for call in (held, charged)]
            for each in told:
                each.pop("id")
                for part in each["paid_by"]:
                    if part["unit"] != "CNY":
                        for name in ("account", "voucher"):
                            part.pop(name)
            assert _as_of(twins, told[0]) == told[1]
        assert sum(fees_of(session, [b for _, b in pairs]).values()) > 0
        assert len(legs_of(session, [b for _, b in pairs])) >= len(CALLS)


def test_claims_and_the_audit_are_those_of_a_settled_hold(twins: Twins) -> None:
    pairs = [twins.both(most, used) for most, used in CALLS]
    e = twins.e
    for code in ("city", "district", "later"):
        with twins.database.reading() as session:
            found = list(used_items(session, e.programmes[code].id, 0, e.now + 1))
        by_event = {
            call: [(i.leg, i.amount_u) for i in found if i.event_id == call]
            for pair in pairs
            for call in pair
        }
        for held, charged in pairs:
            assert by_event[held] == by_event[charged]
        assert any(by_event.values())
    with twins.database.session() as session:
        for held, charged in pairs[:2]:
            amounts = []
            for call in (held, charged):
                cost_u = session.get_one(UsageEvent, call).cost_u
                at_us = e.now + 5
                made = refund(session, f"ref-{call}", call, cost_u // 2, "why", "clerk", at_us)
                amounts.append(made.amount_u)
            assert amounts[0] == amounts[1]
    e.now += 10
    for funder_id in e.split("city")[1]:
        name = f"clm-{funder_id}"
        with twins.database.session() as session:
            period = claims.Period("p", 0, e.now)
            claims.draft(session, name, e.programmes["city"], funder_id, period, "ann", e.now)
            claims.submit(session, name, [], "bob", e.now)
        with twins.database.reading() as session:
            _check_drills(twins, session, name, dict(pairs))
    with twins.database.reading() as session:
        assert prove(session) == []


def _check_drills(twins: Twins, session: Session, claim: str, twin: dict[str, str]) -> None:
    rows = session.exec(select(ClaimLine).where(col(ClaimLine.claim_id) == claim)).all()
    lines = {(row.event_id, row.leg, row.refund_id != ""): row for row in rows}
    seen = 0
    for (call, leg, back), row in lines.items():
        if call not in twin:
            continue
        other = lines[twin[call], leg, back]
        held, charged = (drill(session, claim, line.n) for line in (row, other))
        assert row.amount_u == other.amount_u
        assert held["line"]["leg_u"] == charged["line"]["leg_u"] > 0
        assert all(held["proved"].values())
        assert all(charged["proved"].values())
        assert {t["kind"] for t in charged["transfers"]} == {"POSTED"}
        assert charged["batches"]
        seen += 1
    assert seen
