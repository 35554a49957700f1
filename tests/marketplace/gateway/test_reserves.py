"""Money put aside for calls to come: the plans that holds would get, never more than there is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from support.ledger_world import T0, World

from catalog.ground.clock import SECOND_US
from catalog.ground.database import Database
from catalog.ground.errors import PaymentRequired
from catalog.ground.ids import new_id, ulid
from catalog.listings.callable import CallableListing
from marketplace.gateway.caps import NO_CAPS, Cap, KeyCaps
from marketplace.gateway.money import Books, Call
from marketplace.gateway.records import EndpointRecord, KeyRecord, ListingRecord, OrgLadder
from marketplace.gateway.reserves import BUSY, Reserves
from marketplace.ledger.accounts import account_id, open_account
from marketplace.ledger.chart import CNY as CNY_UNIT
from marketplace.ledger.chart import Code, Rule
from marketplace.ledger.operations import Entry, Post, Release
from marketplace.ledger.sweep import expired_holds
from marketplace.ledger.writer import LedgerWriter
from marketplace.prices.components import Buckets, Components, canonical
from marketplace.vouchers.ladder import Ladder, Step
from marketplace.vouchers.plan import CNY, FREE, INSTANT, LIST, REQ, RESIDUAL, TOK

PRICE = Components(input_u_per_m=1_000_000, output_u_per_m=1_000_000)
"""One micro-yuan a token."""
TTL_S = 120
FOREVER = 2**62


class Desk:
    """A worker's reserves on a real ledger, and calls of one organisation."""

    def __init__(self, database: Database, world: World) -> None:
        self.database, self.world = database, world
        self.at_us = T0
        self.owners: dict[int, str] = {}
        """Whose an account is: a wallet is named after its organisation."""
        self.writer = LedgerWriter(database.raw_connection, f"desk-{ulid()}")
        with database.session() as session:
            self.books = Books(
                clearing=world.clearing,
                overrun=world.overrun,
                rounding=account_id(session, "platform:rounding"),
                free_cost=account_id(session, "platform:free_cost"),
                fee=account_id(session, "platform:fee"),
            )
            self.sinks = {
                REQ: open_account(session, "used:REQ:free", Rule.PROJECTION, "REQ:free"),
                TOK: open_account(session, "used:TOK:any", Rule.PROJECTION, "TOK:any"),
            }
            self.counted = open_account(session, "counted", Rule.PROJECTION)
        self.reserves = Reserves(self.writer, self.books.clearing, lambda: self.at_us, TTL_S)
        self.listing = _filled(
            ListingRecord, listing=_filled(CallableListing, slug="maker/mini", owner_org="maker"),
            price_version_id="prc", components=PRICE, components_text=canonical(PRICE)[0],
            owner_account_id=world.maker, fee_bp=100,
        )  # fmt: skip

    def account(self, amount: int, what: str = "purse", unit: str = CNY_UNIT) -> int:
        """Open an account and put so much on it."""
        name = ulid()
        account = self.world.account(f"{what}:{name}", unit=unit)
        self.owners[account] = name
        if amount:
            source = self.world.account(f"source:{unit}", rule=Rule.PROJECTION, unit=unit)
            self.world.do(self.world.post(f"fund:{account}", source, account, amount))
        return account

    def call(self, ladder: OrgLadder, tokens: int, caps: KeyCaps = NO_CAPS) -> Call:
        """Return a call of at most `tokens` tokens, that is micro-yuan."""
        key = _filled(KeyRecord, id="key", org_id=self.owners[ladder.accounts[-1]])
        return Call(
            id=new_id("gen"), key=key, record=self.listing,
            payer=ladder, books=self.books, input_tokens=0, choices=1, max_tokens=tokens,
            started_at_us=self.at_us, streamed=False, request_sha256="", caps=caps,
            endpoint=EndpointRecord(id="end", url="", model=""),
        )  # fmt: skip

    def payer(self, *steps: Step, wallet: int | None = None) -> OrgLadder:
        """Return who pays: the steps in this order, then the wallet."""
        wallet = self.account(0, "wallet") if wallet is None else wallet
        accounts = (*(step.account_id for step in steps), wallet)
        sinks = {step.account_id: self.sinks[step.unit] for step in steps if step.unit != CNY}
        return OrgLadder(Ladder(steps, (), wallet), accounts, sinks, FOREVER, T0)

    async def busy(self, make: Callable[[], Call], times: int = BUSY) -> None:
        """Let so many calls make holds of their own and cost nothing, then wait for the reserves."""
        for _ in range(times):
            call = make()
            await self.reserves.hold(call)
            await self.writer.apply(Release(call.tx, self.at_us))
        await self.settled()

    async def busy_purse(self, amount: int) -> tuple[int, OrgLadder]:
        """Return an account that many calls of 100 draw on, and who pays from it."""
        purse = self.account(amount)
        payer = self.payer(voucher(purse))
        await self.busy(lambda: self.call(payer, 100))
        return purse, payer

    async def settled(self) -> None:
        """Wait until nothing is being made."""
        while self.reserves._tasks:
            await asyncio.gather(*self.reserves._tasks)

    async def charge(self, call: Call, used: int) -> None:
        bill = call.settle(Buckets(0, 0, 0, used, 0), "{}", "engine", "ok", self.at_us)
        try:
            await self.writer.apply(bill.charge(call))
        except PaymentRequired:
            await self.reserves.charge(call, bill)
        finally:
            self.reserves.let_go(call)

    def held(self, *accounts: int) -> list[int]:
        """Return what is promised on each account in the ledger."""
        return [self.world.totals(account)[0] for account in accounts]

    def holds(self) -> int:
        with self.database.reading() as session:
            return int(
                session.connection().execute(text("SELECT count(*) FROM ledger_hold")).scalar_one()
            )


def voucher(account: int, ratio_bp: int = 10_000, **more: Any) -> Step:
    """Return a rung that pays in money."""
    columns = {
        "unit": CNY, "kind": INSTANT, "ratio_bp": ratio_bp, "base": RESIDUAL, "cap_bp": 10_000,
        "chain": 0, "bit": 0, "takes": 0, "effective_at_us": 0, "expires_at_us": FOREVER,
        "grant_id": f"grt_{account}", "programme": "prg",
    }  # fmt: skip
    return Step(account_id=account, **(columns | more))


def _filled(kind: type, **known: Any) -> Any:
    """Return a record with these fields, and nothing in the others."""
    return kind(**({field.name: "" for field in fields(kind)} | known))


@asynccontextmanager
async def desk_on(database: Database, world: World) -> AsyncIterator[Desk]:
    desk = Desk(database, world)
    try:
        yield desk
    finally:
        await desk.reserves.close()
        desk.writer.close()
    assert desk.holds() == 0


def run(database: Database, world: World, story: Callable[[Desk], Any]) -> None:
    async def tell() -> None:
        async with desk_on(database, world) as desk:
            await story(desk)

    asyncio.run(tell())


def test_a_busy_account_gets_a_reserve_and_calls_are_charged_beside_it(
    database: Database, world: World
) -> None:
    async def story(desk: Desk) -> None:
        purse = desk.account(1_600_000)
        payer = desk.payer(voucher(purse))
        first = desk.call(payer, 100)
        assert not desk.reserves.promise(first)  # nothing is put aside yet
        await desk.busy(lambda: desk.call(payer, 100))
        assert desk.held(purse) == [128 * 100]
        calls = [desk.call(payer, 100) for _ in range(130)]
        promised = [desk.reserves.promise(call) for call in calls]
        assert promised == [True] * 128 + [False] * 2  # as many as it is enough for
        for call in calls[:128]:
            assert call.plan == call.draw(100, {purse: 1_000_000})
            await desk.charge(call, 60)
        assert desk.world.totals(purse) == (128 * 100, 128 * 60, 1_600_000)

    run(database, world, story)


def test_a_reserve_is_a_small_part_divided_among_workers(database: Database, world: World) -> None:
    async def story(desk: Desk) -> None:
        purse, _ = await desk.busy_purse(16_000)
        scarce, _ = await desk.busy_purse(6_300)
        assert desk.held(purse, scarce) == [1_000, 0]  # a sixteenth; four calls are the least
        desk.reserves.divide(2)
        third, _ = await desk.busy_purse(16_000)
        assert desk.held(third) == [500]

    run(database, world, story)


def test_the_last_of_the_money_is_not_kept_from_a_call(database: Database, world: World) -> None:
    async def story(desk: Desk) -> None:
        purse, payer = await desk.busy_purse(16_000)
        assert desk.held(purse) == [1_000]
        running = desk.call(payer, 100)
        assert desk.reserves.promise(running)
        large = desk.call(payer, 15_900)
        assert not desk.reserves.promise(large)
        await desk.reserves.hold(large)
        assert not large.clamped
        assert desk.held(purse) == [16_000]  # its own, and what the running call was promised
        more = desk.call(payer, 100)
        with pytest.raises(PaymentRequired):
            await desk.reserves.hold(more)
        await desk.charge(running, 100)
        await desk.writer.apply(Release(large.tx, desk.at_us))

    run(database, world, story)


def test_a_charge_is_paid_out_of_the_reserve_when_nothing_is_left_beside_it(
    database: Database, world: World
) -> None:
    async def story(desk: Desk) -> None:
        purse, payer = await desk.busy_purse(16_000)
        running = [desk.call(payer, 100) for _ in range(10)]
        assert all(desk.reserves.promise(call) for call in running)
        # A grant that is taken away gives back all that it has not promised.
        taken = Post(f"take:{purse}", (Entry(Code.VOID_GRANT, purse, world.bank, 15_000),), T0)
        await desk.writer.apply(taken)
        charging = asyncio.gather(*(desk.charge(call, 100) for call in running[:2]))
        while desk.reserves._open:
            await asyncio.sleep(0)
        assert not desk.reserves.promise(desk.call(payer, 1))  # it is being taken apart
        await charging
        assert desk.world.totals(purse) == (800, 15_200, 16_000)
        other = desk.call(payer, 1)  # what the others were promised stays theirs
        with pytest.raises(PaymentRequired):
            await desk.reserves.hold(other)
        await asyncio.gather(*(desk.charge(call, 100) for call in running[2:]))
        assert desk.world.totals(purse) == (0, 16_000, 16_000)
        await desk.reserves._look()
        assert not desk.reserves._some_on([purse])  # used up, and forgotten

    run(database, world, story)


def test_nobody_is_served_for_nothing_when_a_reserve_has_expired(
    database: Database, world: World
) -> None:
    async def story(desk: Desk) -> None:
        purse, payer = await desk.busy_purse(16_000)
        call = desk.call(payer, 100)
        assert desk.reserves.promise(call)
        with database.reading() as session:
            overdue = expired_holds(session, T0 + 61 * SECOND_US)
        for (
            release
        ) in overdue:  # this worker stood still for too long, and its calls' money is spent
            await desk.writer.apply(release)
        spent = Post(f"spend:{purse}", (Entry(Code.VOID_GRANT, purse, world.bank, 15_950),), T0)
        await desk.writer.apply(spent)
        bill = call.settle(Buckets(0, 0, 0, 100, 0), "{}", "engine", "ok", desk.at_us)
        with pytest.raises(PaymentRequired):
            await desk.reserves.charge(call, bill)
        late = call.late_hold(bill, desk.at_us, TTL_S)
        await desk.writer.apply(late)
        await desk.writer.apply(bill.operation(call, late.tx, desk.at_us))
        assert (bill.voucher_u, bill.overrun_u) == (50, 50)
        desk.reserves.let_go(call)

    run(database, world, story)


def test_a_call_whose_reserve_has_gone_leaves_the_others_what_they_were_promised(
    database: Database, world: World
) -> None:
    """The wallet's reserve has expired and its money is spent; the voucher's still stands."""

    async def story(desk: Desk) -> None:
        purse, wallet = desk.account(1_600_000), desk.account(1_600_000, "wallet")
        payer = desk.payer(voucher(purse, 5_000), wallet=wallet)
        await desk.busy(lambda: desk.call(payer, 100))
        large, small = desk.call(payer, 1_000), desk.call(payer, 100)
        assert desk.reserves.promise(large)
        assert desk.reserves.promise(small)
        gone = desk.reserves._open[wallet].tx
        await desk.writer.apply(Release(gone, desk.at_us, expired=True))
        for account in (purse, wallet):
            spent = Entry(Code.VOID_GRANT, account, world.bank, world.left(account))
            await desk.writer.apply(Post(f"spend:{account}", (spent,), T0))

        async def settle(call: Call) -> tuple[int, int]:
            bill = call.settle(Buckets(0, 0, 0, call.max_tokens, 0), "{}", "e", "ok", desk.at_us)
            with pytest.raises(PaymentRequired):
                await desk.reserves.charge(call, bill)
            late = call.late_hold(bill, desk.at_us, TTL_S)
            await desk.writer.apply(late)
            await desk.writer.apply(bill.operation(call, late.tx, desk.at_us))
            desk.reserves.let_go(call)
            return bill.voucher_u, bill.overrun_u

        bills = await asyncio.gather(settle(large), settle(small))
        assert list(bills) == [(500, 500), (50, 50)]

    run(database, world, story)


def test_a_call_that_waited_long_for_its_turn_has_a_hold_as_long_as_any(
    database: Database, world: World
) -> None:
    async def story(desk: Desk) -> None:
        payer = desk.payer(voucher(desk.account(1_000)))
        call = desk.call(payer, 100)
        desk.at_us += (TTL_S + 1) * SECOND_US
        await desk.reserves.hold(call)
        with database.reading() as session:
            assert expired_holds(session, desk.at_us + (TTL_S - 1) * SECOND_US) == []
            assert len(expired_holds(session, desk.at_us + TTL_S * SECOND_US)) == 1
        await desk.writer.apply(Release(call.tx, desk.at_us))

    run(database, world, story)


def test_a_clock_that_is_set_back_keeps_no_reserve_longer(database: Database, world: World) -> None:
    async def story(desk: Desk) -> None:
        purse, payer = await desk.busy_purse(160_000)
        running = desk.call(payer, 100)
        assert desk.reserves.promise(running)
        desk.at_us -= 3_600 * SECOND_US
        await desk.reserves._look()
        assert desk.reserves._open == {}  # few have called; it does not live on for an hour
        assert desk.held(purse) == [100]
        desk.at_us -= 3_600 * SECOND_US
        await desk.reserves._look()
        with database.reading() as session:
            # If its worker dies now, it is not there for an hour either.
            assert len(expired_holds(session, desk.at_us + 60 * SECOND_US)) == 1
        desk.at_us += 50 * SECOND_US
        await desk.reserves._look()
        with database.reading() as session:
            assert expired_holds(session, desk.at_us + 50 * SECOND_US) == []
        await desk.charge(running, 40)

    run(database, world, story)


def test_reserves_follow_what_is_left_and_go_when_nobody_calls(
    database: Database, world: World
) -> None:
    async def story(desk: Desk) -> None:
        purse, payer = await desk.busy_purse(160_000)
        assert desk.held(purse) == [10_000]
        running = desk.call(payer, 100)
        for _ in range(BUSY):
            call = desk.call(payer, 100)
            assert desk.reserves.promise(call)
            await desk.charge(call, 100)
        assert desk.reserves.promise(running)
        await desk.writer.apply(
            Post(f"spend:{purse}", (Entry(Code.VOID_GRANT, purse, world.bank, 69_200),), T0)
        )
        desk.at_us += 6 * SECOND_US
        await desk.reserves._look()
        await desk.settled()
        # A sixteenth of what was left beside the old one, and what the old one has promised.
        assert desk.held(purse) == [80_000 // 16 + 100]
        desk.at_us += 6 * SECOND_US
        await desk.reserves._look()  # nobody has called
        assert desk.held(purse) == [100]
        desk.at_us += 50 * SECOND_US
        await desk.reserves._look()  # renewed: the call is still running
        with database.reading() as session:
            assert expired_holds(session, desk.at_us + 50 * SECOND_US) == []
        await desk.charge(running, 40)
        await desk.reserves._look()
        assert desk.held(purse) == [0]

    run(database, world, story)


def test_quotas_and_caps_are_put_aside_like_money(database: Database, world: World) -> None:
    async def story(desk: Desk) -> None:
        quota = desk.account(1_600, unit="REQ:free")
        wallet, spent = desk.account(1_600_000, "wallet"), desk.account(1_600_000)
        free = voucher(quota, unit=REQ, kind=FREE)
        payer = desk.payer(free, wallet=wallet)
        window = Cap(account_id=spent, limit_u=1_600_000, rule="key.daily_u", ends_at_us=FOREVER)
        caps = KeyCaps(caps=(window,), sink_id=desk.counted, good_until_us=FOREVER)
        await desk.busy(lambda: desk.call(payer, 100, caps))
        assert desk.held(quota, wallet, spent) == [100, 0, 0]
        call = desk.call(payer, 100, caps)
        assert not desk.reserves.promise(call)  # a cap without a reserve has not been asked
        paid = desk.payer(wallet=wallet)
        await desk.busy(lambda: desk.call(paid, 100, caps))
        assert desk.held(quota, wallet, spent) == [100, 12_800, 12_800]
        for payers, drawn in ((payer, (1, 0, 0)), (paid, (0, 70, 70))):
            before = [world.totals(a)[1] for a in (quota, wallet, spent)]
            call = desk.call(payers, 100, caps)
            assert desk.reserves.promise(call)
            await desk.charge(call, 70)
            after = [world.totals(a)[1] for a in (quota, wallet, spent)]
            assert tuple(b - a for a, b in zip(before, after, strict=True)) == drawn

    run(database, world, story)


_UNITS = {CNY: CNY_UNIT, REQ: "REQ:free", TOK: "TOK:any"}
_STEP = st.tuples(
    st.sampled_from([0, 0, 50, 5_000, 10_000_000]),
    st.sampled_from([1_000, 3_333, 5_000, 10_000]),
    st.sampled_from([(CNY, INSTANT), (CNY, INSTANT), (REQ, FREE), (TOK, FREE)]),
    st.sampled_from([RESIDUAL, LIST]),
    st.sampled_from([10_000, 10_000, 6_000]),
    st.integers(0, 2),
    st.booleans(),
)


@settings(max_examples=120, deadline=None)
@given(
    steps=st.lists(_STEP, max_size=4),
    wallet_u=st.sampled_from([0, 3, 10_000_000]),
    tokens=st.lists(st.integers(1, 3_000), min_size=1, max_size=6),
)
def test_a_promise_has_the_plan_of_a_hold(
    sqlite_desk: tuple[Database, World],
    steps: Sequence[tuple[Any, ...]],
    wallet_u: int,
    tokens: Sequence[int],
) -> None:
    """Whatever the ladder and the balances: what is promised is what a hold would promise then."""
    database, world = sqlite_desk

    async def story(desk: Desk) -> None:
        rungs = [
            voucher(
                desk.account(amount, unit=_UNITS[unit]), ratio, unit=unit, kind=kind, base=base, cap_bp=cap,
                bit=1 << bit, takes=(1 << bit) * closes,
            )
            for amount, ratio, (unit, kind), base, cap, bit, closes in steps
        ]  # fmt: skip
        payer = desk.payer(*rungs, wallet=desk.account(wallet_u, "wallet"))
        try:
            await desk.busy(lambda: desk.call(payer, 300))
        except PaymentRequired:
            return
        for most in tokens:
            call = desk.call(payer, most)
            if not desk.reserves.promise(call):
                continue
            left = {
                account: received - spent - held
                for account in payer.accounts
                for held, spent, received in [world.totals(account)]
            }
            assert call.plan == call.draw(most, left)
            await desk.charge(call, random.Random(most).randint(0, most))

    run(database, world, story)


@pytest.fixture(scope="module")
def sqlite_desk(_sqlite_template: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import shutil

    path = tmp_path_factory.mktemp("reserves") / "ledger.db"
    shutil.copy(_sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    world = World(database)
    yield database, world
    world.close()
    assert world.problems() == []
    database.dispose()


def test_many_calls_at_once_spend_what_is_there_and_no_more(
    database: Database, world: World
) -> None:
    """Calls of all sizes, promised or held, charged, given up, with money coming and going beside them."""

    async def story(desk: Desk) -> None:
        draw = random.Random(7)
        purse = desk.account(60_000)
        payer = desk.payer(voucher(purse))
        served: list[int] = []
        refused = 0

        async def caller() -> None:
            nonlocal refused
            for _ in range(60):
                call = desk.call(payer, draw.choice((10, 20, 40, 400)))
                if not desk.reserves.promise(call):
                    try:
                        await desk.reserves.hold(call)
                    except PaymentRequired:
                        refused += 1
                        continue
                await asyncio.sleep(draw.random() / 500)
                if draw.random() < 0.1:  # the engine failed
                    if not call.promised:
                        await desk.writer.apply(Release(call.tx, desk.at_us))
                    desk.reserves.let_go(call)
                    continue
                used = draw.randint(0, call.max_tokens)
                if call.promised:
                    await desk.charge(call, used)
                else:
                    bill = call.settle(Buckets(0, 0, 0, used, 0), "{}", "e", "ok", desk.at_us)
                    await desk.writer.apply(bill.operation(call, call.tx, desk.at_us))
                served.append(used)

        async def looks() -> None:
            while True:
                await asyncio.sleep(0.02)
                desk.at_us += 2 * SECOND_US
                await desk.reserves._look()

        looking = asyncio.ensure_future(looks())
        await asyncio.gather(*(caller() for _ in range(24)))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await desk.settled()
        await desk.reserves.close()
        assert world.totals(purse) == (0, sum(served), 60_000)
        assert refused
        assert sum(served) > 55_000

    run(database, world, story)
