"""What the express lane's core asks of Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from catalog.ground.errors import Unavailable
from marketplace.gateway.door import Connection, Door
from marketplace.gateway.express.resumed import Kind, Resumed
from marketplace.gateway.express.terms import Terms
from marketplace.gateway.fairness import FairGate, Place
from marketplace.gateway.hot import Hot
from marketplace.gateway.limits import Ticket
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.reserves import Promised
from marketplace.gateway.seen import NEVER_US, Attempt, Seen
from marketplace.gateway.shapes import CHAT
from marketplace.ledger.chart import Code
from marketplace.ledger.operations import Charge, Entry, Leg
from serving.routing import Choice, affinity_key


class Hooks:
    """Functions and objects; all of it for the event loop's thread, and nothing here waits.

    From `limits`, `reserves` and `router` the core takes what a call needs, as Python's calls do.
    """

    def __init__(self, hot: Hot, door: Door) -> None:
        self._door = door
        self._writer = hot.writer
        self._watcher = hot.watcher
        self.loop = door.loop
        self.limits = hot.limits
        self.reserves = hot.reserves
        self.router = hot.router
        self.books = hot.books
        self.default_max_tokens = hot.options.default_max_tokens
        self.books_itself = False
        self.slow_us = self._watcher.slow_us if self._watcher is not None else NEVER_US

    def connection(self, transport: Any) -> Connection:
        """Return Python's side of a connection."""
        made = self._door.connection()
        made.connection_made(transport)
        return made

    def choose(
        self, ways: tuple[Terms, ...], body: bytes, hint: str
    ) -> Choice[EndpointRecord] | None:
        """Take a place on one of several engines; None where nobody can be chosen as a matter of course.

        `body` is the request's, `hint` its `prompt_cache_key` or ''.
        """
        key, router = ways[0].key, self.router
        try:
            choice = router.choose(
                ways[0].record.endpoints,
                affinity=affinity_key(key.org_id, body, hint),
                caller=key.org_id,
            )
        except Unavailable:
            return None
        if choice.probe:
            router.abandoned(choice)
            return None
        return choice

    def charge(
        self,
        tx: str,
        legs: tuple[tuple[int, int, int], ...],
        entries: tuple[tuple[int, int, int, int], ...],
        usage: tuple[Any, ...],
        at_us: int,
        waiting: Any,
    ) -> None:
        """Book a charge beside the reserves with Python's writer; `waiting` is told as a future would be.

        Where the core has a writer of its own, this is for what that one may have booked and cannot tell.
        """
        self._writer.enqueue(
            Charge(
                tx,
                tuple([Leg(*leg) for leg in legs]),
                tuple([Entry(Code(code), *rest) for code, *rest in entries]),
                tuple(usage),
                at_us,
                again=self.books_itself,
            ),
            waiting,
        )

    def resumed(
        self,
        terms: Terms,
        ticket: Ticket,
        choice: Choice[EndpointRecord],
        promised: Promised,
        open_accounts: tuple[int, ...],
        generation_id: str,
        began_us: int,
        held_at_us: int,
        first_token_us: int,
        answered_at_us: int,
        input_tokens: int,
        max_tokens: int,
        streamed: bool,
        kind: Kind,
        sent: bool,
        began: bool,
        status: int,
        headers: dict[bytes, bytes],
        body: bytes,
        gate: FairGate | None = None,
        place: Place | None = None,
        limit_lines: bytes = b"",
    ) -> Resumed:
        """Return what a call has come to, for `door.Connection.resumed`; see `Resumed` for the arguments.

        `limit_lines` are the lines that tell of its limits, as they were when it came.
        """
        return Resumed(
            terms,
            ticket,
            choice,
            promised,
            open_accounts,
            generation_id,
            began_us,
            held_at_us,
            first_token_us,
            answered_at_us,
            input_tokens,
            max_tokens,
            streamed,
            kind,
            sent,
            began,
            status,
            headers,
            body,
            gate,
            place,
            tuple(_headers(limit_lines)) or tuple(ticket.headers()),
        )

    def seen(
        self,
        terms: Terms,
        generation_id: str,
        began_us: int,
        held_at_us: int,
        first_token_us: int,
        answered_at_us: int,
        settled_at_us: int,
        ended_us: int,
        max_tokens: int,
        streamed: bool,
        input_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        cost_u: int,
        why: str = "only",
    ) -> None:
        """Take note of a call that took `slow_us` or longer; `first_token_us` is since its beginning."""
        watcher, engine = self._watcher, terms.endpoint
        if watcher is None:
            return
        attempt = Attempt(
            engine.id, engine.url, engine.model, engine.provider, held_at_us, answered_at_us
        )
        seen = Seen(
            generation=generation_id,
            path=CHAT,
            status=200,
            error="",
            started_at_us=began_us,
            ended_at_us=ended_us,
            org=terms.key.org_id,
            key=terms.key.id,
            listing=terms.record.listing.slug,
            why=why,
            streamed=streamed,
            outcome="ok",
            usage_source="engine",
            max_tokens=max_tokens,
            input_tokens=input_tokens,
            cached_tokens=cached_tokens,
            output_tokens=output_tokens,
            cost_u=cost_u,
            hold_from_us=held_at_us,
            held_at_us=held_at_us,
            first_token_us=first_token_us,
            answered_at_us=answered_at_us,
            settled_at_us=settled_at_us,
            attempts=[attempt],
        )
        watcher.add(seen)


def _headers(lines: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in lines.splitlines():
        name, _, value = line.partition(b": ")
        yield name, value
