"""Sending a file body: HEAD, one range, or all of it, in pieces of 1 MiB.

On one machine the body is read with `preadv(RWF_NOWAIT)` right on the event loop: what the page cache has is
sent without a thread, and what must come from the disk is read in one, so that nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from catalog.artifacts.store import BlobReader

PIECE_BYTES = 1 << 20
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)


class Span(NamedTuple):
    """Bytes to send: from `start` up to, not including, `end`."""

    start: int
    end: int


class Unsatisfiable(ValueError):
    """The range lies outside the file."""


def parse_range(header: str | None, size_bytes: int) -> Span | None:
    """Return the one range a header asks for, None to send all (also for several ranges).

    Raises `Unsatisfiable` when it begins behind the end.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start = int(first)
        end = min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            return None
    if start >= size_bytes or start >= end:
        raise Unsatisfiable(header)
    return Span(start, end)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class BlobResponse(Response):
    """Sends `span` of an open body and closes it, also when the client goes away."""

    def __init__(
        self, reader: BlobReader, span: Span, status_code: int, headers: dict[str, str]
    ) -> None:
        super().__init__(status_code=status_code, headers=headers)
        self.headers["content-length"] = str(span.end - span.start)
        self._reader = reader
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        del scope
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await self._send_body(send, gone)
        finally:
            gone.cancel()
            self._reader.close()

    async def _send_body(self, send: Send, gone: asyncio.Future[None]) -> None:
        at, end = self._span
        while at < end and not gone.done():
            piece = await self._read(at, min(PIECE_BYTES, end - at))
            if not piece:
                raise OSError("the body is shorter than its row says")
            at += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            # To a client that has gone, sending returns at once and for ever: let the loop tell.
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read(self, at: int, length: int) -> bytes:
        fd = self._reader.fd
        if fd is not None and hasattr(os, "RWF_NOWAIT"):
            buffer = bytearray(length)
            try:
                count = os.preadv(fd, [buffer], at, os.RWF_NOWAIT)
            except OSError:
                count = 0
            if count:
                return bytes(buffer) if count == length else bytes(buffer[:count])
        return await run_in_threadpool(self._reader.read, at, length)
