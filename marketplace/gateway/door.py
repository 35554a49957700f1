"""The HTTP/1.1 server at the public socket: model calls in, answers out, everything else handed over.

    bytes ─► is it a call? ─┬─ yes ─► httptools ─► Request ─► serve(request, connection)
                            └─ no ──► the office gets the connection (`handover`)

A framework's server would cost more than the rest of a call (measured: `make bench-gateway`). What a
client does wrong is answered here: a body that is too long, a head that never ends, a request that
trickles in, an answer that nobody reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools

from catalog.ground.errors import (
    BadRequest,
    HeadTooLong,
    PayloadTooLarge,
    RequestTimeout,
    TokenMartError,
)
from catalog.ground.rendering import RenderedError
from marketplace.gateway.handover import CALLS, Passage, give_away, is_call

if TYPE_CHECKING:
    from marketplace.gateway.express.resumed import Resumed
    from marketplace.gateway.records import KeyRecord

_LARGEST_HEAD = 64 * 1024
_MOST_AHEAD = 8
"""Requests that a client may send before it has its answers."""
_LOOK_S = 2.0
_LINGER_S = 2.0
IDLE_S = 75.0
READ_S = 30.0
"""How long a request's head may take from its first byte, how much longer its body may take than its rate
allows, and how long either may be without a single new byte."""
LEAST_RATE = 1024
"""Bytes of a body that must have come for each second beyond `READ_S`."""
STALL_S = 60.0
"""How long a client may leave an answer unread."""
_PATHS = {path.encode(): path for path in CALLS}
_STATUS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Headers = list[tuple[bytes, bytes]]


class Request:
    """One whole request. Header names are lower case; of a repeated header the last one counts.

    `key` is whose it is, once that is known.
    """

    __slots__ = ("body", "chunked", "client", "headers", "keep_alive", "key", "path", "refusal")

    def __init__(self, path: str, headers: dict[bytes, bytes], client: str) -> None:
        self.path = path
        self.headers = headers
        self.client = client
        self.body = b""
        self.key: KeyRecord | None = None
        self.keep_alive = True
        self.chunked = True
        self.refusal: TokenMartError | None = None


Serve = Callable[[Request, "Connection"], Coroutine[Any, Any, None]]
TurnAway = Callable[[str, TokenMartError], RenderedError]


class Door:
    """All open connections.

    `serve` answers a request with exactly one `respond`, or `begin` … `finish`, then calls `done`, and
    raises nothing. `turn_away` renders what the door refuses by itself, for a path, or for '' where it is
    not known.
    """

    def __init__(
        self,
        serve: Serve,
        turn_away: TurnAway,
        passage: Passage | None,
        body_limit: int,
        trusted: frozenset[str],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.serve = serve
        self.turn_away = turn_away
        self.passage = passage
        self.body_limit = body_limit
        self.trusted = frozenset(map(_address, trusted))
        self.connections: set[Connection] = set()
        self.closing = False
        self._look = self.loop.call_later(_LOOK_S, self._look_around)

    def connection(self, read: bytes = b"") -> Connection:
        """Return the protocol for a new connection of which `read` has already been read."""
        return Connection(self, read)

    async def adopt(self, sock: Any, read: bytes) -> None:
        """Serve a connection that another process has handed over."""
        try:
            await self.loop.connect_accepted_socket(lambda: self.connection(read), sock)
        except OSError:
            sock.close()

    def close(self) -> None:
        """Close idle connections now, the others after their answer."""
        self.closing = True
        self._look.cancel()
        for connection in list(self.connections):
            connection.close_when_idle()

    def _look_around(self) -> None:
        # One timer for all connections: exact to a few seconds, and free for each request.
        now_s = self.loop.time()
        for connection in list(self.connections):
            connection.check_patience(now_s)
        self._look = self.loop.call_later(_LOOK_S, self._look_around)


class Connection(asyncio.Protocol):
    """One client. Requests are answered one after another, in the order in which they came.

    `on_gone` is called once when the client goes away during a request, `on_slow(True)` when it stops
    reading and `on_slow(False)` when it reads on; whoever serves the request sets them. `call` and `trace`
    are what the request has become, for whoever wants to know at its end. `resumed` is set by whoever has
    begun to serve the request that comes next, and tells how far that has come.
    """

    call: Any = None
    trace: Any = None
    resumed: Resumed | None = None

    def __init__(self, door: Door, read: bytes) -> None:
        self._door = door
        self._read_before = read
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._unclear = b""
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = self._around = 0
        self._reading: Request | None = None
        self._in_head = self._long_head = False
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._close_after = False
        self._discard = False
        self._chunked = True
        self._streaming = False
        self._heard_at = self._begun_at = door.loop.time()
        self._stalled_at = 0.0
        self._peer = ""
        self.on_gone: Callable[[], None] | None = None
        self.on_slow: Callable[[bool], None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = _address(peer[0]) if isinstance(peer, tuple) else ""
        self._door.connections.add(self)
        if self._read_before:
            read, self._read_before = self._read_before, b""
            self.data_received(read)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        self._close_after = True
        self._waiting.clear()
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def eof_received(self) -> bool:
        return False  # a client that has stopped sending has gone: there is no half of a call

    def pause_writing(self) -> None:
        self._stalled_at = self._door.loop.time()
        if self.on_slow is not None:
            self.on_slow(True)

    def resume_writing(self) -> None:
        self._stalled_at = 0.0
        if self.on_slow is not None:
            self.on_slow(False)
        if self._waiting and self._task is None:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._discard:
            return
        before_at, self._heard_at = self._heard_at, self._door.loop.time()
        if self._reading is None and not self._in_head:
            if self._unclear:
                data, self._unclear = self._unclear + data, b""
            else:
                # Some clients send an empty line behind a body; it is no request (RFC 9112, section 2.2),
                # and keeps no connection open.
                if data.startswith((b"\r", b"\n")):
                    data = data.lstrip(b"\r\n")
                if not data:
                    self._heard_at = before_at
                    return
                self._begun_at = self._heard_at
            if not self._waiting and self._task is None:
                mine = is_call(data)
                if mine is None:
                    self._unclear = data
                    return
                if not mine:
                    self._hand_over(data)
                    return
            self._in_head, self._around = True, 0
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        self._around += len(data)
        if self._in_head and self._around > _LARGEST_HEAD:
            # Or it is a short head with much of its body behind it.
            end = data.find(b"\r\n\r\n")
            self._long_head = end < 0 or self._around - len(data) + end > _LARGEST_HEAD
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(BadRequest(f"This is not HTTP/1.1: {error}.", code="invalid_http"))
        if self._around > _LARGEST_HEAD and (self._in_head or self._reading is not None):
            self._refuse(_head_too_long())

    def _stay(self, behind: bytes) -> None:
        """Read a request that asks for another protocol once more without its wish.

        It may be ignored (RFC 9110, section 7.8), and Java's client wishes for HTTP/2 unless told not to. The
        parser takes what is `behind` such a head for the other protocol.
        """
        if self._discard:
            return
        start = b"POST %b HTTP/%b\r\n" % (self._target, self._parser.get_http_version().encode())
        headers = [header for header in self._headers.items() if header[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join((start, _lines(headers), b"\r\n", behind)))

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._target, self._headers, self._parts = b"", {}, []
        if not self._in_head:
            # Behind another request, in what came with that one's end.
            self._begun_at, self._around = self._heard_at, 0
        self._in_head = True

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_head, self._begun_at = False, self._heard_at
        self._size = self._around = 0
        path = _PATHS.get(self._target.partition(b"?")[0], "")
        if not path or self._parser.get_method() != b"POST":
            # Sent ahead of its turn, behind a call: closing makes the client ask again on a connection
            # of its own (RFC 9112, section 9.3.2), where the office will get it.
            self._close_after = self._discard = True
            if self._task is None:
                self._close()
            return
        headers = self._headers
        if b"upgrade" in headers and self._parser.should_upgrade():
            return  # there is no body for this parser; see `_stay`
        self._headers = {}  # trailers are no headers (RFC 9110, section 6.5.1)
        request = Request(path, headers, self._client(headers))
        request.chunked = self._parser.get_http_version() != "1.0"
        self._reading = request
        if self._long_head:
            self._turn_away(request, _head_too_long())
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._door.body_limit:
            self._too_long(request)
        elif headers.get(b"expect", b"").lower() == b"100-continue" and self._task is None:
            self._write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        request = self._reading
        if request is None or request.refusal is not None:
            return
        self._around = 0
        self._size += len(body)
        if self._size > self._door.body_limit:
            self._too_long(request)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        request, self._reading = self._reading, None
        if request is None or self._close_after:
            return
        parts = self._parts
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        # A client of HTTP/1.0 would have to be told that its connection stays open; it waits for the end.
        request.keep_alive = request.chunked and self._parser.should_keep_alive()
        self._parts = []
        self._in_turn(request)
        if len(self._waiting) >= _MOST_AHEAD and self._transport is not None:
            self._transport.pause_reading()

    def _too_long(self, request: Request) -> None:
        limit = self._door.body_limit
        error = PayloadTooLarge(
            f"The body is larger than {limit:,} bytes.",
            rule="limits.body",
            remedy="Shorten the prompt, or send files as links.",
        )
        self._turn_away(request, error)

    def _turn_away(self, request: Request, error: TokenMartError) -> None:
        """Let this request be answered with an error in its turn, and the connection end with it."""
        request.refusal = error
        self._reading = None
        self._parts = []
        # The rest of it is thrown away: the answer goes out now, and the connection after it.
        request.keep_alive = False
        self._discard = True
        self._in_turn(request)

    def _client(self, headers: dict[bytes, bytes]) -> str:
        """Return who asks: the peer, or whom trusted proxies name (the last that is none of them)."""
        forwarded = headers.get(b"x-forwarded-for")
        if forwarded is None or self._peer not in self._door.trusted:
            return self._peer
        for address in map(_address, reversed(forwarded.decode("latin-1").split(","))):
            if address not in self._door.trusted:
                return address
        return self._peer

    # One request after another.

    def _in_turn(self, request: Request) -> None:
        """Start a request behind those before it, and not while their answers are left unread."""
        if self._task is None and not self._waiting and not self._stalled_at:
            self._start(request)
        else:
            self._waiting.append(request)

    def _start(self, request: Request) -> None:
        if not request.keep_alive or self._door.closing:
            self._close_after = True
        self._chunked = request.chunked
        if request.refusal is not None:
            self.respond_error(self._door.turn_away(request.path, request.refusal))
            self.done()
        else:
            self._task = self._door.loop.create_task(self._door.serve(request, self))

    def done(self) -> None:
        """Go on to the next request: the last thing that whoever serves one does, whatever came of it."""
        self._task = None
        self._heard_at = self._door.loop.time()  # a client may be idle from when it has its answer
        self.on_gone = self.on_slow = self.call = self.trace = self.resumed = None
        self._go_on()

    def _go_on(self) -> None:
        if self._close_after or self._door.closing:
            if self._waiting and not self._door.closing and self._waiting[0].refusal:
                self._start(self._waiting.popleft())
            else:
                self._close()
        elif self._waiting and not self._stalled_at:
            request = self._waiting.popleft()
            if (
                self._transport is not None
                and not request.refusal
                and len(self._waiting) < _MOST_AHEAD
            ):
                self._transport.resume_reading()
                # What was not read is not late.
                self._heard_at = self._begun_at = self._door.loop.time()
            self._start(request)

    def _hand_over(self, data: bytes) -> None:
        passage = self._door.passage
        if passage is None or self._transport is None:
            self._close()
            return
        give_away(self._transport, data, passage)

    def _refuse(self, error: TokenMartError) -> None:
        """Answer what is not HTTP, unless an answer is on its way already; then only close."""
        begun = self._in_head or self._reading is not None
        path = _PATHS.get(self._target.partition(b"?")[0], "") if begun else ""
        self._in_head = False
        self._close_after = True
        if self._discard:
            return  # it has been told, or is being closed
        if self._task is None and not self._waiting:
            self.respond_error(self._door.turn_away(path, error))
            self._discard = True
            self._close()

    # What whoever serves a request calls.

    @property
    def idle(self) -> bool:
        """Whether nothing of a request has come, and none is being answered or waits to be."""
        return not (
            self._task is not None
            or self._waiting
            or self._reading is not None
            or self._in_head
            or self._unclear
            or self._stalled_at
            or self._discard
            or self._close_after
        )

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._transport is None or self._transport.is_closing()

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer. Behind the beginning of a streamed one it only breaks that off."""
        if self._streaming:
            self.break_off()
            return
        close = b"connection: close\r\n" if self._close_after else b""
        length = b"content-length: %d\r\n\r\n" % len(body)
        self._write(b"".join((_STATUS[status], _lines(headers), close, length, body)))

    def respond_error(self, error: RenderedError) -> None:
        """Send an error."""
        headers = [
            (name.encode(), value.encode("latin-1")) for name, value in error.headers.items()
        ]
        self.respond(error.status, headers, error.body)

    def begin(self, headers: Headers, first: bytes) -> None:
        """Start a streamed answer (200) with its first piece."""
        self._streaming = True
        if self._chunked:
            framing = b"transfer-encoding: chunked\r\n"
            if self._close_after:
                framing += b"connection: close\r\n"
            piece = _chunk(first)
        else:
            self._close_after = True
            framing, piece = b"connection: close\r\n", first
        self._write(b"".join((_STATUS[200], _lines(headers), framing, b"\r\n", piece)))

    def begun(self) -> None:
        """Go on with a streamed answer whose head and first pieces have been sent already."""
        self._streaming = True

    def emit(self, piece: bytes) -> None:
        """Send the next piece of a streamed answer."""
        self._write(_chunk(piece) if self._chunked else piece)

    def finish(self, last: bytes) -> None:
        """Send the last piece of a streamed answer and end it."""
        self._streaming = False
        if self._chunked:
            self._write(_chunk(last) + b"0\r\n\r\n")
        else:
            self._write(last)

    def break_off(self) -> None:
        """End a streamed answer so that the client sees that it is not whole."""
        self._close_after = True

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _close(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._discard and transport.can_write_eof():
            # The client may still be sending; closing at once would reset the connection and take the
            # answer with it (RFC 9112, section 9.6). So say that we are done, and let it read.
            transport.write_eof()
            self._door.loop.call_later(_LINGER_S, transport.abort)
        else:
            transport.close()

    def close_when_idle(self) -> None:
        """Close now, or after the answer that is being made, or to a request that has begun to come."""
        begun = self._reading is not None or self._in_head or self._unclear
        if self._task is None and begun:
            return  # whoever serves it says that we are closing, and its answer is the last
        self._close_after = True
        if self._task is None:
            self._close()

    def check_patience(self, now_s: float) -> None:
        """Give up a client that has been idle, trickling or not reading for too long."""
        if self._stalled_at:
            if now_s - self._stalled_at > STALL_S and self._transport is not None:
                self._transport.abort()
        elif self._task is None:
            if self._late(now_s):
                self._refuse(
                    RequestTimeout(
                        "The request did not arrive whole in time.",
                        rule="limits.read",
                        remedy=f"Send it at {LEAST_RATE:,} bytes a second or faster.",
                    )
                )
            elif now_s - self._heard_at > IDLE_S:
                self._close()

    def _late(self, now_s: float) -> bool:
        """Return whether a request has begun and takes too long, however steadily it trickles in."""
        most_s = READ_S
        if self._reading is not None:
            most_s += self._size / LEAST_RATE
        elif not self._in_head and not self._unclear:
            return False
        return now_s - self._begun_at > most_s or now_s - self._heard_at > READ_S


def _address(told: str) -> str:
    """Return an address as keys and settings name it; a socket for IPv6 puts a prefix to those of IPv4."""
    return told.strip().removeprefix("::ffff:")


def _head_too_long() -> HeadTooLong:
    return HeadTooLong(
        f"The request's head, or its trailer, is longer than {_LARGEST_HEAD:,} bytes.",
        rule="limits.head",
        remedy="Send fewer or shorter headers.",
    )


def _lines(headers: Headers) -> bytes:
    return b"\r\n".join([*map(b": ".join, headers), b""])


def _chunk(piece: bytes) -> bytes:
    """Frame a piece; an empty one is nothing, because a chunk of no length ends the answer."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
