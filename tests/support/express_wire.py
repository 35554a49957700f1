"""The express lane's wire with a real door behind it, in a real event loop, and a lane that only echoes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import uvloop

from catalog.ground.errors import TokenMartError
from catalog.ground.rendering import RenderedError
from marketplace.gateway.door import Connection, Door, Request
from marketplace.gateway.express import _core  # type: ignore[attr-defined,unused-ignore]
from marketplace.gateway.handover import Passage
from marketplace.gateway.shapes import render

PATH = b"/v1/chat/completions"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
Story = Callable[..., Awaitable[Any]]


def request(body: bytes = b"{}", *more: bytes, path: bytes = PATH) -> bytes:
    """Return a whole request with `more` header lines."""
    lines = [b"POST %b HTTP/1.1" % path, b"host: h", *more, b"content-length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


class Tended(Connection):
    """A connection of the door's that tells whether it is idle."""

    resumed: Any = None

    if not hasattr(Connection, "idle"):

        @property
        def idle(self) -> bool:
            begun = self._in_head or self._reading is not None or self._unclear or self._waiting
            return not (begun or self._task is not None or self._close_after or self._discard)


async def mirror(request: Request, connection: Connection) -> None:
    """Answer as the echoing lane does in its mode `mirror`."""
    connection.respond(200, [(b"x-path", request.path.encode())], request.body)
    connection.done()


class House:
    """A core and a door. `made` are the protocols that Python was asked for."""

    def __init__(self, serve: Any, passage: Passage | None, echo: bool, **settings: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.body_limit = settings.setdefault("body_limit", 1_000_000)
        self.door = Door(serve, self._turn_away, passage, self.body_limit, frozenset())
        self.made: list[Any] = []
        self.make: Callable[[], Any] = lambda: Tended(self.door, b"")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.listener.setblocking(False)
        self.address: tuple[str, int] = self.listener.getsockname()
        settings.setdefault("connect_s", 5.0)
        settings.setdefault("silence_s", 5.0)
        self.core = _core.Core(self, listener=self.listener.fileno(), echo=echo, **settings)
        self.loop.add_reader(self.core.fileno(), self._poll)
        self.polls = 0
        self.raised: list[BaseException] = []
        self._look = self.loop.call_later(0.02, self._look_around)
        self._told: list[Any] = []
        self._writers: list[asyncio.StreamWriter] = []

    def _turn_away(self, path: str, error: TokenMartError) -> RenderedError:
        rendered = render(path, error)
        rendered.headers.clear()  # ids that differ from one time to the next
        return rendered

    def connection(self, transport: Any) -> Any:
        """Return Python's side of a connection; the core asks for it."""
        protocol = self.make()
        self.made.append(protocol)
        protocol.connection_made(transport)
        return protocol

    def _poll(self) -> None:
        self.polls += 1
        try:
            self.core.poll()
        except BaseException as error:
            self.raised.append(error)

    def _look_around(self) -> None:
        self.core.look_around()
        self._look = self.loop.call_later(0.02, self._look_around)

    def lane(self, what: str, *arguments: Any) -> Any:
        """Ask the lane."""
        return self.core.lane(what, *arguments)

    def told(self) -> list[Any]:
        """Return everything that the lane has told so far."""
        self._told += self.core.lane("told")
        return self._told

    async def until(self, holds: Callable[[], Any], most_s: float = 10.0) -> Any:
        """Wait for something to hold, and return it."""
        async with asyncio.timeout(most_s):
            while not (found := holds()):
                await asyncio.sleep(0.005)
        return found

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        reader, writer = await asyncio.open_connection(*self.address, limit=2**20)
        self._writers.append(writer)
        return reader, writer

    def close(self) -> None:
        """End everything."""
        self._look.cancel()
        for writer in self._writers:
            writer.transport.abort()
        self.door.close()
        self.loop.remove_reader(self.core.fileno())
        self.core.close()
        self.listener.close()


@contextlib.asynccontextmanager
async def house(
    serve: Any = mirror, passage: Passage | None = None, *, echo: bool = True, **settings: Any
) -> AsyncIterator[House]:
    """Open a house for as long as the block lasts."""
    made = House(serve, passage, echo, **settings)
    try:
        yield made
    finally:
        made.close()
        await asyncio.sleep(0.01)


def tell(story: Callable[[], Awaitable[Any]], loop: str = "uvloop") -> Any:
    """Run a story in a loop of this kind."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:

        async def timed() -> Any:
            async with asyncio.timeout(60):
                return await story()

        return runner.run(timed())


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def engine(script: Script) -> AsyncIterator[tuple[str, int]]:
    """Serve `script` on a free port and yield where."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await script(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512, limit=2**20)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection off at once (RST), whatever is on its way."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Return the body of one request."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length: ")[2].split(b"\r")[0])
        return head, await reader.readexactly(length)
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return head, b"".join(parts)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut `data` at these places, each taken modulo its length."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for first, last in zip(places, places[1:], strict=False):
        yield data[first:last]
