"""The hot path: one metered call, from the key to its hold; `exchange` takes it from there.

    who ─► what ─► how much at most ─► limits ─► its turn ─► hold ─► exchange

What a client saw complete is settled durably: the body of a plain answer, and the end of a stream, leave
only after the settlement is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from catalog.ground.clock import SECOND_US, Clock, now_us
from catalog.ground.errors import (
    BadRequest,
    Conflict,
    ContextTooLong,
    EndpointsFull,
    Forbidden,
    PaymentRequired,
    RateLimited,
    TokenMartError,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from catalog.ground.ids import new_id
from catalog.ground.rendering import RenderedError
from marketplace.gateway import idempotency
from marketplace.gateway.counters import Counters
from marketplace.gateway.directory import Directory
from marketplace.gateway.door import Connection, Request
from marketplace.gateway.engine_place import EnginePlace
from marketplace.gateway.exchange import Exchange, Tools
from marketplace.gateway.express.resumed import Resumed
from marketplace.gateway.limits import Limits, Ticket
from marketplace.gateway.money import Books, Call
from marketplace.gateway.options import Options
from marketplace.gateway.quotas import Quotas
from marketplace.gateway.records import (
    FREE_SUFFIX,
    EndpointRecord,
    KeyRecord,
    ListingRecord,
    model_not_found,
)
from marketplace.gateway.replays import Archive, Replay
from marketplace.gateway.request import NAMED_BY, ClientGone, bearer, decoded
from marketplace.gateway.reserves import PLENTY, Reserves
from marketplace.gateway.seen import Watcher, code_of
from marketplace.gateway.shapes import CHAT, Talk, names_asked_for, render
from marketplace.gateway.traces import begin
from marketplace.gateway.turns import Turns
from marketplace.gateway.upstream import Upstream
from marketplace.ledger.operations import Release, Renew
from marketplace.ledger.writer import LedgerWriter
from serving.routing import Choice, Router, admitted, parse_wish
from serving.routing.refusal import refusal
from serving.translation import TOKEN_COUNTS

log = logging.getLogger(__name__)

_TEMPLATE_TOKENS = 64
"""What a chat template adds at most around one message, beyond the bytes that the caller sent."""
_MEDIA_TOKENS = 2048
"""What a picture or a recording may cost an engine: it may be a link, so its bytes bound nothing."""
_MORE_TOKENS = 131_072
"""What an engine may add of its own, where its context is not known."""
_NO_CONTEXT = 1 << 40
_FRESH_US = 250_000
_ELSEWHERE = (RateLimited, Unavailable, UpstreamFailed, UpstreamTimeout)
"""What lets a request that asked for fallbacks go on to its next listing."""
Learn = Callable[[str, str, Call], None]
"""Is told the key's secret, the name that was called, and the call, when a chat call has been served."""


@dataclass
class Hot:
    """Everything a call needs; one for each process."""

    options: Options
    directory: Directory
    writer: LedgerWriter
    upstream: Upstream
    books: Books
    archive: Archive
    clock: Clock = now_us
    counters: Counters = field(default_factory=Counters)
    router: Router = field(default_factory=Router)
    watcher: Watcher | None = None

    def __post_init__(self) -> None:
        self.limits = Limits(self.options.workers)
        self.quotas = Quotas(self.options)
        self.turns = Turns(self.options, self.clock)
        ttl_s = self.options.hold_ttl_s
        self.reserves = Reserves(self.writer, self.books.clearing, self.clock, ttl_s)
        self._tools = Tools(
            self.upstream,
            self.writer,
            self.reserves,
            self.router,
            self.counters,
            self.clock,
            ttl_s,
        )
        self.open_calls: dict[str, Call] = {}
        self.running = 0
        self.draining = False
        self._trace_ratio = self.options.trace_ratio
        self.learn: Learn | None = None

    async def serve(self, request: Request, connection: Connection) -> None:
        """Answer one request of the door."""
        resumed = connection.resumed
        if resumed is None:
            generation_id, at_us = new_id("gen"), self.clock()
        else:
            generation_id, at_us = resumed.generation_id, resumed.began_us
        self.running += 1
        status = 200
        wrong = ""
        if self._trace_ratio or b"traceparent" in request.headers:
            connection.trace = begin(request.headers, self._trace_ratio)
        try:
            if resumed is None:
                await self._serve(generation_id, request, connection, at_us)
            else:
                await self._resume(resumed, request, connection)
        except ClientGone as error:
            status, wrong = 499, code_of(error)
        except Exception as error:
            wrong = code_of(error)
            if not isinstance(error, TokenMartError):
                log.exception("call %s failed", generation_id, extra={"generation": generation_id})
            rendered = render(request.path, error, generation_id)
            rendered.headers.update(dict.fromkeys(NAMED_BY, generation_id))
            status = rendered.status
            connection.respond_error(rendered)
        finally:
            self.running -= 1
            self.counters.answered(request.path, status, wrong)
            if self.watcher is not None:
                call, trace = connection.call, connection.trace
                self.watcher.ended(request, call, trace, generation_id, status, wrong, at_us)
            connection.done()

    def turned_away(self, path: str, error: TokenMartError) -> RenderedError:
        """Count what the door has refused by itself, and render it; `path` is '' where it is not known."""
        rendered = render(path, error)
        self.counters.answered(path or "other", rendered.status, error.code)
        return rendered

    async def _serve(
        self, generation_id: str, request: Request, connection: Connection, at_us: int
    ) -> None:
        if self.draining:
            raise Unavailable("This gateway is shutting down.", retry_after_s=1)
        self.directory.check_fresh(at_us)
        secret = bearer(request.headers)
        if not secret:
            raise _no_key()
        key = self.directory.known_key(secret) or await self.directory.key(secret)
        request.key = key
        key.check(at_us, request.client)
        if request.path in TOKEN_COUNTS:
            await self._count(generation_id, key, request, connection)
            return
        talk = Talk(request.path, request.body)
        replay: Replay | None = None
        if idempotency.HEADER in request.headers:
            replay = Replay(self.archive, key.org_id, request)
            if await replay.answered(connection, at_us):
                return
            generation_id = replay.generation_id
        names = names_asked_for(talk.envelope)
        for name in names:
            try:
                first = "" if name == names[0] else names[0]
                await self._call(generation_id, key, talk, name, first, connection, at_us, replay)
                if self.learn is not None and request.path == CHAT:
                    self.learn(secret, name, connection.call)
                return
            except _ELSEWHERE:
                # What has a bill may have been booked, whatever the ledger has answered.
                if name == names[-1] or hasattr(connection.call, "bill"):
                    raise
                if replay is None:
                    generation_id = new_id("gen")

    async def _call(
        self,
        generation_id: str,
        key: KeyRecord,
        talk: Talk,
        name: str,
        instead_of: str,
        connection: Connection,
        at_us: int,
        replay: Replay | None,
    ) -> None:
        """Make the call under one of the names that the request asks for."""
        record = self.directory.known_listing(name) or await self.directory.listing(name)
        self._may_call(key, record, name)
        endpoints = talk.able(record.endpoints)
        if len(endpoints) > 1 or talk.wish is not None or endpoints[0].supports is not None:
            talk.route_by(key.org_id, endpoints)
        # Byte-level tokenizers make at most one token of each byte, so the body's length bounds the
        # input without a tokenizer, but for what is not text in it. Only where that bound does not fit the
        # context is the engine asked.
        context = record.listing.context_length or _NO_CONTEXT
        beyond = talk.media * _MEDIA_TOKENS
        input_tokens, max_tokens = len(talk.body) + _TEMPLATE_TOKENS + beyond, 0
        if talk.has_output:
            asked = talk.envelope.asked_max_tokens
            usual = record.listing.max_output_tokens or self.options.default_max_tokens
            max_tokens = asked or usual
            # Only those that may see the prompt are asked; where none may, the router says why.
            if input_tokens + max_tokens > context and (
                able := admitted(endpoints, talk.wish, talk.wanted)
            ):
                text_tokens, max_tokens = await self._exactly(
                    generation_id, record, able, talk, asked, usual
                )
                input_tokens = min(text_tokens + beyond, context)
            if talk.brings_more:
                # No tokenizer knows how much, so nobody is asked for its sake.
                more = record.listing.context_length or _MORE_TOKENS
                input_tokens = min(input_tokens + more, context)
        choices = talk.choices
        most = input_tokens + max_tokens * choices
        ticket = self.limits.enter(self.quotas.of(key, record), most, self.clock())
        try:
            call = Call(
                id=generation_id,
                key=key,
                record=record,
                payer=self.directory.known_ladder(key.org_id, name)
                or await self.directory.ladder(key.org_id, name),
                books=self.books,
                input_tokens=input_tokens,
                choices=choices,
                max_tokens=max_tokens,
                started_at_us=at_us,
                streamed=talk.has_output and bool(talk.envelope.stream),
                request_sha256=hashlib.sha256(talk.body).hexdigest(),
                endpoint=endpoints[0],
                caps=self.directory.known_caps(key) or await self.directory.caps(key),
                fallback_of=instead_of,
                headers=ticket.headers(),
            )
            connection.call = call
            gate = self.turns.gate(record)
            if gate is None:
                await self._held(call, talk, endpoints, name, connection, ticket, replay)
                return
            place = await self.turns.wait(gate, call, name.endswith(FREE_SUFFIX), connection)
            if call.waited_us:
                self.counters.queue_s.observe(call.waited_us / 1e6)
            try:
                try:
                    if call.waited_us:
                        endpoints = await self._there_now(call, talk, name)
                    await self._held(call, talk, endpoints, name, connection, ticket, replay)
                    return
                except EndpointsFull:
                    # Its wish leaves only engines that are full, whatever place the others have.
                    gate.give_back(place)
                engine = EnginePlace(self.router, endpoints, talk, key.org_id)
                before_us = call.waited_us
                place = await self.turns.wait(
                    gate, call, name.endswith(FREE_SUFFIX), connection, engine
                )
                self.counters.queue_s.observe((call.waited_us - before_us) / 1e6)
                await self._held(
                    call, talk, endpoints, name, connection, ticket, replay, engine.choice
                )
            finally:
                gate.leave(place, call.output_tokens, input_tokens=call.input_tokens_used)
        finally:
            ticket.leave()

    async def _resume(self, resumed: Resumed, request: Request, connection: Connection) -> None:
        """Go on with a call that compiled code has begun, as if it had been ours from its beginning."""
        terms, ticket, choice = resumed.terms, resumed.ticket, resumed.choice
        request.key = terms.key
        self.counters.resumed += 1
        call = Call(
            id=resumed.generation_id,
            key=terms.key,
            record=terms.record,
            payer=terms.payer,
            books=self.books,
            input_tokens=resumed.input_tokens,
            choices=1,
            max_tokens=resumed.max_tokens,
            started_at_us=resumed.began_us,
            streamed=resumed.streamed,
            request_sha256=hashlib.sha256(request.body).hexdigest(),
            endpoint=terms.endpoint,
            caps=terms.caps,
            headers=list(resumed.limits),
            may_be_booked=resumed.kind == "answer",
        )
        call.promised = resumed.promised
        call.hold_from_us = call.held_at_us = resumed.held_at_us
        connection.call = call
        self.open_calls[call.tx] = call
        try:
            call.plan = call.draw(call.max_tokens, dict.fromkeys(resumed.open_accounts, PLENTY))
            talk = Talk(request.path, request.body)
            if len(call.record.endpoints) > 1:
                talk.route_by(call.key.org_id, call.record.endpoints)
            await Exchange(call, talk, connection, self._tools).resume(choice, resumed)
        finally:
            self._ended(call, ticket)
            self.router.abandoned(choice)
            if resumed.gate is not None and resumed.place is not None:
                used = call.input_tokens_used
                resumed.gate.leave(resumed.place, call.output_tokens, input_tokens=used)
            ticket.leave()

    def _ended(self, call: Call, ticket: Ticket) -> None:
        """Give back what a call has taken and not used, whatever has become of it."""
        self.open_calls.pop(call.tx, None)
        self.reserves.let_go(call)
        ticket.settle(call.input_tokens_used + call.output_tokens)

    async def _there_now(self, call: Call, talk: Talk, name: str) -> tuple[EndpointRecord, ...]:
        """Return the engines of a call that has waited: they may have come and gone meanwhile.

        Its price stays the one that was in force when it began.
        """
        record = self.directory.known_listing(name) or await self.directory.listing(name)
        self._may_call(call.key, record, name)
        call.record = replace(call.record, endpoints=record.endpoints)
        return talk.able(record.endpoints)

    async def _held(
        self,
        call: Call,
        talk: Talk,
        endpoints: tuple[EndpointRecord, ...],
        name: str,
        connection: Connection,
        ticket: Ticket,
        replay: Replay | None,
        choice: Choice[EndpointRecord] | None = None,
    ) -> None:
        """Take a place on an engine, make the hold durable, and let the exchange begin."""
        if choice is None:
            choice = self.router.choose(
                endpoints,
                wish=talk.wish,
                affinity=talk.affinity,
                wanted=talk.wanted,
                caller=call.key.org_id,
            )
        try:
            call.hold_from_us = self.clock()
            if replay is None and self.reserves.promise(call):
                call.held_at_us = call.hold_from_us
                self.counters.promised += 1
            else:
                if replay is None:
                    await self._hold(call, name)
                elif await self._hold_once(call, name, replay, connection):
                    return
                call.held_at_us = self.clock()
                self.counters.hold_s.observe((call.held_at_us - call.hold_from_us) / 1e6)
            self.open_calls[call.tx] = call
            try:
                if connection.gone:
                    if not call.promised:
                        await self.writer.apply(Release(call.tx, self.clock()))
                    raise ClientGone
                await Exchange(call, talk, connection, self._tools, replay).run(choice)
            finally:
                self._ended(call, ticket)
        finally:
            self.router.abandoned(choice)

    def _may_call(self, key: KeyRecord, record: ListingRecord, model: str) -> None:
        if record.listing.tier == "sandbox" and record.listing.owner_org != key.org_id:
            raise model_not_found(model)
        if key.listings is not None and record.listing.slug not in key.listings:
            raise Forbidden(
                f"This key may not call {model}.", code="model_not_allowed", rule="key.listings"
            )
        if not record.endpoints:
            raise Unavailable(
                f"No engine serves {model} right now; nothing was charged.",
                code="no_healthy_endpoint",
                retry_after_s=5,
            )

    async def _hold(self, call: Call, model: str) -> None:
        """Make the hold of a call durable; if it is refused, once more with what the database says now.

        What is in memory may be a moment old, and somebody is about to be told to pay.
        """
        try:
            await self.reserves.hold(call)
        except PaymentRequired:
            stale_us = self.clock() - _FRESH_US
            if call.payer.built_at_us >= stale_us:
                raise
            org_id = call.key.org_id
            call.payer = await self.directory.ladder(org_id, model, fresher_than_us=stale_us)
            await self.reserves.hold(call)

    async def _hold_once(
        self, call: Call, model: str, replay: Replay, connection: Connection
    ) -> bool:
        """Make the hold of a call that may come twice; True when the first has been answered meanwhile.

        The ledger takes a hold's name once. When it is taken, the first try is still running, or it has
        been settled, or it was given up without a charge: then this one is the next try.
        """
        while True:
            try:
                await self._hold(call, model)
                return False
            except Conflict:
                call.tx = await replay.next_try(call.started_at_us)
            if not call.tx:
                if await replay.answered(connection, call.started_at_us):
                    return True
                raise idempotency.answer_gone(call.id)

    async def _exactly(
        self,
        generation_id: str,
        record: ListingRecord,
        endpoints: Sequence[EndpointRecord],
        talk: Talk,
        asked: int | None,
        usual: int,
    ) -> tuple[int, int]:
        """Return (tokens of the text, most output tokens per choice), counted by an engine."""
        context = record.listing.context_length or _NO_CONTEXT
        exact = await self._tokens(endpoints, talk.countable(), generation_id)
        if exact + (asked or 1) > context:
            wanted = f" and {asked} tokens of output" if asked else ""
            raise ContextTooLong(
                f"{record.listing.slug} has a context of {context} tokens; this prompt has {exact}{wanted}.",
                param="messages",
                rule="model.context_length",
                remedy="Shorten the prompt or lower max_tokens.",
                details={"context_length": context, "prompt_tokens": exact},
            )
        return exact, asked or min(usual, context - exact)

    async def _count(
        self, generation_id: str, key: KeyRecord, request: Request, connection: Connection
    ) -> None:
        """Answer how many tokens a request would have; nothing is charged for it."""
        body = decoded(request.body)
        if not isinstance(body, dict):
            raise BadRequest("The body is not a JSON object.", code="invalid_json")
        counting = TOKEN_COUNTS[request.path](body)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest("The request names no model.", param="model")
        record = await self.directory.listing(model)
        self._may_call(key, record, model)
        wish = parse_wish(msgspec.json.encode(body["provider"])) if body.get("provider") else None
        # Here, too, nobody sees the prompt whom the caller has ruled out.
        endpoints = admitted(record.endpoints, wish, frozenset())
        if not endpoints:
            raise refusal(record.endpoints, wish, frozenset(), (), ())
        ticket = self.limits.enter(self.quotas.of(key, record), 0, self.clock())
        try:
            count = await self._tokens(endpoints, counting.chat_request(), generation_id)
        finally:
            ticket.leave()
        answer = msgspec.json.encode(counting.answer(count))
        connection.respond(200, [(b"content-type", b"application/json")], answer)

    async def _tokens(
        self, endpoints: Sequence[EndpointRecord], document: dict[str, Any], generation_id: str
    ) -> int:
        """Return how many tokens the first engine that answers makes of a request."""
        for number, endpoint in enumerate(endpoints, 1):
            try:
                return await self.upstream.count_tokens(endpoint, document, generation_id)
            except _ELSEWHERE:
                if number == len(endpoints):
                    raise
        raise AssertionError("a listing without engines is refused before")

    def share(self, workers: int) -> None:
        """Take note of how many workers, on all machines, the limits are divided among."""
        self.limits.divide(workers)
        self.turns.divide(workers)
        self.reserves.divide(workers)

    async def renew(self) -> None:
        """Keep the holds of running calls alive until cancelled."""
        ttl_s = self.options.hold_ttl_s
        while True:
            await asyncio.sleep(ttl_s / 3)
            until = self.clock() + ttl_s * SECOND_US
            for tx in [tx for tx, call in self.open_calls.items() if not call.promised]:
                with contextlib.suppress(TokenMartError):
                    await self.writer.apply(Renew(tx, until))

    async def drain(self, patience_s: float, others: Callable[[], int] = int) -> None:
        """Refuse new calls, and return when the running ones have ended; `others` run elsewhere."""
        self.draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while loop.time() < deadline:
            if not self.running and not others():
                await asyncio.sleep(0)  # what was given up to us just now begins with this turn
                if not self.running:
                    return
            await asyncio.sleep(0.05)


def _no_key() -> Unauthenticated:
    return Unauthenticated(
        "The request carries no key.",
        code="missing_api_key",
        remedy="Send it as Authorization: Bearer tm-…",
    )
