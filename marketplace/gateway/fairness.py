"""Who goes next when a model has no free place: Virtual Token Counter, in front of each listing.

    enter ─► a free place? ─yes─► served
                 │no
                 ▼
             room in this tenant's queue, and a wait that patience covers? ─no─► 429 server_busy, at once
                 │yes
                 ▼
             wait; a place that becomes free goes to the band that pays, in it to the tenant with the
             smallest counter, of him to the call that has waited longest

A call that not every engine may answer needs one of those that may, besides a place (`Taker`). While there is
none, who comes next in this order goes before it.

The counter of a tenant is what he was served: input tokens once and output tokens twice, as the paper
weighs them (VTC: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, algorithm 2). A
tenant who comes back is lifted to the smallest counter of those who wait (or to the last one served), so
that being away earns nothing. Two tenants who both keep waiting never drift further apart than
2·max(w_in·L_in, w_out·M), with L_in the longest input and M the most tokens that can be in the places at
once (theorem 4.4); so a tenant with 2,000 calls does not delay one with two.

Where the paper charges each output token as it comes, we charge the usual output at admission and what it
really was at the end (its section on length prediction): a gateway sees tokens of foreign engines only in
the end, and one whose calls are not yet charged would otherwise take every place that becomes free.

The wait is estimated from how long calls take while half of the places or more are taken. Refusing early
keeps a full model quick for those it can still serve.

One event loop only; nothing here is awaited between a check and what follows from it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from catalog.ground.clock import SECOND_US, Clock, now_us
from catalog.ground.errors import RateLimited

INPUT_WEIGHT = 1
OUTPUT_WEIGHT = 2
_ACCOUNTS = 10_000
_SMOOTHING = 16
"""A mean follows what it sees by one part in so many."""


class Taker(Protocol):
    """What a call needs besides a place of the gate."""

    def take(self) -> bool:
        """Take it; False, and nothing is taken, when it is not to be had now. Raises nothing."""

    def give_back(self) -> None:
        """Return it, if it was taken."""


class _Account:
    """What one tenant of a band was served, weighted, and his calls that wait."""

    __slots__ = ("counter", "queue")

    def __init__(self) -> None:
        self.counter = 0
        self.queue: deque[_Waiter] = deque()


class Place:
    """A place that one call holds. Give it back with `FairGate.leave`."""

    __slots__ = ("account", "began_us", "input_tokens", "output_tokens", "taken")

    def __init__(
        self, account: _Account, input_tokens: int, output_tokens: int, began_us: int
    ) -> None:
        self.account = account
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        """What the call was charged at admission: the usual output."""
        self.began_us = began_us
        """0 while the gate is mostly empty: how long a call takes then says nothing about a full one."""
        self.taken = True


class _Waiter:
    """A call in the queue. `future` brings its place, or None when its patience ends."""

    __slots__ = ("account", "band", "future", "input_tokens", "queued", "since_us", "taker")

    def __init__(
        self,
        band: _Band,
        account: _Account,
        input_tokens: int,
        since_us: int,
        future: asyncio.Future[Place | None],
        taker: Taker | None,
    ) -> None:
        self.band = band
        self.account = account
        self.input_tokens = input_tokens
        self.since_us = since_us
        self.future = future
        self.taker = taker
        self.queued = True

    def can_go(self) -> bool:
        """Take what it needs besides a place; one that has been cancelled needs nothing any more."""
        return self.taker is None or self.future.done() or self.taker.take()


class _Band:
    """The tenants among whom places are shared fairly; whole bands go before one another."""

    def __init__(self) -> None:
        self.accounts: dict[str, _Account] = {}
        self.waiting: dict[_Account, None] = {}
        """Those with calls in the queue, who came first standing first."""
        self.depth = 0
        self._most_accounts = _ACCOUNTS
        self.last = _Account()
        """Who was admitted last: whoever comes while nobody waits starts from there."""

    def account(self, tenant: str) -> _Account:
        found = self.accounts.get(tenant)
        if found is None:
            if len(self.accounts) >= self._most_accounts:
                self._forget()
            found = self.accounts[tenant] = _Account()
        return found

    def _forget(self) -> None:
        """Let go of tenants who would be lifted anyway when they come back.

        What their running calls are still to be charged is forgotten with them: one among ten thousand
        starts again from where the others are.
        """
        floor = self.floor()
        self.accounts = {
            tenant: account
            for tenant, account in self.accounts.items()
            if account.queue or account.counter > floor
        }
        self._most_accounts = max(_ACCOUNTS, 2 * len(self.accounts))

    def floor(self) -> int:
        """Return what the counter of a tenant who comes back is lifted to.

        Who is passed over until an engine of his is free stays behind the others, and lifts nobody.
        """
        counters = [a.counter for a in self.waiting if a.queue[0].taker is None]
        return min(counters, default=self.last.counter)

    def push(self, waiter: _Waiter) -> None:
        self.waiting[waiter.account] = None
        waiter.account.queue.append(waiter)
        self.depth += 1

    def pop(self) -> _Waiter | None:
        """Take out the next call that can go; None when there is none."""
        if not self.waiting:
            return None
        account = min(self.waiting, key=_served)
        waiter = account.queue[0]
        if waiter.taker is not None:
            return self._first_that_can()
        self.remove(waiter)
        return waiter

    def _first_that_can(self) -> _Waiter | None:
        for account in sorted(self.waiting, key=_served):
            for waiter in account.queue:
                if waiter.can_go():
                    self.remove(waiter)
                    return waiter
        return None

    def remove(self, waiter: _Waiter) -> None:
        waiter.queued = False
        waiter.account.queue.remove(waiter)
        self.depth -= 1
        if not waiter.account.queue:
            del self.waiting[waiter.account]

    def ahead(self, account: _Account, cost: int) -> int:
        """Return how many calls of this band go before one more of this tenant that costs so much."""
        own = len(account.queue)
        before = own
        for other in self.waiting:
            if other is not account:
                turns = own + 1 + (account.counter - other.counter) // cost
                before += min(len(other.queue), max(0, turns))
        return before


class FairGate:
    """At most `slots` calls of a listing at once, the others in bounded queues.

    `queue` is how many calls of one tenant and band may wait, `most_waiting` how many may in all, and
    `patience_s` how long. What it counts, for metrics: `running` and `depth` now; since the start
    `admitted` calls, of which `waited` calls waited `waited_us` in all; `refused` at the door, `expired` in
    the queue, and `abandoned` by callers who left it.
    """

    def __init__(
        self,
        slots: int,
        queue: int,
        patience_s: float,
        clock: Clock = now_us,
        most_waiting: int = 10_000,
    ) -> None:
        self.slots = slots
        self.queue = queue
        self.patience_s = patience_s
        self.most_waiting = most_waiting
        self.running = self.admitted = self.waited = self.waited_us = 0
        self.refused = self.expired = self.abandoned = 0
        self._clock = clock
        self._paid = _Band()
        self._free = _Band()
        self._usual_output = 0.0
        self._usual_us = 0.0

    @property
    def depth(self) -> int:
        """Calls that wait now."""
        return self._paid.depth + self._free.depth

    async def enter(
        self, tenant: str, *, paid: bool, input_tokens: int, taker: Taker | None = None
    ) -> Place:
        """Return a place for a call, and what its `taker` takes, after waiting when there is none.

        `RateLimited` (code `server_busy`) when the queue is full or the wait would be, or became, longer
        than `patience_s`. Cancelling the caller gives up its place in the queue, or the place itself.
        """
        band = self._paid if paid else self._free
        account = band.accounts.get(tenant) or band.account(tenant)
        # While a place is free, those who wait could not use it.
        if self.running < self.slots and (taker is None or taker.take()):
            return self._admit_next(band, account, input_tokens)
        if not account.queue:
            account.counter = max(account.counter, band.floor())
        self._expect_room(band, account, input_tokens)
        return await self._wait(band, account, input_tokens, taker)

    def enter_now(self, tenant: str, input_tokens: int) -> Place | None:
        """Return a place for a paid call; None when there is none, and it would have to wait."""
        if self.running >= self.slots:
            return None
        return self._admit_next(self._paid, self._paid.account(tenant), input_tokens)

    def leave(self, place: Place, output_tokens: int = 0, input_tokens: int | None = None) -> None:
        """Give a place back and charge what the call really had; only the first time counts.

        `input_tokens` corrects the bound that was given on entering.
        """
        if not place.taken:
            return
        self._charge(
            place, place.input_tokens if input_tokens is None else input_tokens, output_tokens
        )
        self._usual_output += (output_tokens - self._usual_output) / _SMOOTHING
        if place.began_us:
            lasted = self._clock() - place.began_us
            self._usual_us += (lasted - self._usual_us) / (_SMOOTHING if self._usual_us else 1)
        self._free_place(place)

    def give_back(self, place: Place) -> None:
        """Give a place back of which nothing was made, so that nothing is charged for it."""
        if place.taken:
            self._charge(place, 0, 0)
            self._free_place(place)

    def counters(self, *, paid: bool) -> dict[str, int]:
        """Return the counters (weighted tokens) of the tenants of a band who wait now."""
        band = self._paid if paid else self._free
        return {name: account.counter for name, account in band.accounts.items() if account.queue}

    def resize(self, slots: int) -> None:
        """Change how many calls may run at once; those that run already are left alone."""
        self.slots = slots
        self._hand_out()

    def estimate_s(self, tenant: str, *, paid: bool, input_tokens: int = 0) -> float | None:
        """Return how long one more call of this tenant would wait; None while nothing is known yet."""
        if self.running < self.slots:
            return 0.0
        band = self._paid if paid else self._free
        account = band.accounts.get(tenant) or _Account()
        if not account.queue:
            account.counter = max(account.counter, band.floor())
        return self._estimate_s(band, account, input_tokens)

    def _admit_next(self, band: _Band, account: _Account, input_tokens: int) -> Place:
        """Give a free place to whoever comes just now."""
        if account.counter < band.last.counter:
            account.counter = band.last.counter
        return self._admit(band, account, input_tokens)

    def _admit(self, band: _Band, account: _Account, input_tokens: int) -> Place:
        usual = int(self._usual_output)
        account.counter += INPUT_WEIGHT * input_tokens + OUTPUT_WEIGHT * usual
        band.last = account
        self.admitted += 1
        self.running += 1
        began_us = self._clock() if self.running * 2 >= self.slots else 0
        return Place(account, input_tokens, usual, began_us)

    def _charge(self, place: Place, input_tokens: int, output_tokens: int) -> None:
        place.account.counter += INPUT_WEIGHT * (input_tokens - place.input_tokens)
        place.account.counter += OUTPUT_WEIGHT * (output_tokens - place.output_tokens)

    def _free_place(self, place: Place) -> None:
        place.taken = False
        self.running -= 1
        if self._paid.depth or self._free.depth:
            self._hand_out()

    def _hand_out(self) -> None:
        """Give free places to those who wait, so that nobody waits for one that he could use."""
        while self.running < self.slots:
            waiter = self._paid.pop() or self._free.pop()
            if waiter is None:
                return
            if waiter.future.done():
                continue  # cancelled; its task has not yet run to say so
            waited_us = self._clock() - waiter.since_us
            self.waited += 1
            self.waited_us += waited_us
            waiter.future.set_result(self._admit(waiter.band, waiter.account, waiter.input_tokens))

    async def _wait(
        self, band: _Band, account: _Account, input_tokens: int, taker: Taker | None
    ) -> Place:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(band, account, input_tokens, self._clock(), loop.create_future(), taker)
        band.push(waiter)
        timer = loop.call_later(self.patience_s, self._lose_patience, waiter)
        try:
            place = await waiter.future
        except BaseException:
            self._withdraw(waiter)
            raise
        finally:
            timer.cancel()
        if place is None:
            raise self._busy("patience", self.patience_s)
        return place

    def _lose_patience(self, waiter: _Waiter) -> None:
        if waiter.queued:
            waiter.band.remove(waiter)
            if not waiter.future.done():
                self.expired += 1
                waiter.future.set_result(None)

    def _withdraw(self, waiter: _Waiter) -> None:
        """Undo a wait that was cancelled: in the queue, or after the place had just been given."""
        self.abandoned += 1
        if waiter.queued:
            waiter.band.remove(waiter)
        elif waiter.future.done() and not waiter.future.cancelled():
            place = waiter.future.result()
            if place is not None:
                if waiter.taker is not None:
                    waiter.taker.give_back()
                self.give_back(place)

    def _expect_room(self, band: _Band, account: _Account, input_tokens: int) -> None:
        wait_s = self._estimate_s(band, account, input_tokens)
        if len(account.queue) >= self.queue or self.depth >= self.most_waiting:
            rule = "queue"
        elif wait_s is not None and wait_s > self.patience_s:
            rule = "patience"
        else:
            return
        self.refused += 1
        raise self._busy(rule, self.patience_s if wait_s is None else wait_s)

    def _estimate_s(self, band: _Band, account: _Account, input_tokens: int) -> float | None:
        if not self._usual_us:
            return None
        cost = INPUT_WEIGHT * input_tokens + OUTPUT_WEIGHT * int(self._usual_output)
        ahead = band.ahead(account, max(1, cost)) + (self._paid.depth if band is self._free else 0)
        return (ahead + 1) * self._usual_us / max(1, self.slots) / SECOND_US

    def _busy(self, rule: str, retry_after_s: float) -> RateLimited:
        return RateLimited(
            f"This model is busy: {self.running} calls run and {self.depth} wait.",
            code="server_busy",
            rule=f"limits.listing.{rule}",
            remedy=f"Try again in about {retry_after_s:.1f} s, or with fewer calls at once.",
            retry_after_s=retry_after_s,
        )


def _served(account: _Account) -> int:
    return account.counter
