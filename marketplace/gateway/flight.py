"""One request's way through an engine: where its body goes, and how to stop it.

The gateway makes a `Flight` for each attempt and keeps it: whoever learns that the client has gone cuts
the flight off, and the connection that carries it is closed at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

LARGEST_BODY = 256 * 1024 * 1024
"""Bytes of an answer that is not streamed; more is a fault of the engine."""


class Answer(NamedTuple):
    """What an engine answered. `body` is empty where it was pushed on. Header names are lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Carrier(Protocol):
    """The connection that carries a flight."""

    def cut_off(self, error: Exception) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Flight:
    """`push` gets the body of a 200 in pieces as they arrive; without it the answer carries the body."""

    __slots__ = ("_carrier", "_reader", "_waits", "error", "push", "sent")

    def __init__(self, push: Callable[[bytes], None] | None = None) -> None:
        self.push = push
        self.error: Exception | None = None
        self.sent = False
        """Whether the engine may have heard of it."""
        self._carrier: Carrier | None = None
        self._waits = False
        self._reader: asyncio.Future[None] | None = None

    def carried_by(self, carrier: Carrier) -> None:
        """Take note of the connection; called when the request has been sent."""
        self._carrier, self.sent = carrier, True
        if self._waits:
            carrier.pause()

    def landed(self) -> None:
        """Forget the connection; it may carry another flight now."""
        self._carrier = None

    def cut_off(self, error: Exception) -> None:
        """End the answer with `error`; before it was sent, it never will be."""
        self.error = error
        if self._carrier is not None:
            self._carrier.cut_off(error)

    def pause(self) -> None:
        """Let the engine wait until `resume`."""
        self._waits = True
        if self._carrier is not None:
            self._carrier.pause()

    def resume(self) -> None:
        """Read on."""
        self._waits = False
        if self._carrier is not None:
            self._carrier.resume()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def wait(self) -> None:
        """Return when nobody lets the engine wait."""
        while self._waits:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
