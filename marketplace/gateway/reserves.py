"""Money that a worker has put aside in the ledger, so that calls need not wait for holds of their own.

    many calls draw on an account ─► a reserve: one hold of a small part of what is there
      a call ─► its most is promised in memory ─► served ─► charged beside the reserve ─► promise let go

A reserve bounds what the calls that it stands for may cost together, as holds of their own would; it is a
hold like any other, so nobody else can spend it, and it expires when its worker dies. A charge takes what
the account has beside all holds, so that the reserve stays whole for the next call; where nothing is left
beside it, the charge is paid out of the reserve itself.

Reserves of all workers together are at most a sixteenth of what an account has, and there is none where
that is only a few calls' worth: the last of the money is given out call by call, by holds. A call that
would have to be refused or shortened gets first what this worker has put aside and not promised.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable

from catalog.ground.clock import SECOND_US, Clock
from catalog.ground.errors import PaymentRequired, TokenMartError
from catalog.ground.ids import new_id
from marketplace.gateway.money import Bill, Call
from marketplace.ledger.operations import (
    Available,
    Held,
    Hold,
    Leg,
    Rehold,
    Release,
    Renew,
)
from marketplace.ledger.writer import LedgerWriter
from marketplace.vouchers.ladder import EXHAUSTED
from marketplace.vouchers.plan import Plan

log = logging.getLogger(__name__)

BUSY = 8
"""Holds on one account between two looks that make it worth a reserve, and calls in its life that keep it."""
_PART = 16
_CALLS = 128
"""Calls of the largest size that a reserve should be enough for, and at least how many."""
_FEWEST_CALLS = 4
_LOOK_S = 1.0
_LIFE_US = 2 * SECOND_US
"""After so long a reserve is made anew, from what the account has then, or given up if few used it."""
_EMPTY_US = SECOND_US
"""How long an account that had nothing is taken to have nothing."""
_TTL_S = 60
_MOST_EMPTY = 10_000
PLENTY = 1 << 62
"""What an account with a reserve is taken to have."""


class Reserve:
    """One hold of one account, and how much of it is promised to running calls (`out`)."""

    __slots__ = (
        "account_id",
        "amount",
        "calls",
        "made_at_us",
        "most",
        "org_id",
        "out",
        "tx",
        "until_us",
    )

    def __init__(self, account_id: int, org_id: str, at_us: int, until_us: int) -> None:
        self.account_id = account_id
        self.org_id = org_id
        self.tx = new_id("res")
        self.amount = 0
        self.out = 0
        self.calls = self.most = 0
        """Promises that were made of it, and the largest of them."""
        self.made_at_us = at_us
        self.until_us = until_us


Promised = tuple[tuple[Reserve, int], ...]


class _Demand:
    """Holds of their own that calls have made on an account since the last look."""

    __slots__ = ("calls", "most")

    def __init__(self) -> None:
        self.calls = self.most = 0


class Reserves:
    """All reserves of one worker. Amounts are in the account's unit, micro-yuan for money."""

    def __init__(self, writer: LedgerWriter, clearing: int, clock: Clock, ttl_s: int) -> None:
        self._writer = writer
        self._clearing = clearing
        self._clock = clock
        self._ttl_s = ttl_s
        self._ttl_us = min(ttl_s, _TTL_S) * SECOND_US
        self._life_us = min(_LIFE_US, self._ttl_us // 3)
        self._workers = 1
        self._open: dict[int, Reserve] = {}
        self._leaving: dict[int, set[Reserve]] = {}
        """Those that make no new promises, until the running ones are kept; by account."""
        self._demand: dict[int, _Demand] = {}
        self._making: set[int] = set()
        self._empty_until_us: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # What a reserve is called changes when it shrinks; two who change it must not cross.
        self._reshaping = asyncio.Lock()

    def divide(self, workers: int) -> None:
        """Take note of how many workers, on all machines, may put money aside."""
        self._workers = max(1, workers)

    def stand_for(self, call: Call) -> bool:
        """Return whether there is a reserve on any account of this call."""
        open_ = self._open
        return bool(open_) and any(account in open_ for account in call.accounts)

    # What a call does.

    def promise(self, call: Call) -> bool:
        """Plan who pays the most that this call may cost, and promise it; False when it needs a hold.

        The plan is the one that a hold would get: an account with a reserve has at least sixteen times
        the reserve, so that no step of the ladder is cut short by what is there.
        """
        open_ = self._open
        if not open_:
            return False
        available = {account: PLENTY for account in call.accounts if account in open_}
        if not available:
            return False
        plan = call.draw(call.max_tokens, available)
        if plan.shortfall_u or not self._saw_all(call, plan, available):
            return False
        promised: list[tuple[Reserve, int]] = []
        for account, amount, _ in call.legs(plan):
            reserve = open_.get(account)
            if reserve is None or reserve.amount - reserve.out < amount:
                _let_go(promised)
                return False
            reserve.out += amount
            promised.append((reserve, amount))
            if amount > reserve.most:
                reserve.most = amount
        if not promised:
            return False
        for reserve, _ in promised:
            reserve.calls += 1
        call.plan, call.promised = plan, tuple(promised)
        return True

    def _saw_all(self, call: Call, plan: Plan, available: Available) -> bool:
        """Return whether what was not looked at (accounts without a reserve) makes no difference."""
        ladder = call.payer.ladder
        for index, why in plan.skipped:
            if why == EXHAUSTED:
                account = ladder.steps[index].account_id
                if self._empty_until_us.get(account, 0) < call.started_at_us:
                    return False
        if not ladder.needs_slack or not plan.legs or plan.wallet_account_id is None:
            return True
        return plan.wallet_account_id in available

    def let_go(self, call: Call) -> None:
        """Give back what the call was promised: it has been charged, or costs nothing. Twice is once."""
        promised, call.promised = call.promised, ()
        _let_go(promised)

    async def hold(self, call: Call) -> None:
        """Make a call's own hold; raises its refusal (`PaymentRequired`).

        Before it is refused or shortened, what is put aside on its accounts and not promised is put back.
        """
        call.waits_for_reserves = self._some_on(call.accounts)
        try:
            held = await self._writer.send(call.hold(self._ttl_s, self._clock()))
        except PaymentRequired:
            if not call.waits_for_reserves:
                raise
            call.waits_for_reserves = False
            await self._give_back(call.accounts)
            held = await self._writer.send(call.hold(self._ttl_s, self._clock()))
        if isinstance(held, Held) and not call.clamped:
            self._note(call, held)

    def _note(self, call: Call, held: Held) -> None:
        """Count a hold: many of them make a reserve."""
        at_us = self._clock()
        for index, why in call.plan.skipped if call.plan is not None else ():
            if why == EXHAUSTED and len(self._empty_until_us) < _MOST_EMPTY:
                account = call.payer.ladder.steps[index].account_id
                self._empty_until_us[account] = at_us + _EMPTY_US
        for account, amount, _ in held.legs:
            if not amount:
                continue
            demand = self._demand.get(account)
            if demand is None:
                demand = self._demand[account] = _Demand()
            demand.calls += 1
            demand.most = max(demand.most, amount)
            if demand.calls == BUSY and account not in self._making:
                self._start(account, call.key.org_id, demand.most)

    async def charge(self, call: Call, bill: Bill) -> None:
        """Charge a call out of its reserves: its accounts have nothing left beside what is on hold.

        Raises `PaymentRequired` when the reserves have expired, and what was in them has gone.
        """
        mine = dict.fromkeys(reserve for reserve, _ in call.promised)
        for reserve in mine:
            self._retire(reserve)
        async with self._reshaping:
            # What the other calls are promised stays on hold; what this one was is there to be spent.
            self.let_go(call)
            reholds = [self._rehold(each, each.out) for each in mine]
            try:
                await self._writer.send(bill.charge(call, tuple(reholds)))
            except PaymentRequired:
                _rename(mine, reholds)  # that much has been done
                raise
            _rename(mine, reholds)

    async def _give_back(self, accounts: Collection[int]) -> None:
        """Put back what is put aside on these accounts and not promised."""
        found = [self._open[account] for account in accounts if account in self._open]
        for account in accounts:
            found += [r for r in self._leaving.get(account, ()) if r.out < r.amount]
        for reserve in found:
            self._retire(reserve)
            await self._shrink(reserve)

    def _some_on(self, accounts: Iterable[int]) -> bool:
        """Return whether anything is put aside on one of these accounts."""
        open_, leaving = self._open, self._leaving
        return any(account in open_ or account in leaving for account in accounts)

    # The life of a reserve.

    async def keep(self) -> None:
        """Renew, replace and give up reserves until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look()
            except TokenMartError as error:
                log.warning("reserves could not be kept: %s", error)

    async def close(self) -> None:
        """Give all of them up; calls that are still running keep what they were promised."""
        for task in list(self._tasks):
            await task
        for reserve in list(self._open.values()):
            self._retire(reserve)
        for reserve in self._all_leaving():
            with contextlib.suppress(TokenMartError):
                await self._shrink(reserve)

    async def _look(self) -> None:
        at_us = self._clock()
        self._demand = {}
        # An instant that lies too far ahead was written before the clock was set back.
        soon_us = at_us + _EMPTY_US
        self._empty_until_us = {
            a: t for a, t in self._empty_until_us.items() if at_us < t <= soon_us
        }
        for reserve in list(self._open.values()):
            if 0 <= at_us - reserve.made_at_us < self._life_us:
                continue
            if reserve.calls < BUSY:
                self._retire(reserve)
            elif reserve.account_id not in self._making:
                self._start(reserve.account_id, reserve.org_id, reserve.most)
        for reserve in self._all_leaving():
            if not reserve.out or reserve.out < reserve.amount:
                await self._shrink(reserve)
            elif not self._ttl_us * 2 // 3 <= reserve.until_us - at_us <= self._ttl_us:
                reserve.until_us = at_us + self._ttl_us
                await self._writer.apply(Renew(reserve.tx, reserve.until_us))

    def _all_leaving(self) -> list[Reserve]:
        return [reserve for of_account in self._leaving.values() for reserve in of_account]

    def _start(self, account: int, org_id: str, most: int) -> None:
        self._making.add(account)
        task = asyncio.ensure_future(self._make(account, org_id, most))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self, account: int, org_id: str, most: int) -> None:
        """Make a reserve in the place of the one that is there."""
        at_us = self._clock()
        reserve = Reserve(account, org_id, at_us, at_us + self._ttl_us)

        def decide(available: Available) -> tuple[tuple[Leg, ...], str]:
            amount = min(available[account] // (_PART * self._workers), most * _CALLS)
            if amount < most * _FEWEST_CALLS or not amount:
                raise PaymentRequired("There is too little for a reserve.", rule="ledger.reserve")
            return (Leg(account, amount, self._clearing),), "{}"

        hold = Hold(reserve.tx, org_id, (account,), decide, at_us, reserve.until_us)
        try:
            held = await self._writer.send(hold)
        except TokenMartError:
            held = None
        finally:
            self._making.discard(account)
        old = self._open.get(account)
        if old is not None:
            self._retire(old)
        if isinstance(held, Held):
            reserve.amount = held.legs[0].amount
            self._open[account] = reserve
        if old is not None:
            with contextlib.suppress(TokenMartError):  # the next look tries again
                await self._shrink(old)

    def _retire(self, reserve: Reserve) -> None:
        """Let it promise nothing more."""
        if self._open.get(reserve.account_id) is reserve:
            del self._open[reserve.account_id]
        self._leaving.setdefault(reserve.account_id, set()).add(reserve)

    def _forget(self, reserve: Reserve) -> None:
        of_account = self._leaving.get(reserve.account_id, set())
        of_account.discard(reserve)
        if not of_account:
            self._leaving.pop(reserve.account_id, None)

    async def _shrink(self, reserve: Reserve) -> None:
        """Hold no more than what is promised of a retired reserve; forget it when that is nothing."""
        async with self._reshaping:
            if not reserve.out:
                await self._writer.apply(Release(reserve.tx, self._clock()))
                self._forget(reserve)
            elif reserve.out < reserve.amount:
                rehold = self._rehold(reserve, reserve.out)
                await self._writer.apply(rehold)
                _rename((reserve,), (rehold,))

    def _rehold(self, reserve: Reserve, amount: int) -> Rehold:
        at_us = self._clock()
        reserve.until_us = at_us + self._ttl_us
        return Rehold(reserve.tx, new_id("res"), reserve.org_id, amount, at_us, reserve.until_us)


def _let_go(promised: Iterable[tuple[Reserve, int]]) -> None:
    for reserve, amount in promised:
        reserve.out -= amount


def _rename(reserves: Iterable[Reserve], reholds: Iterable[Rehold]) -> None:
    # Where a hold had expired there is nothing on hold now. Its calls are charged all the same, from what
    # is there by then.
    for reserve, rehold in zip(reserves, reholds, strict=True):
        reserve.tx, reserve.amount = rehold.into, rehold.amount
