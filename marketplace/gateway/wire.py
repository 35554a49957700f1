"""A small HTTP/1.1 client for engines on plain connections: what the hot path needs, and nothing else.

General clients cost several times what the rest of a call costs (measured: `make bench-gateway`), because
they serve every use. This one sends prepared bytes on a kept-alive connection, parses with httptools
(llhttp, the parser of Node.js), hands the body over in the pieces in which it arrived, and closes the
connection at once when nobody wants the rest: that is how an engine learns that its client has gone.

Not here, on purpose: TLS, redirects, cookies, proxies, compression. `upstream` uses a general client for
engines that need them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

import httptools

_HIGH_WATER = 256 * 1024
"""Bytes of a body that may wait for a slow reader before the engine is told to wait as well."""
_IDLE_KEPT = 64
"""Connections kept open for each engine."""


class WireError(Exception):
    """The engine broke off, or what it sent is not HTTP. `reached` tells whether anything came back."""

    def __init__(self, words: str, *, reached: bool) -> None:
        super().__init__(words)
        self.reached = reached


class Response:
    """One answer. Read it to its end, or `abort` it; either way the connection takes care of itself."""

    __slots__ = (
        "_connection",
        "_error",
        "_pieces",
        "_size",
        "_waiter",
        "complete",
        "headers",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False

    async def piece(self) -> bytes:
        """Return what has arrived of the body since the last time, b"" at its end.

        Raises `WireError` when the engine broke off, `TimeoutError` when it was silent for too long.
        """
        while not self._pieces:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        if len(self._pieces) == 1:
            data = self._pieces.popleft()
        else:
            data = b"".join(self._pieces)
            self._pieces.clear()
        self._size = 0
        self._connection.resume()
        return data

    async def read(self, limit: int | None = None) -> bytes:
        """Return the whole body, or at least its first `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        while part := await self.piece():
            parts.append(part)
            size += len(part)
            if limit is not None and size >= limit:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def abort(self) -> None:
        """Close the connection unless the answer is complete: nobody wants the rest."""
        if not self.complete:
            self._connection.abort()

    def fed(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > _HIGH_WATER:
            self._connection.pause()
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        if error is None:
            self.complete = True
        else:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, pool: Pool) -> None:
        self.loop = pool.loop
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response: Response | None = None
        self._started: asyncio.Future[Response] | None = None
        self._paused = False
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    def send(self, request: bytes) -> asyncio.Future[Response]:
        """Send a request; the future has its answer once the headers are there."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._response = Response(self)
        self._started = self.loop.create_future()
        self._heard_at = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self._pool.silence_s, self._check_silence)
        self._transport.write(request)
        return self._started

    def _check_silence(self) -> None:
        # One timer for the connection's life, set again lazily: cheaper than one for each request.
        self._timer = None
        if self._response is None or self.closed:
            return
        quiet_s = self.loop.time() - self._heard_at
        if quiet_s >= self._pool.silence_s and not self._paused:
            self._fail(TimeoutError("the engine was silent for too long"))
            self.abort()
            return
        wait_s = max(0.01, self._pool.silence_s - quiet_s)
        self._timer = self.loop.call_later(wait_s, self._check_silence)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        if self._response is None or self._parser is None:
            self.abort()  # an answer that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(WireError(f"not HTTP: {error}", reached=True))
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None:
            self._response.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self._response is None or self._started is None:
            return
        if 100 <= status < 200:
            self._response.headers.clear()
            return
        self._response.status = status
        if not self._started.done():
            self._started.set_result(self._response)

    def on_body(self, body: bytes) -> None:
        if self._response is not None:
            self._response.fed(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        response = self._response
        if response is None or response.status == 0:
            return  # an interim answer (1xx) is over; the real one follows
        reusable = self._parser.should_keep_alive() and not self.closed
        self._response = self._started = None
        self.resume()
        response.end()
        if reusable:
            self._pool.release(self)
        else:
            self.abort()

    def eof_received(self) -> None:
        self._fail_or_finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fail_or_finish()
        self._pool.forget(self)

    def _fail_or_finish(self) -> None:
        """A body without a length ends with its connection; anything else has been broken off."""
        response = self._response
        if response is None:
            return
        headers = response.headers
        endless = b"content-length" not in headers and b"transfer-encoding" not in headers
        if response.status and endless:
            self._response = self._started = None
            response.end()
            return
        self._fail(WireError("the engine closed the connection", reached=bool(response.status)))

    def _fail(self, error: Exception) -> None:
        response, started = self._response, self._started
        self._response = self._started = None
        if started is not None and not started.done():
            started.set_exception(error)
        if response is not None:
            response.end(error)

    def pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None and not self.closed:
            self._paused = False
            self._heard_at = self.loop.time()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()


class Pool:
    """The connections to one engine."""

    def __init__(self, host: str, port: int, connect_s: float, silence_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.silence_s = silence_s
        self._address = (host, port)
        self._connect_s = connect_s
        self._idle: list[Connection] = []

    async def request(self, request: bytes) -> Response:
        """Send a prepared request and return its answer once the headers are there.

        A kept connection that turns out to be closed before anything came back is replaced once.
        Raises `OSError` or `TimeoutError` when the engine cannot be reached, `WireError` when it broke off.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            try:
                return await self._answer(connection, request)
            except WireError as error:
                if error.reached:
                    raise
        return await self._answer(await self._connect(), request)

    async def _answer(self, connection: Connection, request: bytes) -> Response:
        started = connection.send(request)
        try:
            return await started
        except asyncio.CancelledError:
            connection.abort()
            raise

    async def _connect(self) -> Connection:
        host, port = self._address
        connecting = self.loop.create_connection(lambda: Connection(self), host, port)
        _, connection = await asyncio.wait_for(connecting, self._connect_s)
        return connection

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        if len(self._idle) < _IDLE_KEPT:
            self._idle.append(connection)
        else:
            connection.abort()

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has been closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close every idle connection."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
