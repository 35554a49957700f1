"""A small HTTP/1.1 client for engines, plain or behind TLS: what the hot path needs, and nothing else.

General clients cost several times what the rest of a call costs (measured: `make bench-gateway`), because
they serve every use. This one sends prepared bytes on a kept-alive connection, parses with httptools
(llhttp, the parser of Node.js), pushes the body on in the pieces in which it arrives, and closes the
connection at once when nobody wants the rest: that is how an engine learns that its client has gone.

Not here, on purpose: redirects, cookies, proxies, compression.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import cast

import httptools

from marketplace.gateway.flight import LARGEST_BODY, Answer, Flight

log = logging.getLogger(__name__)

_IDLE_KEPT = 64
"""Connections kept open for each engine."""
_IDLE_S = 60.0
"""How long a connection is kept without use: what stands on the way (NAT, load balancers, firewalls) forgets
idle connections after some minutes, without telling, and a request on such a one would wait in vain."""
_MOST_AROUND = 256 * 1024
"""Bytes in a row that are no body: heads, interim answers, what frames chunks, trailers."""


class WireError(Exception):
    """The engine broke off, or what it sent is not HTTP. `reached` tells whether anything came back."""

    def __init__(self, words: str, *, reached: bool) -> None:
        super().__init__(words)
        self.reached = reached


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, pool: Pool) -> None:
        self.loop = pool.loop
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._done: asyncio.Future[Answer] | None = None
        self._flight: Flight | None = None
        self._push: Callable[[bytes], None] | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._around = 0
        self._paused = False
        self.heard_at = pool.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    def send(self, request: bytes, flight: Flight) -> asyncio.Future[Answer]:
        """Send a request; the future has its answer once it is complete."""
        assert self._transport is not None
        if self._parser is None:
            # One for all answers: a connection goes back to the pool only between two messages.
            self._parser = httptools.HttpResponseParser(self)
        self._status, self._headers = 0, {}
        self._parts, self._size, self._push = [], 0, None
        self._around = 0
        self._flight = flight
        self._done = self.loop.create_future()
        self.heard_at = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self._pool.silence_s, self._check_silence)
        self._transport.write(request)
        flight.carried_by(self)
        return self._done

    def _check_silence(self) -> None:
        # One timer for the connection's life, set again lazily: cheaper than one for each request.
        self._timer = None
        if self._done is None or self.closed:
            return
        quiet_s = self.loop.time() - self.heard_at
        if quiet_s >= self._pool.silence_s and not self._paused:
            self.cut_off(TimeoutError("the engine was silent for too long"))
            return
        wait_s = max(0.01, self._pool.silence_s - quiet_s)
        self._timer = self.loop.call_later(wait_s, self._check_silence)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @property
    def peer(self) -> tuple[str, int] | None:
        """The address that it has reached, and the port; None when it is closed."""
        if self.closed or self._transport is None:
            return None
        found = self._transport.get_extra_info("peername")
        return (found[0], found[1]) if found else None

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        if self._done is None or self._parser is None:
            self._close()  # an answer that nobody asked for
            return
        self._around += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.cut_off(WireError(f"not HTTP: {error}", reached=True))
            return
        except httptools.HttpParserUpgrade:
            self.cut_off(WireError("the engine changes protocols", reached=True))
            return
        if self._push is not None and self._parts:
            # What one packet brought goes on in one piece, however the engine has framed it.
            parts, self._parts = self._parts, []
            self._push_on(parts)
        if self._around > _MOST_AROUND and self._done is not None:
            self.cut_off(WireError("the answer's head or trailer does not end", reached=True))

    def _push_on(self, parts: list[bytes]) -> None:
        assert self._push is not None
        try:
            self._push(parts[0] if len(parts) == 1 else b"".join(parts))
        except Exception as error:
            # Whoever reads the answer could not, and did not say so as an error of ours. The call must
            # end all the same: nobody else would ever tell it that this answer is over.
            log.exception("an engine's answer could not be read")
            self.cut_off(WireError(f"cannot be read: {error!r}", reached=True))

    def on_message_begin(self) -> None:
        if self._done is None:
            self._close()  # a second answer behind the one that was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers = {}
            return
        self._status = status
        if self._flight is not None and status == 200:
            self._push = self._flight.push

    def on_body(self, body: bytes) -> None:
        self._around = 0
        self._parts.append(body)
        if self._push is None:
            self._size += len(body)
            if self._size > LARGEST_BODY:
                self.cut_off(WireError("the answer is larger than any answer", reached=True))

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._done is None or self._status == 0:
            return  # an interim answer (1xx) is over; the real one follows
        reusable = self._parser.should_keep_alive()
        self._finish()
        if reusable and not self.closed:
            self._pool.release(self)
        else:
            self._close()

    def _finish(self) -> None:
        parts, self._parts = self._parts, []
        if self._push is not None:
            if parts:
                # Before the request is let go of: who reads the last piece may still cut the answer off.
                self._push_on(parts)
            parts = []
        done = self._done
        self._land()
        self.resume()
        if done is not None and not done.done():
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            done.set_result(Answer(self._status, self._headers, body))

    def eof_received(self) -> None:
        self.closed = True  # the transport closes itself now; nobody may be given it meanwhile
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
        if self._done is None:
            return
        endless = not {b"content-length", b"transfer-encoding"} & self._headers.keys()
        if self._status and endless:
            self._finish()
            return
        reached = bool(self._status or self._around)
        self._fail(WireError("the engine closed the connection", reached=reached))

    def _fail(self, error: Exception) -> None:
        done = self._done
        self._land()
        if done is not None and not done.done():
            done.set_exception(error)

    def _land(self) -> None:
        """Let go of the request: its flight must never reach the next one on this connection."""
        if self._flight is not None:
            self._flight.landed()
        self._done = self._flight = self._push = None

    def cut_off(self, error: Exception) -> None:
        """End the answer with this error and close the connection, so that the engine stops working."""
        self._fail(error)
        self._close()

    def pause(self) -> None:
        """Let the engine wait: whoever reads this answer is slow."""
        if not self._paused and self._transport is not None and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self._transport is not None and not self.closed:
            self._paused = False
            self.heard_at = self.loop.time()
            self._transport.resume_reading()

    def _close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def discard(self) -> None:
        """Close an idle connection."""
        self._close()


class Pool:
    """The connections to one engine; encrypted with `tls`, when its certificate has to be for `host`."""

    def __init__(
        self,
        host: str,
        port: int,
        connect_s: float,
        silence_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.silence_s = silence_s
        self._address = (host, port)
        self._connect_s = connect_s
        self._tls = tls
        self._idle: list[Connection] = []

    async def request(self, request: bytes, flight: Flight | None = None) -> Answer:
        """Send a prepared request and return its answer when it is complete.

        With a `flight` that pushes, the body of a 200 goes to it and is empty in the answer. A kept
        connection that turns out to be closed before anything came back is replaced once. Raises
        `OSError` or `TimeoutError` when the engine cannot be reached, `WireError` when it broke off, and
        whatever the flight was cut off with.
        """
        flight = flight or Flight()
        if flight.error is not None:
            raise flight.error
        kept = self._kept()
        if kept is not None:
            try:
                return await kept.send(request, flight)
            except WireError as error:
                # Once: a request that breaks its engine must not be sent down every connection.
                if error.reached:
                    raise
            except asyncio.CancelledError:
                kept.discard()
                raise
        connection = await self._connect()
        if flight.error is not None:  # the client left while we were connecting
            self.release(connection)
            raise flight.error
        try:
            return await connection.send(request, flight)
        except asyncio.CancelledError:
            connection.discard()
            raise

    def _kept(self) -> Connection | None:
        since_s = self.loop.time() - _IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.heard_at > since_s and not connection.closed:
                return connection
            connection.discard()
        return None

    async def _connect(self) -> Connection:
        host, port = self._address
        connecting = self.loop.create_connection(
            lambda: Connection(self), host, port, ssl=self._tls
        )
        _, connection = await asyncio.wait_for(connecting, self._connect_s)
        if connection.closed:  # accepted by the system, and by no engine
            raise ConnectionResetError("the engine closed the connection at once")
        return connection

    def peer(self) -> tuple[str, int] | None:
        """Return the address and the port at the other end of all kept connections; None where there is none,
        or where they have reached several.
        """
        found = {connection.peer for connection in self._idle}
        return found.pop() if len(found) == 1 else None

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        if len(self._idle) < _IDLE_KEPT:
            self._idle.append(connection)
        else:
            connection.discard()

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has been closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close every idle connection."""
        for connection in self._idle:
            connection.discard()
        self._idle.clear()
