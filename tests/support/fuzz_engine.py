"""An engine that does what the case it is asked about says, and answers well when the case says nothing.

It listens on a plain port and, where there are certificates, behind TLS: properly on one port, and on others
with a certificate that must not be trusted, or with no handshake worth the name.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from support.certificates import Authority, can_certify
from support.fuzz_requests import Case, engine_answer
from support.fuzz_streams import Act

_MARK = re.compile(rb"case-(\d+)-")
_LENGTH = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE)
_RESET = struct.pack("ii", 1, 0)


_STRANGE_SHAKES = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"\x15\x03\x01\x00\x02\x02\x28",  # an alert: handshake failure
    b"\x15\x03\x03\x00\x02\x01\x00",  # an alert: close notify
    b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + b"\x07" * 20,  # half a ServerHello
    b"\x16\x03\x03\xff\xff" + b"\x00" * 70_000,  # a record that is too long
    b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",  # a ServerHello with nothing in it
    b"\x17\x03\x03\x00\x05hello",  # data before the handshake
    b"\x00" * 500,
    b"",
)
_KINDS = ("plain", "secure", "stranger", "elsewhere", "strange")
"""Ports: no TLS; proper TLS; a certificate of an unknown authority; one for another host; no handshake."""


def trusting(folder: Path) -> dict[str, str]:
    """Return what a gateway has in its environment so that it trusts the engine; `folder` keeps the keys."""
    return Authority(folder / "known").environment if can_certify() else {}


def _contexts(folder: Path) -> dict[str, ssl.SSLContext]:
    if not can_certify():
        return {}
    known = Authority(folder / "known")
    return {
        "secure": known.certify("engine").server(),
        "stranger": Authority(folder / "unknown").certify("engine").server(),
        "elsewhere": known.certify("elsewhere", ("127.0.0.200",)).server(),
    }


class Engine:
    """`cases` are those in flight, by number. `asked` counts requests that followed a case's script.

    `ports`: by kind (`_KINDS`); only `plain` where no certificates can be made.
    """

    def __init__(self, folder: Path) -> None:
        self.cases: dict[int, Case] = {}
        self.asked = self.asked_secure = 0
        self.shakes = count()
        self.ports: dict[str, int] = {}
        self.open = 0
        self._folder = folder
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on every address of this machine, so that one engine can have several."""
        contexts = await asyncio.to_thread(_contexts, self._folder)
        await self._listen("plain", self._serve, None)
        for kind, context in contexts.items():
            await self._listen(kind, self._serve, context)
        if contexts:
            await self._listen("strange", self._strange, None)

    async def _listen(
        self,
        kind: str,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
        tls: ssl.SSLContext | None,
    ) -> None:
        server = await asyncio.start_server(serve, "0.0.0.0", 0, limit=1 << 20, ssl=tls)
        self._servers.append(server)
        self.ports[kind] = server.sockets[0].getsockname()[1]

    def url(self, kind: str, host: str) -> str:
        """Return the URL of a port; that of the plain one where there is no TLS."""
        scheme = "http" if kind == "plain" or kind not in self.ports else "https"
        return f"{scheme}://{host}:{self.ports.get(kind, self.ports['plain'])}"

    async def stop(self) -> None:
        """Stop listening, and cut off who is still there: a loop that ends under a TLS farewell complains."""
        for server in self._servers:
            server.close()
        for _ in range(500):
            if not self._writers:
                return
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _strange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a ClientHello with something else, and then hang, close or reset."""
        number = next(self.shakes)
        self._writers.add(writer)
        ends: tuple[Act, ...] = ("close", "reset", 30.0)
        acts: list[Act] = [
            _STRANGE_SHAKES[number % len(_STRANGE_SHAKES)],
            ends[number % 7 % len(ends)],
        ]
        with suppress(OSError, asyncio.CancelledError):
            if number % 5:
                await reader.read(100)
            await _play(acts, reader, writer)
        await self._close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self.open -= 1
            await self._close(writer)

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self._writers.discard(writer)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        path = head.split(b" ", 2)[1].decode()
        found = _MARK.search(body)
        number = int(found[1]) if found else 0
        case = self.cases.get(number)
        if path.endswith("/tokenize"):
            count = case.count if case is not None and case.count is not None else b'{"count":7}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(count), count))
            return True
        acts: list[Act]
        if case is not None and case.engine is not None:
            self.asked += 1
            self.asked_secure += writer.get_extra_info("ssl_object") is not None
            acts = case.engine
        else:
            acts = engine_answer(path, number, b'"stream":true' in body)
        return await _play(acts, reader, writer)


async def _play(
    acts: list[Act], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    for act in acts:
        if isinstance(act, bytes):
            if writer.is_closing():
                return False  # whoever has asked has hung up
            writer.write(act)
            await writer.drain()
        elif isinstance(act, float):
            # Whoever has asked may hang up meanwhile.
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), act)
                return False
        else:
            if act == "reset" and not writer.transport.is_closing():
                held = writer.get_extra_info("socket")
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            return False
    return True
