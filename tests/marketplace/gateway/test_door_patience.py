"""How long the door waits for a request, with real connections and a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from catalog.ground.errors import TokenMartError
from catalog.ground.rendering import RenderedError
from marketplace.gateway.door import IDLE_S, LEAST_RATE, READ_S, Connection, Door, Request
from marketplace.gateway.shapes import render

HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n"
STEP_S = READ_S - 1.0
"""Less than what a request may be without a new byte."""


class MovedLoop(asyncio.SelectorEventLoop):
    """Its time is the machine's, and what was added to it."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Visit:
    """A client at a door. `served` are the bodies that came whole, `turned_away` what was refused."""

    def __init__(self, loop: MovedLoop) -> None:
        self.loop = loop
        self.served: list[bytes] = []
        self.turned_away: list[tuple[str, str]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def serve(self, request: Request, connection: Connection) -> None:
        await self.go.wait()
        self.served.append(request.body)
        connection.respond(200, [], b"{}")
        connection.done()

    def turn_away(self, path: str, error: TokenMartError) -> RenderedError:
        self.turned_away.append((path, error.code))
        return render(path, error)

    async def send(self, data: bytes, then_s: float = 0.0) -> None:
        """Send something, let it arrive, and let time pass."""
        self.writer.write(data)
        for _ in range(8):
            await asyncio.sleep(0)
        self.loop.ahead_s += then_s
        for _ in range(8):
            await asyncio.sleep(0)

    async def told(self) -> tuple[bytes, bytes]:
        """Return head and body of the one answer, after which the connection ends."""
        head, _, body = (await asyncio.wait_for(self.reader.read(), 100)).partition(b"\r\n\r\n")
        return head, body


def visit(client: Callable[[Visit], Awaitable[None]]) -> Visit:
    """Let a client visit a door; return what came of it."""
    with asyncio.Runner(loop_factory=MovedLoop) as runner:

        async def story() -> Visit:
            loop = runner.get_loop()
            assert isinstance(loop, MovedLoop)
            made = Visit(loop)
            made.door = Door(made.serve, made.turn_away, None, 10**9, frozenset())
            server = await loop.create_server(made.door.connection, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()[:2]
            made.reader, made.writer = await asyncio.open_connection(*address)
            try:
                await client(made)
            finally:
                made.writer.close()
                await made.writer.wait_closed()
                made.door.close()
                server.close()
                while made.door.connections:
                    await asyncio.sleep(0)
            return made

        return runner.run(story())


@pytest.mark.parametrize(
    ("begun", "path"),
    [(b"P", ""), (b"POST /v1/mess", ""), (HEAD[:30], "/v1/messages")],
    ids=["first_byte", "path", "headers"],
)
def test_a_head_that_trickles_in_is_too_late(begun: bytes, path: str) -> None:
    async def client(visit: Visit) -> None:
        await visit.send(begun, STEP_S)
        assert visit.turned_away == []
        await visit.send(HEAD[len(begun) : len(begun) + 1], STEP_S)
        head, body = await visit.told()
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head
        # Before the path is whole, nobody knows in which shape to answer.
        assert ("request_id" in json.loads(body)) == bool(path)

    assert visit(client).turned_away == [(path, "request_timeout")]


def test_a_body_that_trickles_in_is_too_late() -> None:
    async def client(visit: Visit) -> None:
        await visit.send(HEAD % 1000, STEP_S)
        assert visit.turned_away == []
        await visit.send(b"x", STEP_S)
        assert (await visit.told())[0].startswith(b"HTTP/1.1 408 ")

    assert visit(client).turned_away == [("/v1/messages", "request_timeout")]


def test_a_large_body_has_the_time_that_its_rate_gives_it() -> None:
    """Ten steps at the least rate; then one without a byte."""
    part = b"x" * int(STEP_S * LEAST_RATE)

    async def client(visit: Visit) -> None:
        for _ in range(2):
            await visit.send(HEAD % (10 * len(part)))
            for _ in range(10):
                await visit.send(part, STEP_S)
            assert await visit.reader.readuntil(b"\r\n\r\n{}")
        await visit.send(HEAD % (10 * len(part)))
        for _ in range(9):
            await visit.send(part, STEP_S)
        await visit.send(b"", READ_S)
        assert (await visit.told())[0].startswith(b"HTTP/1.1 408 ")

    made = visit(client)
    assert [len(body) for body in made.served] == [10 * len(part)] * 2
    assert made.turned_away == [("/v1/messages", "request_timeout")]


def test_a_head_that_came_with_the_end_of_another_request_has_its_own_time() -> None:
    async def client(visit: Visit) -> None:
        await visit.send(HEAD % 2 + b"{", STEP_S)
        await visit.send(b"}" + HEAD[:9], STEP_S)
        assert await visit.reader.readuntil(b"\r\n\r\n{}")
        assert visit.turned_away == []
        await visit.send(HEAD[9:10], STEP_S)
        assert (await visit.told())[0].startswith(b"HTTP/1.1 408 ")

    assert visit(client).turned_away == [("", "request_timeout")]


def test_what_the_door_itself_has_left_unread_is_not_late() -> None:
    async def client(visit: Visit) -> None:
        visit.go.clear()
        await visit.send((HEAD % 2 + b"{}") * 9 + HEAD[:9], 10 * READ_S)
        visit.go.set()
        for _ in range(9):
            assert await visit.reader.readuntil(b"\r\n\r\n{}")
        await visit.send(b"", STEP_S)
        await visit.send(HEAD[9:] % 2 + b"{}")
        assert await visit.reader.readuntil(b"\r\n\r\n{}")

    made = visit(client)
    assert (made.served, made.turned_away) == ([b"{}"] * 10, [])


def test_empty_lines_keep_no_idle_connection_open() -> None:
    async def client(visit: Visit) -> None:
        await visit.send(HEAD % 2 + b"{}")
        assert await visit.reader.readuntil(b"\r\n\r\n{}")
        await visit.send(b"\r\n", IDLE_S - 1)
        assert not visit.reader.at_eof()
        await visit.send(b"\r\n", 2)
        assert await visit.told() == (b"", b"")

    assert visit(client).turned_away == []


@pytest.mark.parametrize("cut", [9, 40, -2, -1], ids=["path", "headers", "body", "last_byte"])
def test_who_is_sending_a_request_when_the_door_closes_is_answered(cut: int) -> None:
    request = HEAD % 2 + b"{}"

    async def client(visit: Visit) -> None:
        await visit.send(HEAD % 2 + b"{}")
        assert await visit.reader.readuntil(b"\r\n\r\n{}")
        await visit.send(request[:cut])
        visit.door.close()
        await visit.send(request[cut:])
        head, body = await visit.told()
        assert (b"connection: close" in head, body) == (True, b"{}")

    visit(client)


def test_a_client_may_be_idle_from_when_it_has_its_answer() -> None:
    async def client(visit: Visit) -> None:
        visit.go.clear()
        await visit.send(HEAD % 2 + b"{}", IDLE_S + 1)  # the answer takes its time
        visit.go.set()
        assert await visit.reader.readuntil(b"\r\n\r\n{}")
        await visit.send(b"", IDLE_S - 1)
        await visit.send(HEAD % 2 + b"{}")
        assert await visit.reader.readuntil(b"\r\n\r\n{}")

    assert visit(client).served == [b"{}"] * 2


def test_a_short_head_with_a_long_body_behind_it_is_no_long_head() -> None:
    body = b"x" * 100_000

    async def client(visit: Visit) -> None:
        for _ in range(2):
            await visit.send(HEAD % len(body) + body)
            assert await visit.reader.readuntil(b"\r\n\r\n{}")

    assert visit(client).served == [body] * 2
