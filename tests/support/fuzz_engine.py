"""An engine that does what the case it is asked about says, and answers well when the case says nothing."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import suppress

from support.fuzz_requests import Case, engine_answer
from support.fuzz_streams import Act

_MARK = re.compile(rb"case-(\d+)-")
_LENGTH = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE)
_RESET = struct.pack("ii", 1, 0)


class Engine:
    """`cases` are those in flight, by number. `asked` counts requests that followed a case's script."""

    def __init__(self) -> None:
        self.cases: dict[int, Case] = {}
        self.asked = 0
        self.port = 0
        self.open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on every address of this machine, so that one engine can have several."""
        self._server = await asyncio.start_server(self._serve, "0.0.0.0", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop listening."""
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self.open -= 1
            writer.close()

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
            acts = case.engine
        else:
            acts = engine_answer(path, number, b'"stream":true' in body)
        return await _play(acts, reader, writer)


async def _play(
    acts: list[Act], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    for act in acts:
        if isinstance(act, bytes):
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
