"""Taking a request body to the spool: from the socket when it is large, else from the server's events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from fastapi import Request

from catalog.hub import takeover

PIECE_BYTES = 1 << 20


Write = Callable[[bytes | memoryview], object]


async def receive(request: Request, write: Write) -> int:
    """Feed the body to `write` in pieces of about 1 MiB, in order, and return its length.

    `write` runs in a thread, never twice at once, and must not keep the piece. What it raises ends the
    upload and is raised here; `ClientDisconnect` when the sender went away.
    """
    taken = takeover.take(request)
    return await (taken.run(write) if taken is not None else _by_events(request, write))


async def _by_events(request: Request, write: Write) -> int:
    loop = asyncio.get_running_loop()
    writing: asyncio.Future[object] | None = None
    parts: list[bytes] = []
    waiting = total = 0
    try:
        async for part in request.stream():
            parts.append(part)
            waiting += len(part)
            if waiting >= PIECE_BYTES:
                if writing is not None:
                    await writing
                writing = loop.run_in_executor(None, write, b"".join(parts))
                total += waiting
                parts, waiting = [], 0
        if writing is not None:
            await writing
        if waiting:
            await loop.run_in_executor(None, write, b"".join(parts))
    finally:
        # The caller is about to close the file: no thread may still be writing to it.
        if writing is not None and not writing.done():
            with suppress(Exception):
                await asyncio.shield(writing)
    return total + waiting
