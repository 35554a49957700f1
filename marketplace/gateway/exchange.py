"""One admitted call: send it to an engine, hand the answer on, settle, and only then the last byte.

forward ─┬─ whole answer ─► settle ─► headers with the cost, body
         ├─ stream ─► pieces as they come ─► settle ─► usage chunk, [DONE]
         ├─ the engine fails before a byte went out ─► the next engine, the same hold
         ├─ the engine fails ─► void ─► an error, nobody pays
         └─ the client leaves ─► the engine is cut off ─► settle what was made

Nothing here is ever cancelled: a client that leaves cuts its flight off, and the call then ends like any
other, with its money settled.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from catalog.ground.clock import Clock
from catalog.ground.errors import (
    BadRequest,
    Conflict,
    PaymentRequired,
    RateLimited,
    TokenMartError,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from marketplace.gateway.counters import Counters
from marketplace.gateway.counting import count_answer
from marketplace.gateway.door import Connection
from marketplace.gateway.express.resumed import Resumed
from marketplace.gateway.flight import Answer, Flight
from marketplace.gateway.money import Bill, Call
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.replays import Replay
from marketplace.gateway.request import ClientGone
from marketplace.gateway.reserves import Reserves
from marketplace.gateway.seen import Attempt, code_of
from marketplace.gateway.shapes import Streaming, Talk
from marketplace.gateway.upstream import Upstream, broken, refusal, timed_out, unreachable
from marketplace.gateway.usage import usage_of
from marketplace.ledger.holds import LATE
from marketplace.ledger.operations import Release
from marketplace.ledger.writer import LedgerWriter
from marketplace.prices.usage import read_usage
from serving.routing import Choice, Failure, Router

log = logging.getLogger(__name__)

_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"
MOST_TRIES = 3
"""Engines that are asked for one call, as long as nothing of an answer has gone out."""


@dataclass(slots=True)
class Tools:
    """What every exchange works with; one set for each process."""

    upstream: Upstream
    writer: LedgerWriter
    reserves: Reserves
    router: Router
    counters: Counters
    clock: Clock
    hold_ttl_s: int


class Exchange:
    """The way of one held call through its engines and back."""

    __slots__ = (
        "_began",
        "_choice",
        "_connection",
        "_flight",
        "_replay",
        "_streaming",
        "_talk",
        "_tools",
        "call",
    )

    def __init__(
        self,
        call: Call,
        talk: Talk,
        connection: Connection,
        tools: Tools,
        replay: Replay | None = None,
    ) -> None:
        self.call = call
        self._talk = talk
        self._connection = connection
        self._tools = tools
        self._replay = replay
        self._streaming: Streaming | None = None
        self._flight: Flight | None = None
        self._choice: Choice[EndpointRecord] | None = None
        self._began = False

    def run(self, choice: Choice[EndpointRecord]) -> Coroutine[Any, Any, None]:
        """Answer the call; returns when its money is settled. Raises what the client should be told.

        Nothing is waited for after the last byte, so that the connection is ready for the next request
        when the client is.
        """
        return self._run(choice, None)

    def resume(self, choice: Choice[EndpointRecord], resumed: Resumed) -> Coroutine[Any, Any, None]:
        """Go on with a call that compiled code has begun, and end it as `run` does."""
        return self._run(choice, resumed)

    async def _run(self, choice: Choice[EndpointRecord], resumed: Resumed | None) -> None:
        connection = self._connection
        connection.on_gone, connection.on_slow = self._client_left, self._client_slow
        tried: list[Choice[Any]] = []
        try:
            while True:
                try:
                    if resumed is not None:
                        answer = self._asked(choice, resumed)
                        break
                    answer = await self._ask(choice)
                    self.call.answered_at_us = self._tools.clock()
                    break
                except TokenMartError as error:
                    resumed = None  # whoever is asked next is asked by us
                    failure = _failure(error)
                    self._note_failure(failure or code_of(error))
                    if failure is None:
                        self._tools.router.ended(choice)
                        raise
                    wait_s = error.retry_after_s
                    self._tools.router.failed(choice, failure, wait_s)
                    tried.append(choice)
                    choice = self._next(tried, error)
            if self._streaming is None:
                await self._whole(answer)
            else:
                await self._stream_ended(self._streaming)
            self._tools.router.ended(choice, self.call.output_tokens)
        except ClientGone:
            self._tools.router.abandoned(choice)
            connection.on_gone = None
            if self._flight is None or not self._flight.sent:
                await self._void()  # the engine has never heard of it
            else:
                self.call.answered_at_us = self._tools.clock()
                await self._settle_what_was_made()
            raise
        except TokenMartError as error:
            await self._void()
            if not self._began:
                raise
            self.call.error = code_of(error)
            self._tools.counters.refuse(self.call.error)
            self._break_off(error)
        except BaseException:
            await self._void()
            raise
        finally:
            self._tools.router.abandoned(choice)

    def _next(self, tried: list[Choice[Any]], error: TokenMartError) -> Choice[EndpointRecord]:
        """Choose another engine, or raise `error` when there is none or something has gone out already."""
        talk = self._talk
        if self._began or len(tried) >= MOST_TRIES:
            raise error
        try:
            return self._tools.router.choose(
                talk.able(self.call.record.endpoints),
                wish=talk.wish,
                affinity=talk.affinity,
                wanted=talk.wanted,
                tried=tried,
                caller=self.call.key.org_id,
            )
        except (Unavailable, BadRequest):
            raise error from None

    def _ask(self, choice: Choice[EndpointRecord]) -> Awaitable[Answer]:
        call, talk = self.call, self._talk
        self._choice = choice
        endpoint = choice.candidate
        call.endpoint, call.why = endpoint, choice.why
        trace = self._connection.trace
        headers = trace.ask() if trace is not None else ()
        path, body = talk.request_for(endpoint, call)
        self._streaming = streaming = talk.streaming(endpoint) if call.streamed else None
        if streaming is not None:
            talk.begins(streaming, call)
        if self._connection.gone:
            self._flight = None  # what an engine before this one has made is not paid for
            raise ClientGone
        flight = self._flight = Flight(self._piece if self._streaming is not None else None)
        return self._tools.upstream.post(endpoint, path, body, call.id, flight, headers)

    def _asked(self, choice: Choice[EndpointRecord], resumed: Resumed) -> Answer:
        """Return or raise what became of asking an engine, as if it had come from `_ask`.

        Of a streamed answer nothing is sent again: what the client may see of it has gone out, and where it
        has not begun there was nothing yet.
        """
        call, kind = self.call, resumed.kind
        self._choice = choice
        call.endpoint, call.why = choice.candidate, choice.why
        call.first_token_us = resumed.first_token_us
        self._flight = flight = Flight()
        flight.sent = resumed.sent
        if resumed.began:
            self._began = True
            self._connection.begun()
        answer = Answer(resumed.status, resumed.headers, resumed.body)
        if kind == "answer" and answer.status != 200:
            raise refusal(answer)
        if call.streamed:
            self._streaming = self._talk.streaming(choice.candidate)
            self._piece(resumed.body, seen=True)
            if flight.error is not None and kind != "left":
                raise flight.error
        if kind != "answer":
            raise _ENDS[kind]()
        call.answered_at_us = resumed.answered_at_us or self._tools.clock()
        return answer

    def _note_failure(self, failure: str) -> None:
        call, now_us = self.call, self._tools.clock()
        engine = call.endpoint
        since_us = call.failures[-1].ended_at_us if call.failures else call.held_at_us
        self._tools.counters.failed(engine.id, failure)
        call.failures += (
            Attempt(
                engine.id, engine.url, engine.model, engine.provider, since_us, now_us, failure
            ),
        )

    # While the answer comes in.

    def _piece(self, data: bytes, seen: bool = False) -> None:
        """Send on what has come of a stream, unless the client has `seen` it."""
        streaming = self._streaming
        assert streaming is not None
        try:
            forward = streaming.feed(data)
        except TokenMartError as error:
            if self._flight is not None:
                self._flight.cut_off(error)
            return
        if forward and not seen:
            self._tools.counters.chunks += 1
            if self._replay is not None:
                self._replay.saw(forward)
            if self._began:
                self._connection.emit(forward)
            else:
                self._begin(forward)
        if streaming.failed and self._flight is not None:
            self._flight.cut_off(broken())

    def _begin(self, first: bytes) -> None:
        call = self.call
        self._began = True
        if self._choice is not None:
            self._tools.router.answered(self._choice)
        call.first_token_us = self._tools.clock() - call.started_at_us
        headers = [
            (b"content-type", _EVENTS),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *call.answer_headers(),
        ]
        self._connection.begin(headers, first)

    def _client_left(self) -> None:
        if self._flight is not None:
            self._flight.cut_off(ClientGone())

    def _client_slow(self, slow: bool) -> None:
        if self._flight is not None:
            if slow:
                self._flight.pause()
            else:
                self._flight.resume()

    # When it has come.

    async def _whole(self, answer: Answer) -> None:
        call = self.call
        self._connection.on_gone = None
        usage, raw = usage_of(answer.body)
        source = "engine"
        if usage is None:
            usage, raw, source = await count_answer(
                self._tools.upstream, call, self._talk, answer.body
            )
        document = self._talk.answer(answer.body, call)
        if self._replay is not None:
            await self._replay.keep(_JSON.decode(), document, self._tools.clock())
        bill = await self._settle(usage, raw, source, "ok")
        headers = [
            (b"content-type", _JSON),
            *call.answer_headers(),
            *bill.headers(),
        ]
        self._connection.respond(200, headers, document)

    async def _stream_ended(self, streaming: Streaming) -> None:
        call = self.call
        self._connection.on_gone = None
        if not streaming.done:
            streaming.feed(b"\n\n")  # an engine may leave the empty line behind its last one out
        if not streaming.done:
            if self._choice is not None:
                self._tools.router.failed(self._choice, "broken")
            raise broken()
        usage, raw = streaming.usage()
        source, counted = "engine", None
        if usage is None:
            usage, raw, source = await count_answer(
                self._tools.upstream, call, self._talk, streaming.produced()
            )
            counted = usage
        if self._replay is not None:
            await self._replay.keep(
                _EVENTS.decode(), streaming.last(None, counted), self._tools.clock()
            )
        bill = await self._settle(usage, raw, source, "ok")
        last = streaming.last(bill.cost_u, counted)
        if not self._began:
            self._begin(b"")
        self._connection.finish(last)

    def _break_off(self, error: TokenMartError) -> None:
        """The engine did not finish: nobody pays, and the client is told instead of the stream's end."""
        self._connection.finish(self._talk.stream_error(error))

    async def _settle_what_was_made(self) -> None:
        """Bill the input and what had been produced when the client went away."""
        call, streaming = self.call, self._streaming
        if call.ended:
            return
        usage, raw, source = None, "", "engine"
        if streaming is not None:
            with contextlib.suppress(UpstreamFailed):  # it cannot be read; what came is counted
                usage, raw = streaming.usage()
        if usage is None:
            made = b"" if streaming is None else streaming.produced()
            usage, raw, source = await count_answer(self._tools.upstream, call, self._talk, made)
        await self._settle(usage, raw, source, "cancelled")

    # Money.

    async def _settle(self, usage: dict[str, Any], raw: str, source: str, outcome: str) -> Bill:
        call, tools = self.call, self._tools
        read = call.bounded(read_usage(usage))
        call.ended = True
        call.marks = read.marks
        bill = call.bill = call.settle(read.buckets, raw, source, outcome, tools.clock())
        try:
            if call.promised:
                try:
                    await tools.writer.send(bill.charge(call))
                except PaymentRequired:
                    await tools.reserves.charge(call, bill)
            else:
                await tools.writer.send(bill.operation(call, call.tx, bill.at_us))
        except (Conflict, PaymentRequired):
            # The hold had expired (this process stood still for longer than its holds live). What was
            # served is charged anew if the money is still there, and is the platform's loss if not.
            log.warning("hold %s had expired before it was settled", call.id)
            await tools.writer.apply(call.late_hold(bill, tools.clock(), tools.hold_ttl_s))
            await tools.writer.apply(bill.operation(call, f"{call.tx}{LATE}", tools.clock()))
        call.settled_at_us = tools.clock()
        tools.counters.billed(call, bill)
        return bill

    async def _void(self) -> None:
        """End the hold without a charge, unless it has been ended already."""
        if self.call.ended:
            return
        self.call.ended = True
        self._tools.counters.voided += 1
        if self.call.promised:
            self._tools.reserves.let_go(self.call)
            return
        try:
            await self._tools.writer.apply(Release(self.call.tx, self._tools.clock()))
        except TokenMartError as error:
            # The client is still told what was wrong with its call; the hold returns when it expires.
            log.warning("hold %s is left to expire: %s", self.call.tx, error)


_ENDS: dict[str, Callable[[], Exception]] = {
    "unreachable": unreachable,
    "silent": timed_out,
    "broken": broken,
    "left": ClientGone,
}
"""What is raised when there is no answer (see `resumed.Kind`)."""


def _failure(error: TokenMartError) -> Failure | None:
    """Return what the router should know of an engine's failure; None when the request was at fault."""
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    if isinstance(error, RateLimited):
        return "busy"
    if isinstance(error, Unavailable):
        return "busy" if error.code == "engine_overloaded" else "connect"
    if isinstance(error, UpstreamFailed):
        return "status" if "status" in error.details else "broken"
    return None
