"""The hot path: one metered call, from the key to its hold; `exchange` takes it from there.

    read ─► who ─► what ─► how much at most ─► hold ─► exchange

An ASGI callable without a framework, because the framework would cost more than everything it does here.
What a client saw complete is settled durably: the body of a plain answer, and the closing `[DONE]` of a
stream, leave only after the settlement is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from catalog.ground.clock import SECOND_US, Clock, now_us
from catalog.ground.errors import (
    ContextTooLong,
    Forbidden,
    PaymentRequired,
    TokenMartError,
    Unauthenticated,
    Unavailable,
)
from catalog.ground.ids import new_id
from catalog.ground.rendering import RenderedError, render_openai
from marketplace.gateway.directory import (
    Directory,
    EndpointRecord,
    KeyRecord,
    ListingRecord,
    model_not_found,
)
from marketplace.gateway.exchange import Errands, Exchange
from marketplace.gateway.limits import ConcurrencyLimiter, RateLimiter
from marketplace.gateway.money import Books, Call
from marketplace.gateway.request import (
    ClientGone,
    Envelope,
    Receive,
    Scope,
    Send,
    bearer,
    parse,
    read_body,
)
from marketplace.gateway.upstream import Upstream
from marketplace.ledger.operations import Held, Release, Renew
from marketplace.ledger.writer import LedgerWriter
from marketplace.settings import Settings

log = logging.getLogger(__name__)

PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
_TEMPLATE_TOKENS = 64
"""What a chat template adds at most around one message, beyond the bytes that the caller sent."""
_FRESH_US = 250_000


@dataclass
class Hot:
    """Everything a call needs; one for each process."""

    settings: Settings
    directory: Directory
    writer: LedgerWriter
    upstream: Upstream
    books: Books
    clock: Clock = now_us

    def __post_init__(self) -> None:
        self._rates = RateLimiter()
        self._slots = ConcurrencyLimiter()
        self.open_calls: dict[str, Call] = {}
        self.errands = Errands()
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        generation_id = new_id("gen")
        try:
            await self._serve(generation_id, scope, receive, send)
        except ClientGone:
            return
        except Exception as error:
            if not isinstance(error, TokenMartError):
                log.exception("call %s failed", generation_id)
            with contextlib.suppress(Exception):
                await _send_error(send, render_openai(error), generation_id)

    async def _serve(self, generation_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self.draining:
            raise Unavailable("This gateway is shutting down.", retry_after_s=1)
        started_at_us = self.clock()
        key = await self._who(scope, started_at_us)
        body = await read_body(receive, self.settings.body_limit_bytes)
        envelope = parse(body)
        record = await self._what(key, envelope.model)
        left = self._rates.take(key.id, key.rpm or self.settings.key_rpm, started_at_us)
        self._slots.enter(key.id, key.concurrency or self.settings.key_concurrency)
        try:
            call = await self._admit(generation_id, key, record, envelope, body, started_at_us)
            call.headers.append((b"x-ratelimit-remaining-requests", b"%d" % left))
            try:
                exchange = Exchange(
                    call,
                    envelope,
                    scope["path"],
                    body,
                    self.upstream,
                    self.writer,
                    self.errands,
                    self.clock,
                    self.settings.hold_ttl_s,
                )
                await exchange.run(receive, send)
            finally:
                self.open_calls.pop(call.id, None)
        finally:
            self._slots.leave(key.id)

    async def _who(self, scope: Scope, at_us: int) -> KeyRecord:
        secret = bearer(scope)
        if not secret:
            raise Unauthenticated(
                "The request carries no key.",
                code="missing_api_key",
                remedy="Send it as Authorization: Bearer tm-…",
            )
        key = await self.directory.key(secret)
        client = scope.get("client")
        key.check(at_us, client[0] if client else None)
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

    async def _admit(
        self,
        generation_id: str,
        key: KeyRecord,
        record: ListingRecord,
        envelope: Envelope,
        body: bytes,
        at_us: int,
    ) -> Call:
        """Return the call with its hold made durable."""
        endpoint = record.endpoints[0]
        input_tokens, max_tokens = await self._bounds(
            generation_id, record, endpoint, envelope, body
        )
        call = Call(
            id=generation_id,
            key=key,
            record=record,
            payer=await self.directory.ladder(key.org_id, envelope.model),
            books=self.books,
            input_tokens=input_tokens,
            choices=envelope.n or 1,
            max_tokens=max_tokens,
            started_at_us=at_us,
            streamed=bool(envelope.stream),
            request_sha256=hashlib.sha256(body).hexdigest(),
            endpoint=endpoint,
            caps=await self.directory.caps(key),
        )
        try:
            await self._hold(call)
        except PaymentRequired:
            # Before somebody is told to pay: what is in memory may be a moment old, so look again.
            stale_us = self.clock() - _FRESH_US
            if call.payer.built_at_us >= stale_us:
                raise
            call.payer = await self.directory.ladder(
                key.org_id, envelope.model, fresher_than_us=stale_us
            )
            await self._hold(call)
        return call

    async def _hold(self, call: Call) -> None:
        waiting = asyncio.ensure_future(self.writer.apply(call.hold(self.settings.hold_ttl_s)))
        try:
            held = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self.errands.run(self._release_after(waiting, call.id))
            raise
        assert isinstance(held, Held)
        self.open_calls[call.id] = call

    async def _release_after(self, waiting: asyncio.Future[Any], tx: str) -> None:
        with contextlib.suppress(TokenMartError):
            await waiting
            await self.writer.apply(Release(tx, self.clock()))

    async def _bounds(
        self,
        generation_id: str,
        record: ListingRecord,
        endpoint: EndpointRecord,
        envelope: Envelope,
        body: bytes,
    ) -> tuple[int, int]:
        """Return (most input tokens, most output tokens per choice).

        Byte-level tokenizers make at most one token of each byte, so the body's length bounds the
        input without a tokenizer. Only where that bound does not fit the context is the engine asked.
        """
        context = record.listing.context_length or 1 << 40
        asked = envelope.asked_max_tokens
        usual = record.listing.max_output_tokens or self.settings.default_max_tokens
        bound = len(body) + _TEMPLATE_TOKENS
        if bound + (asked or usual) <= context:
            return bound, asked or usual
        exact = await self.upstream.count_tokens(endpoint, json.loads(body), generation_id)
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

    async def renew(self) -> None:
        """Keep the holds of running calls alive until cancelled."""
        ttl_s = self.settings.hold_ttl_s
        while True:
            await asyncio.sleep(ttl_s / 3)
            until = self.clock() + ttl_s * SECOND_US
            for call_id in list(self.open_calls):
                with contextlib.suppress(TokenMartError):
                    await self.writer.apply(Renew(call_id, until))

    async def drain(self, patience_s: float) -> None:
        """Refuse new calls, let the running ones end, wait for their settlements."""
        self.draining = True
        deadline = asyncio.get_running_loop().time() + patience_s
        while self.open_calls and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        await self.errands.finish(5)


async def _send_error(send: Send, error: RenderedError, generation_id: str) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in error.headers.items()]
    headers.append((b"content-length", b"%d" % len(error.body)))
    headers.append((b"x-tm-generation", generation_id.encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body})
