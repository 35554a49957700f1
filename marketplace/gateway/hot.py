"""The hot path: one metered call, from the key to its hold; `exchange` takes it from there.

    who ─► what ─► how much at most ─► limits ─► hold ─► exchange

What a client saw complete is settled durably: the body of a plain answer, and the end of a stream, leave
only after the settlement is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass, field

import msgspec

from catalog.ground.clock import SECOND_US, Clock, now_us
from catalog.ground.errors import (
    BadRequest,
    ContextTooLong,
    Forbidden,
    PaymentRequired,
    TokenMartError,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from catalog.ground.ids import new_id
from marketplace.gateway.directory import Directory
from marketplace.gateway.door import Connection, Request
from marketplace.gateway.exchange import Exchange, Tools
from marketplace.gateway.limits import Limits
from marketplace.gateway.meter import Meter
from marketplace.gateway.money import Books, Call
from marketplace.gateway.options import Options
from marketplace.gateway.quotas import Quotas
from marketplace.gateway.records import KeyRecord, ListingRecord, model_not_found
from marketplace.gateway.request import ClientGone, bearer
from marketplace.gateway.shapes import Talk, names_asked_for, render
from marketplace.gateway.upstream import Upstream
from marketplace.ledger.operations import Held, Release, Renew
from marketplace.ledger.writer import LedgerWriter
from serving.routing import Router
from serving.translation import TOKEN_COUNTS

log = logging.getLogger(__name__)

_TEMPLATE_TOKENS = 64
"""What a chat template adds at most around one message, beyond the bytes that the caller sent."""
_FRESH_US = 250_000
_ELSEWHERE = (Unavailable, UpstreamFailed, UpstreamTimeout)
"""What lets a request that asked for fallbacks go on to its next listing."""


@dataclass
class Hot:
    """Everything a call needs; one for each process."""

    options: Options
    directory: Directory
    writer: LedgerWriter
    upstream: Upstream
    books: Books
    clock: Clock = now_us
    meter: Meter = field(default_factory=Meter)
    router: Router = field(default_factory=Router)

    def __post_init__(self) -> None:
        self._limits = Limits(self.options.workers)
        self._quotas = Quotas(self.options)
        self._tools = Tools(
            self.upstream, self.writer, self.router, self.meter, self.clock, self.options.hold_ttl_s
        )
        self.open_calls: dict[str, Call] = {}
        self.running = 0
        self.draining = False

    async def serve(self, request: Request, connection: Connection) -> None:
        """Answer one request of the door."""
        generation_id = new_id("gen")
        self.running += 1
        try:
            await self._serve(generation_id, request, connection)
            self.meter.answered(request.path, 200)
        except ClientGone:
            self.meter.answered(request.path, 499)
        except Exception as error:
            if not isinstance(error, TokenMartError):
                log.exception("call %s failed", generation_id)
            rendered = render(request.path, error, generation_id)
            rendered.headers["x-tm-generation"] = generation_id
            self.meter.answered(request.path, rendered.status)
            connection.respond_error(rendered)
        finally:
            self.running -= 1

    async def _serve(self, generation_id: str, request: Request, connection: Connection) -> None:
        at_us = self.clock()
        if self.draining:
            raise Unavailable("This gateway is shutting down.", retry_after_s=1)
        self.directory.check_fresh(at_us)
        key = await self._who(request, at_us)
        if request.path in TOKEN_COUNTS:
            await self._count(generation_id, key, request, connection)
            return
        talk = Talk(request.path, request.body)
        names = names_asked_for(talk.envelope)
        for number, name in enumerate(names):
            try:
                await self._call(generation_id, key, talk, name, names[0], connection, at_us)
                return
            except _ELSEWHERE:
                if number + 1 == len(names):
                    raise
                generation_id = new_id("gen")

    async def _call(
        self,
        generation_id: str,
        key: KeyRecord,
        talk: Talk,
        name: str,
        first: str,
        connection: Connection,
        at_us: int,
    ) -> None:
        """Make the call under one of the names that the request asks for."""
        record = await self._what(key, name)
        talk.route_by(key.org_id, record.endpoints)
        input_tokens, max_tokens = await self._bounds(generation_id, record, talk)
        choices = talk.envelope.n or 1
        ticket = self._limits.enter(
            self._quotas.of(key, record), input_tokens + max_tokens * choices, self.clock()
        )
        try:
            choice = self.router.choose(
                record.endpoints, wish=talk.wish, affinity=talk.affinity, wanted=talk.wanted
            )
            try:
                call = Call(
                    id=generation_id,
                    key=key,
                    record=record,
                    payer=await self.directory.ladder(key.org_id, name),
                    books=self.books,
                    input_tokens=input_tokens,
                    choices=choices,
                    max_tokens=max_tokens,
                    started_at_us=at_us,
                    streamed=talk.has_output and bool(talk.envelope.stream),
                    request_sha256=hashlib.sha256(talk.body).hexdigest(),
                    endpoint=choice.candidate,
                    caps=await self.directory.caps(key),
                    fallback_of="" if name == first else first,
                    headers=ticket.headers(),
                )
                await self._admit(call, name, connection)
                try:
                    await Exchange(call, talk, connection, self._tools).run(choice)
                finally:
                    self.open_calls.pop(call.id, None)
                    ticket.settle(call.input_tokens_used + call.output_tokens)
            finally:
                self.router.abandoned(choice)
        finally:
            ticket.leave()

    async def _who(self, request: Request, at_us: int) -> KeyRecord:
        secret = bearer(request.headers)
        if not secret:
            raise Unauthenticated(
                "The request carries no key.",
                code="missing_api_key",
                remedy="Send it as Authorization: Bearer tm-…",
            )
        key = await self.directory.key(secret)
        key.check(at_us, request.client)
        return key

    async def _what(self, key: KeyRecord, model: str) -> ListingRecord:
        record = await self.directory.listing(model)
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
        return record

    async def _admit(self, call: Call, model: str, connection: Connection) -> None:
        """Make the call's hold durable."""
        began_us = self.clock()
        try:
            await self._hold(call)
        except PaymentRequired:
            # Before somebody is told to pay: what is in memory may be a moment old, so look again.
            stale_us = self.clock() - _FRESH_US
            if call.payer.built_at_us >= stale_us:
                raise
            call.payer = await self.directory.ladder(
                call.key.org_id, model, fresher_than_us=stale_us
            )
            await self._hold(call)
        self.meter.hold_s.observe((self.clock() - began_us) / 1e6)
        if connection.gone:
            self.open_calls.pop(call.id, None)
            await self.writer.apply(Release(call.id, self.clock()))
            raise ClientGone

    async def _hold(self, call: Call) -> None:
        held = await self.writer.apply(call.hold(self.options.hold_ttl_s))
        assert isinstance(held, Held)
        self.open_calls[call.id] = call

    async def _bounds(
        self, generation_id: str, record: ListingRecord, talk: Talk
    ) -> tuple[int, int]:
        """Return (most input tokens, most output tokens per choice).

        Byte-level tokenizers make at most one token of each byte, so the body's length bounds the
        input without a tokenizer. Only where that bound does not fit the context is the engine asked.
        """
        context = record.listing.context_length or 1 << 40
        bound = len(talk.body) + _TEMPLATE_TOKENS
        if not talk.has_output:
            return bound, 0
        asked = talk.envelope.asked_max_tokens
        usual = record.listing.max_output_tokens or self.options.default_max_tokens
        if bound + (asked or usual) <= context:
            return bound, asked or usual
        exact = await self.upstream.count_tokens(
            record.endpoints[0], talk.countable(), generation_id
        )
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
        try:
            body = msgspec.json.decode(request.body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadRequest(f"The body is not JSON: {error}.", code="invalid_json") from None
        if not isinstance(body, dict):
            raise BadRequest("The body is not a JSON object.", code="invalid_json")
        counting = TOKEN_COUNTS[request.path](body)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest("The request names no model.", param="model")
        record = await self._what(key, model)
        ticket = self._limits.enter(self._quotas.of(key, record), 0, self.clock())
        try:
            count = await self.upstream.count_tokens(
                record.endpoints[0], counting.chat_request(), generation_id
            )
        finally:
            ticket.leave()
        answer = msgspec.json.encode(counting.answer(count))
        connection.respond(200, [(b"content-type", b"application/json")], answer)

    async def renew(self) -> None:
        """Keep the holds of running calls alive until cancelled."""
        ttl_s = self.options.hold_ttl_s
        while True:
            await asyncio.sleep(ttl_s / 3)
            until = self.clock() + ttl_s * SECOND_US
            for call_id in list(self.open_calls):
                with contextlib.suppress(TokenMartError):
                    await self.writer.apply(Renew(call_id, until))

    async def drain(self, patience_s: float) -> None:
        """Refuse new calls, and return when the running ones have ended."""
        self.draining = True
        deadline = asyncio.get_running_loop().time() + patience_s
        while self.running and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
