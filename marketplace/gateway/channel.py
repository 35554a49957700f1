"""Messages between the office and a worker, over a Unix socket that only these two hold.

A frame is a length (4 bytes, big endian) and a MessagePack array: `[ASK, id, what, bytes]`,
`[ANSWER, id, bytes]`, `[REFUSAL, id, error]` or `[TELL, what, bytes]`. Either side may ask and tell.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

from catalog.ground import errors
from catalog.ground.errors import TokenMartError, Unavailable
from catalog.ground.rendering import known

log = logging.getLogger(__name__)

Answers = Callable[[str, bytes], Awaitable[bytes]]
Hears = Callable[[str, bytes], None]
_ASK, _ANSWER, _REFUSAL, _TELL = range(4)
_LENGTH = 4
_PATIENCE_S = 15.0


async def no_answers(what: str, _payload: bytes) -> bytes:
    """Answer nothing: for an end that is only told things."""
    raise errors.InternalError(f"Nobody answers {what!r} here.", rule="gateway.channel")


class Channel(asyncio.Protocol):
    """One end. `answers` serves the other side's questions, `hears` gets what it tells.

    `closed` is done when the other side has gone.
    """

    def __init__(self, answers: Answers, hears: Hears) -> None:
        self._answers = answers
        self._hears = hears
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._last_id = 0
        self._work: set[asyncio.Task[None]] = set()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, end: socket.socket, answers: Answers, hears: Hears) -> Channel:
        """Return the channel on a connected socket."""
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: cls(answers, hears), sock=end)
        return channel

    async def ask(self, what: str, payload: bytes) -> bytes:
        """Return the other side's answer; raises its refusal, `Unavailable` when it is gone or silent."""
        if self.closed.done():
            raise _gone()
        self._last_id += 1
        waiting = asyncio.get_running_loop().create_future()
        self._asked[self._last_id] = waiting
        try:
            self._send([_ASK, self._last_id, what, payload])
            return cast(bytes, await asyncio.wait_for(waiting, _PATIENCE_S))
        except TimeoutError:
            raise _gone() from None

    def tell(self, what: str, payload: bytes) -> None:
        """Say something that needs no answer."""
        if not self.closed.done():
            self._send([_TELL, what, payload])

    @property
    def behind(self) -> int:
        """How many bytes of what was said have not left this process yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, message: list[Any]) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return  # whoever asked has gone; whoever asks is told so when the connection is lost
        data = msgspec.msgpack.encode(message)
        self._transport.write(len(data).to_bytes(_LENGTH, "big") + data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._buffer[:_LENGTH], "big")
            if len(self._buffer) < end:
                return
            message = msgspec.msgpack.decode(bytes(self._buffer[_LENGTH:end]))
            del self._buffer[:end]
            self._received(*message)

    def _received(self, kind: int, *message: Any) -> None:
        if kind == _TELL:
            self._hears(*message)
        elif kind == _ASK:
            task = asyncio.ensure_future(self._answer(*message))
            self._work.add(task)
            task.add_done_callback(self._work.discard)
        else:
            number, payload = message
            waiting = self._asked.pop(number, None)
            if waiting is None or waiting.done():
                return
            if kind == _ANSWER:
                waiting.set_result(payload)
            else:
                waiting.set_exception(_error(payload))

    async def _answer(self, number: int, what: str, payload: bytes) -> None:
        try:
            answer = await self._answers(what, payload)
        except Exception as error:
            if not isinstance(error, TokenMartError):
                log.exception("the question %s failed", what)
            self._send([_REFUSAL, number, _plain(known(error))])
        else:
            self._send([_ANSWER, number, answer])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(_gone())
        self._asked.clear()


def _plain(error: TokenMartError) -> list[Any]:
    fields = ("code", "param", "rule", "remedy", "details", "retry_after_s", "headers")
    return [type(error).__name__, error.message, {name: getattr(error, name) for name in fields}]


def _error(plain: list[Any]) -> TokenMartError:
    name, message, fields = plain
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, TokenMartError)):
        kind = errors.InternalError
    return kind(message, **fields)


def _gone() -> Unavailable:
    return Unavailable(
        "The gateway's office does not answer; nothing was charged.",
        code="office_away",
        rule="gateway.office",
        retry_after_s=2,
    )
