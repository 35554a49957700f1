"""Whose turn it is on a listing's engines: one fair gate for each listing that has bounded engines."""

from __future__ import annotations

import asyncio

from catalog.ground.clock import Clock
from marketplace.gateway.door import Connection
from marketplace.gateway.fairness import FairGate, Place, Taker
from marketplace.gateway.money import Call
from marketplace.gateway.options import Options
from marketplace.gateway.records import ListingRecord
from marketplace.gateway.request import ClientGone

_MOST_KNOWN = 10_000
_ANY = 1 << 40
"""Places of an engine that takes any number of calls."""
_BYTES_A_TOKEN = 4
"""English text has about four bytes a token, and Chinese no fewer. What a hold is bounded by, a token for
each byte, would charge a tenant's running calls far above what they come to, and others start behind him."""


class Turns:
    """The gates of one process. With several workers each has its part of the engines' places."""

    def __init__(self, options: Options, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._share = options.workers
        self._gates: dict[str, FairGate] = {}
        self._known: dict[str, ListingRecord] = {}

    def divide(self, share: int) -> None:
        """Divide the engines' places among so many processes."""
        if share != self._share:
            self._share = share
            self._known.clear()  # so that each gate is measured anew when it is next asked for

    def gate(self, record: ListingRecord) -> FairGate | None:
        """Return the listing's gate; None where every engine takes any number of calls."""
        slug = record.listing.slug
        if self._known.get(slug) is not record:
            self._learn(slug, record)
        return self._gates.get(slug)

    def _learn(self, slug: str, record: ListingRecord) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
            self._gates = {name: g for name, g in self._gates.items() if g.running or g.depth}
        self._known[slug] = record
        # One of weight 0 gets no calls, however many it could take.
        places = [e.max_concurrency for e in record.endpoints if e.weight]
        if not any(places):
            gone = self._gates.pop(slug, None)
            if gone is not None:
                gone.resize(_ANY)  # nobody waits in a queue that nobody looks after any more
            return
        slots = sum(_ANY if most is None else most for most in places)
        told = self._options
        share = max(1, slots // self._share)
        if slug in self._gates:
            self._gates[slug].resize(share)
        else:
            self._gates[slug] = FairGate(share, told.queue, told.queue_patience_s, self._clock)

    async def wait(
        self,
        gate: FairGate,
        call: Call,
        free: bool,
        connection: Connection,
        taker: Taker | None = None,
    ) -> Place:
        """Return a place; `RateLimited` when the wait is too long, `ClientGone` when the client leaves."""
        guess = call.input_tokens // _BYTES_A_TOKEN
        if gate.running < gate.slots and taker is None:
            return await gate.enter(call.key.org_id, paid=not free, input_tokens=guess)
        task = asyncio.current_task()
        assert task is not None

        def leave() -> None:
            task.cancel()

        if connection.gone:
            raise ClientGone  # while its tokens were counted, say: nobody would tell us again
        connection.on_gone = leave
        since_us = self._clock()
        try:
            return await gate.enter(call.key.org_id, paid=not free, input_tokens=guess, taker=taker)
        except asyncio.CancelledError:
            if connection.gone:
                task.uncancel()
                raise ClientGone from None
            raise
        finally:
            call.waited_us += self._clock() - since_us
            connection.on_gone = None

    def waiting(self) -> dict[str, int]:
        """Return how many calls wait, by listing."""
        return {slug: gate.depth for slug, gate in self._gates.items() if gate.depth}
