"""One admitted call: send it to its engine, hand the answer on, settle, and only then the last byte.

forward ─┬─ whole answer ─► settle ─► headers with the cost, body
         ├─ stream ─► pieces as they come ─► settle ─► usage chunk, [DONE]
         ├─ the engine fails ─► void ─► an error, nobody pays
         └─ the client leaves ─► the engine is cut off ─► settle what was made
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass
from typing import Any

import aiohttp

from catalog.ground.clock import Clock
from catalog.ground.errors import Conflict, TokenMartError
from catalog.ground.rendering import render_openai
from marketplace.gateway.money import Bill, Call
from marketplace.gateway.request import ClientGone, Envelope, Receive, Send, rewrite
from marketplace.gateway.sse import DONE, StreamReader
from marketplace.gateway.upstream import Answer, Upstream, broken, timed_out
from marketplace.gateway.usage import usage_of
from marketplace.gateway.wire import WireError
from marketplace.ledger.operations import Release
from marketplace.ledger.writer import LedgerWriter
from marketplace.prices.usage import Buckets, normalise_usage

log = logging.getLogger(__name__)


class Errands:
    """Work that is finished whatever happens to the call that ordered it: money is not dropped."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def run(self, work: Any) -> asyncio.Task[Any]:
        """Start work that outlives its caller."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self, patience_s: float) -> None:
        """Wait for what is running."""
        if self._running:
            await asyncio.wait(self._running, timeout=patience_s)


@dataclass(slots=True)
class Exchange:
    """The way of one held call through its engine and back."""

    call: Call
    envelope: Envelope
    path: str
    body: bytes
    upstream: Upstream
    writer: LedgerWriter
    errands: Errands
    clock: Clock
    hold_ttl_s: int

    async def run(self, receive: Receive, send: Send) -> None:
        """Answer the call; returns when its money is settled. Raises what the client should be told."""
        call, envelope = self.call, self.envelope
        changes: dict[str, Any] = {"model": call.endpoint.model}
        if envelope.asked_max_tokens != call.max_tokens:
            # Both names may be there; the engine must see the bound that the hold covers.
            changes |= {"max_tokens": call.max_tokens, "max_completion_tokens": call.max_tokens}
        if call.streamed:
            changes["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        sent = rewrite(self.body, changes)
        gone = asyncio.ensure_future(_disconnected(receive))
        work = asyncio.ensure_future(self._answer(sent, send))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            await work
        except asyncio.CancelledError:
            await asyncio.shield(self.errands.run(self._client_left()))
            raise ClientGone from None
        finally:
            gone.cancel()

    async def _answer(self, body: bytes, send: Send) -> None:
        call = self.call
        answer: Answer | None = None
        try:
            answer = await self.upstream.post(call.endpoint, self.path, body, call.id)
            if call.streamed:
                await self._stream(answer, send)
            else:
                await self._whole(answer, send)
        except TokenMartError:
            await self._void()
            raise
        except (WireError, aiohttp.ClientError) as error:
            await self._void()
            raise broken() from error
        except TimeoutError as error:
            await self._void()
            raise timed_out() from error
        finally:
            if answer is not None:
                answer.abort()

    async def _whole(self, answer: Answer, send: Send) -> None:
        call = self.call
        document = await answer.read()
        usage = usage_of(document)
        if usage is None:
            raise broken()
        bill = await self._settle(usage, "engine", "ok")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(document)),
            *_call_headers(call),
            *bill.headers(call.books),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": document})

    async def _stream(self, answer: Answer, send: Send) -> None:
        call = self.call
        reader = call.reader = StreamReader()
        started = False
        while piece := await answer.piece():
            forward = reader.feed(piece)
            if reader.failed is not None:
                break
            if forward:
                if not started:
                    started = True
                    call.first_token_us = self.clock() - call.started_at_us
                    await send(_stream_start(call))
                await send({"type": "http.response.body", "body": forward, "more_body": True})
        usage = None
        if reader.done and reader.failed is None and reader.usage is not None:
            usage = usage_of(reader.usage)
        if usage is None:
            await self._stream_broke(send, started=started)
            return
        bill = await self._settle(usage, "engine", "ok")
        if not started:
            await send(_stream_start(call))
        last = b""
        if self.envelope.wants_usage and reader.usage_chunk is not None:
            last = reader.usage_chunk + b"\n\n"
        last += b": cost_u=%d\n\n" % bill.cost_u + DONE + b"\n\n"
        await send({"type": "http.response.body", "body": last})

    async def _stream_broke(self, send: Send, *, started: bool) -> None:
        """The engine did not finish: nobody pays, and the client is told instead of `[DONE]`."""
        await self._void()
        if not started:
            raise broken()
        event = b"data: " + render_openai(broken()).body + b"\n\n"
        await send({"type": "http.response.body", "body": event})

    async def _client_left(self) -> None:
        """Bill the input and what had been produced when the client went away."""
        call = self.call
        if call.ended:
            return
        usage, source = None, "engine"
        if call.reader is not None and call.reader.usage is not None:
            usage = usage_of(call.reader.usage)
        if usage is None:
            request = json.loads(self.body)
            with contextlib.suppress(TokenMartError):
                prompt = await self.upstream.count_tokens(call.endpoint, request, call.id)
                usage, source = {"prompt_tokens": prompt, "completion_tokens": 0}, "counted"
        if usage is None:
            await self._void()
        else:
            await self._settle(usage, source, "cancelled")

    async def _settle(self, usage: dict[str, Any], source: str, outcome: str) -> Bill:
        call = self.call
        used: Buckets = normalise_usage(usage)
        raw = json.dumps(usage, separators=(",", ":"))
        call.ended = True
        bill = call.settle(used, raw, source, outcome, self.clock())
        waiting = self.errands.run(self._settle_durably(bill))
        await asyncio.shield(waiting)
        return bill

    async def _settle_durably(self, bill: Bill) -> None:
        call = self.call
        try:
            await self.writer.apply(bill.operation(call, call.id, bill.at_us))
        except Conflict:
            # The hold had expired (this process stood still for longer than its holds live). What was
            # served is charged anew if the money is still there, and is the platform's loss if not.
            log.warning("hold %s had expired before it was settled", call.id)
            await self._charge_late(bill)

    async def _charge_late(self, bill: Bill) -> None:
        call = self.call
        await self.writer.apply(call.late_hold(bill, self.clock(), self.hold_ttl_s))
        await self.writer.apply(bill.operation(call, f"{call.id}~late", self.clock()))

    async def _void(self) -> None:
        """End the hold without a charge, unless it has been ended already."""
        if self.call.ended:
            return
        self.call.ended = True
        await asyncio.shield(
            self.errands.run(self.writer.apply(Release(self.call.id, self.clock())))
        )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _call_headers(call: Call) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"x-tm-generation", call.id.encode()),
        (b"x-tm-price-version", call.record.price_version_id.encode()),
        *call.headers,
    ]
    if call.clamped:
        headers.append((b"x-tm-max-tokens", b"%d" % call.max_tokens))
    return headers


def _stream_start(call: Call) -> dict[str, Any]:
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        *_call_headers(call),
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}
