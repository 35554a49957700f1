"""Large bodies straight from the socket: half the processor time of receiving them as events.

Every 256 KB a server hands to an application costs parsing, three copies and two switches between threads,
together more than hashing the bytes. So for a large body of known length the handler stops the event loop's
reading, takes what has been parsed already, and reads the rest into one buffer in a thread, where recv, hash
and write all let go of the interpreter. The connection is closed after the answer, because the parser
has not seen the body.

Works under uvicorn with httptools on a plain socket. Everywhere else (TLS in this process, another server,
a middleware that wraps `receive`) `take` returns None and the body comes as events, only dearer.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

FROM_BYTES = 4 << 20
PIECE_BYTES = 1 << 20
SILENCE_S = 60.0
DRAIN_BYTES = 64 << 20
AT_ONCE = 16
"""A slow sender holds its thread, so there is a limit; whoever comes beyond it is served by events."""

_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="body")
_busy = 0


def _cycle_of(request: Request) -> Any | None:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    cycle = getattr(request.receive, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not cycle.more_body or cycle.disconnected:
        return None
    if cycle.transport.get_extra_info("sslcontext") is not None:
        return None
    return cycle


def _length(request: Request) -> int:
    text = request.headers.get("content-length", "")
    return int(text) if text.isdigit() else 0


class Takeover:
    """A body of `length` bytes whose connection is ours until the answer is sent."""

    def __init__(self, cycle: Any, length: int) -> None:
        self._cycle = cycle
        self._length = length
        cycle.flow.pause_reading()
        if cycle.waiting_for_100_continue:
            cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        self._first = bytes(cycle.body)
        cycle.body = bytearray()
        cycle.keep_alive = False
        handle = cycle.transport.get_extra_info("socket")
        self._socket = socket.socket(fileno=os.dup(handle.fileno()))
        self._socket.settimeout(SILENCE_S)

    async def run(self, write: Callable[[memoryview], object]) -> int:
        """Feed the body to `write`, in order, and return its length; what `write` raises is raised."""
        global _busy
        _busy += 1
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(_threads, self._read, write)
        try:
            # A cancelled handler must not close a file that the thread is still writing to.
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            self._socket.shutdown(socket.SHUT_RD)
            await asyncio.wait([working])
            raise
        finally:
            _busy -= 1
            self._socket.close()

    def _read(self, write: Callable[[memoryview], object]) -> int:
        left = self._length - len(self._first)
        try:
            write(memoryview(self._first))
            piece = memoryview(bytearray(PIECE_BYTES))
            while left:
                filled = self._fill(piece[: min(left, PIECE_BYTES)])
                left -= filled
                write(piece[:filled])
        except ClientDisconnect:
            raise
        except Exception:
            self._drain(left)
            raise
        return self._length

    def _fill(self, piece: memoryview) -> int:
        filled = 0
        while filled < len(piece):
            try:
                count = self._socket.recv_into(piece[filled:])
            except OSError as error:
                raise ClientDisconnect from error
            if not count:
                raise ClientDisconnect
            filled += count
        return filled

    def _drain(self, left: int) -> None:
        # Closing on unread bytes resets the connection, and the client would not see why.
        piece = memoryview(bytearray(PIECE_BYTES))
        left = min(left, DRAIN_BYTES)
        while left > 0:
            try:
                left -= self._fill(piece[: min(left, PIECE_BYTES)])
            except ClientDisconnect:
                return


def take(request: Request) -> Takeover | None:
    """Return the takeover of a request's body, None when it has to come as events."""
    length = _length(request)
    if length < FROM_BYTES or _busy >= AT_ONCE:
        return None
    cycle = _cycle_of(request)
    return Takeover(cycle, length) if cycle is not None else None
