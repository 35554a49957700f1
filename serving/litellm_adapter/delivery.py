"""Bytes out, and noticing that nobody waits for them any more.

A provider goes on, and goes on charging, until its connection is closed. So work for a client runs beside
a listener for that client's leaving, which cancels it wherever it is.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from catalog.ground.errors import TokenMartError
from catalog.ground.rendering import openai_object, render_openai

Json = dict[str, Any]
Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class ClientLeftError(Exception):
    """Nobody is there to be answered."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`; cancel it and raise `ClientLeftError` when the client leaves first."""
    task = asyncio.create_task(work)
    listener = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({task, listener}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeftError
    finally:
        listener.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def refusal(error: Exception) -> Response:
    """Return the answer to a request that failed; what is not ours is logged and not told."""
    if not isinstance(error, TokenMartError):
        traceback.print_exception(error, file=sys.stderr)
    rendered = render_openai(error)
    return Response(rendered.body, rendered.status, rendered.headers)


def document(body: Json, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(_encode(body), status, media_type="application/json")


class EventStream(Response):
    """Server-sent events, one for each chunk.

    Headers are sent with the first chunk, so that a failure before it still has its own status; a failure
    after it is an event with an error object, and then no `[DONE]`. `ended` is told how it went: a status
    code, or None for a client that left.
    """

    def __init__(self, chunks: AsyncIterator[Json], ended: Callable[[int | None], None]) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._chunks, self._ended = chunks, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; hangs up on the provider when the client leaves."""
        outcome: int | None = None
        try:
            outcome = await while_connected(receive, self._send(scope, receive, send))
        except ClientLeftError:
            pass
        finally:
            self._ended(outcome)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> int:
        started = False
        try:
            async for chunk in self._chunks:
                if not started:
                    await self._start(send)
                    started = True
                event = b"data: " + _encode(chunk) + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": True})
                # A provider that is faster than litellm would never let anybody else have a turn, not
                # even the listener for this client's leaving.
                await asyncio.sleep(0)
        except TokenMartError as error:
            if started:
                event = b"data: " + _encode(openai_object(error)) + b"\n\n"
                await send({"type": "http.response.body", "body": event})
            else:
                await refusal(error)(scope, receive, send)
            return error.status
        finally:
            await self._chunks.aclose()  # type: ignore[attr-defined]
        if not started:
            await self._start(send)
        await send({"type": "http.response.body", "body": DONE})
        return 200

    async def _start(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
