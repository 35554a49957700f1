"""Bytes out, and noticing that nobody waits for them any more.

A provider goes on, and goes on charging, until its connection is closed. So work for a client runs beside
a listener for that client's leaving, which cancels it wherever it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from catalog.ground.errors import TokenMartError
from serving.process.edge import ClientLeftError, client_left
from serving.process.events import DONE, Events, event

Json = dict[str, Any]
Result = TypeVar("Result")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`; cancel it and raise `ClientLeftError` when the client leaves first."""
    task = asyncio.create_task(work)
    listener = asyncio.create_task(client_left(receive))
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


class EventStream(Events):
    """Server-sent events, one for each chunk.

    `ended` is told how it went: a status code, or None for a client that left.
    """

    def __init__(self, chunks: AsyncIterator[Json], ended: Callable[[int | None], None]) -> None:
        super().__init__()
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
        try:
            async for chunk in self._chunks:
                await self.say(send, event(chunk))
                # A provider that is faster than litellm would never let anybody else have a turn, not
                # even the listener for this client's leaving.
                await asyncio.sleep(0)
        except TokenMartError as error:
            await self.fail(error, scope, receive, send)
            return error.status
        finally:
            await self._chunks.aclose()  # type: ignore[attr-defined]
        await self.say(send, DONE, last=True)
        return 200
