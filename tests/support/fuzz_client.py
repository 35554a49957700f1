"""Play a case against a gateway, read what comes back as a careful client would, and judge it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from contextlib import suppress
from typing import Any, cast

import httptools
from support.fuzz_requests import Case

ANSWER_S = 30.0
"""How long a whole request may wait for its answer; engines that are silent are given up after two."""
PATIENCE_S = 0.3
"""How long a client waits for an answer to what may not be whole, before it stops sending."""
CLOSE_S = 10.0
"""How long after its client has stopped sending a connection may stay open."""
_DRIPS_S = 0.5
"""How long it may take to send the pieces of a case; one cut into bytes would else take most of a minute."""
PARK_S = 45.0
"""How long a request that never ends may stay: thirty seconds, and looking around for it."""
_MARK = re.compile(rb"case-(\d+)-")
_RESET = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """Reads answers. `problems` is what no client should ever see."""

    def __init__(self, case: Case) -> None:
        self._case = case
        # A spoiled text may name another case, and one without a mark is answered as case 0.
        # Its engine's answer may have another number than it was made with: its bytes are changed at random.
        scripted = [act for act in case.engine or [] if isinstance(act, bytes)]
        said = b"".join([*case.pieces, *scripted])
        self._marks = {b"0", b"%d" % case.number, *_MARK.findall(said)}
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._news = asyncio.Event()
        self._body = bytearray()
        self._kind = b""
        self._busy = False
        self.statuses: list[int] = []
        self.closed = False
        self.said_close = False
        self.problems: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.problems.append(f"an answer that is not HTTP ({error}): {data[:300]!r}")
        except httptools.HttpParserUpgrade:
            self.problems.append("an answer that changes protocols")

    def on_message_begin(self) -> None:
        self._busy, self._kind = True, b""
        self._body.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._kind = value
        elif name.lower() == b"connection" and b"close" in value.lower():
            self.said_close = True

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._busy = False
        if status < 200:
            return
        self.statuses.append(status)
        self._judge(status, bytes(self._body))
        self._news.set()

    def _judge(self, status: int, body: bytes) -> None:
        if status == 500 or status > 504:
            self.problems.append(f"status {status}: {body[:400]!r}")
        # The office shows what others have written, a model call shows nobody's but its own.
        others = set() if self._case.kind.startswith("office") else set(_MARK.findall(body))
        others -= self._marks
        if others:
            self.problems.append(f"an answer to case {sorted(others)[:3]}")
        if status >= 400 and b"json" in self._kind:
            try:
                told: Any = json.loads(body)
            except ValueError:
                self.problems.append(f"an error that is not JSON: {body[:200]!r}")
                return
            if not isinstance(told, dict) or not {"error", "title"} & told.keys():
                self.problems.append(f"an error of no known shape: {body[:200]!r}")

    def eof_received(self) -> None:
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._news.set()

    @property
    def half_an_answer(self) -> bool:
        """Whether the connection has ended in the middle of an answer."""
        return self._busy and self.closed

    async def until(self, answers: int, seconds: float) -> bool:
        """Wait for so many answers or the end of the connection; False when neither came in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.closed and len(self.statuses) < answers:
                    self._news.clear()
                    await self._news.wait()
        return self.closed or len(self.statuses) >= answers

    async def send(self, case: Case) -> None:
        """Put the case's bytes on the wire, in its pieces."""
        assert self._transport is not None
        gap_s = min(case.gap_s, _DRIPS_S / len(case.pieces)) if len(case.pieces) > 1 else 0.0
        for piece in case.pieces:
            if self.closed:
                return
            self._transport.write(piece)
            await asyncio.sleep(gap_s)

    def stop_sending(self) -> None:
        """Close the half of the connection on which the client speaks."""
        assert self._transport is not None
        if not self._transport.is_closing():
            with suppress(OSError):
                self._transport.write_eof()

    def end(self, *, reset: bool = False) -> None:
        """Close the connection."""
        assert self._transport is not None
        if reset and not self.closed:
            with suppress(OSError):
                held = self._transport.get_extra_info("socket")
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


async def play(case: Case, host: str, port: int) -> tuple[list[int], list[str]]:
    """Return the statuses that came, and what was wrong with how the gateway took it."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(lambda: Connection(case), host, port)
    except OSError as error:
        return [], [f"no connection: {error}"]
    try:
        await connection.send(case)
        problems = await _ENDS[case.end](case, connection)
    finally:
        connection.end(reset=case.end == "reset")
    if case.must and not case.must.intersection(connection.statuses):
        problems.append(f"none of {sorted(case.must)}")
    return connection.statuses, connection.problems + problems


async def _wait(case: Case, connection: Connection) -> list[str]:
    if not await connection.until(case.answers, ANSWER_S):
        return [f"stuck: {len(connection.statuses)} of {case.answers} answers"]
    if connection.half_an_answer:
        return ["an answer that breaks off"]
    if not connection.statuses:
        return ["closed without an answer"]
    if connection.said_close and not await connection.until(1 << 30, CLOSE_S):
        return ["stuck: it said close and did not"]
    if len(connection.statuses) < case.answers and not connection.said_close:
        return [f"closed after {len(connection.statuses)} of {case.answers} answers, unannounced"]
    return []


async def _half(case: Case, connection: Connection) -> list[str]:
    await connection.until(max(1, case.answers), PATIENCE_S)
    connection.stop_sending()
    if not await connection.until(1 << 30, CLOSE_S):
        return ["stuck: open after its client has stopped sending"]
    return []


async def _leave(case: Case, connection: Connection) -> list[str]:
    await asyncio.sleep(case.gap_s)
    return []


async def _park(case: Case, connection: Connection) -> list[str]:
    if not await connection.until(1 << 30, PARK_S):
        return ["stuck: it never ends and nobody gives it up"]
    return []


_ENDS = {"answer": _wait, "half": _half, "reset": _leave, "leave": _leave, "park": _park}
