"""HTTP as the gateway reads it without compiled code: requests at the door, answers of engines."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools

from marketplace.gateway.flight import Flight
from marketplace.gateway.wire import Connection, Pool

ReadAnswer = tuple[list[bytes], bool] | tuple[list[bytes], int, dict[bytes, bytes], bytes, bool]
"""What was pushed, then whether the engine was reached, where the answer is broken; else status, headers,
body and whether the connection is kept."""


class ReadRequest:
    """A request as httptools reads it."""

    def __init__(self, data: bytes) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.whole = self.failed = self.keeps = False
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.failed = True
        self.method, self.version = self._parser.get_method(), self._parser.get_http_version()

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole = True
        self.keeps = self._parser.should_keep_alive()


class _Carriage(asyncio.Transport):
    """What a connection of the gateway's own client writes to."""

    def write(self, data: Any) -> None: ...

    def abort(self) -> None: ...


async def _story(parts: list[bytes], push: bool) -> ReadAnswer:
    connection = Connection(Pool("", 0, 1.0, 60.0))
    connection.connection_made(_Carriage())
    pushed: list[bytes] = []
    asking = connection.send(b"", Flight(pushed.append if push else None))
    for part in parts:
        if asking.done():
            break
        connection.data_received(part)
    kept = asking.done() and not connection.closed
    if not asking.done():
        connection.eof_received()
    connection.connection_lost(None)
    error: Any = asking.exception()
    if error is not None:
        return pushed, error.reached
    status, headers, body = asking.result()
    return pushed, status, headers, body, kept


def read_answer(
    parts: list[bytes], push: bool, loop: asyncio.AbstractEventLoop | None = None
) -> ReadAnswer:
    """Return what `wire.Connection` makes of an answer behind which the engine closes."""
    if loop is not None:
        return loop.run_until_complete(_story(parts, push))
    return asyncio.run(_story(parts, push))
