"""Clients at the wire: Python's door on its transport, and what is read before anybody knows whose it is."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import resource
import socket
import sys
from typing import Any

import pytest

pytest.importorskip("marketplace.gateway.express._core")

from support.express_wire import (  # noqa: E402
    LOOPS,
    House,
    Tended,
    house,
    mirror,
    read_answer,
    request,
    reset,
    tell,
)

from marketplace.gateway.door import Connection, Request  # noqa: E402
from marketplace.gateway.handover import Passage, pair  # noqa: E402

CALL = request(b"{}")
MIRRORED = b"HTTP/1.1 200 OK\r\nx-path: %b\r\ncontent-length: %d\r\n\r\n%b"
ANSWER = MIRRORED % (b"/v1/chat/completions", 2, b"{}")


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """Run the test in both kinds of loops."""
    return str(request.param)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what the interpreter was told that nobody could catch."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_value))
    return told


async def stream(asked: Request, connection: Connection) -> None:
    connection.begin([(b"content-type", b"text/event-stream")], b"one ")
    await asyncio.sleep(0)
    connection.emit(b"two ")
    connection.finish(asked.body)
    connection.done()


@pytest.mark.parametrize("mode", ["decline", "mirror"])
def test_a_blocking_client_is_answered_on_one_connection(loop: str, mode: str) -> None:
    def talk(address: tuple[str, int]) -> None:
        client = http.client.HTTPConnection(*address, timeout=10)
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/chat/completions"):
            for body in (b"{}", b"x" * 300_000):
                client.request("POST", path, body)
                answer = client.getresponse()
                assert (answer.status, answer.getheader("x-path")) == (200, path)
                assert answer.read() == body
        client.close()

    async def story() -> None:
        async with house() as home:
            home.lane("mode", mode)
            await asyncio.to_thread(talk, home.address)
            await home.until(lambda: home.core.connections == 0)
            await home.until(lambda: not home.door.connections)
            assert home.told() == ([("mirrored", 4)] if mode == "mirror" else [])
            # Once for each time that Python was needed anew.
            assert len(home.made) == (1 if mode == "mirror" else len(home.made))

    tell(story, loop)


def test_a_stream_of_pythons_goes_out(loop: str) -> None:
    async def story() -> None:
        async with house(stream) as home:
            reader, writer = await home.client()
            for _ in range(2):
                writer.write(request(b"three"))
                assert (await read_answer(reader))[1] == b"one two three"

    tell(story, loop)


@pytest.mark.parametrize("mode", ["decline", "mirror"])
def test_requests_that_come_at_once_are_answered_in_order(loop: str, mode: str) -> None:
    async def story() -> None:
        async with house() as home:
            home.lane("mode", mode)
            reader, writer = await home.client()
            bodies = [b"%d" % number for number in range(200)]
            paths = [
                b"/v1/messages" if number % 7 == 3 else b"/v1/chat/completions"
                for number in range(200)
            ]
            asked = zip(bodies, paths, strict=True)
            writer.write(b"".join(request(body, path=path) + b"\r\n" for body, path in asked))
            for body, path in zip(bodies, paths, strict=True):
                expected = MIRRORED % (path, len(body), body)
                assert await reader.readexactly(len(expected)) == expected

    tell(story, loop)


def test_a_connection_that_python_has_left_idle_is_the_lanes_again(loop: str) -> None:
    async def story() -> None:
        async with house() as home:
            reader, writer = await home.client()
            for mode in ("decline", "decline", "mirror", "mirror", "decline"):
                home.lane("mode", mode)
                writer.write(CALL)
                assert await reader.readexactly(len(ANSWER)) == ANSWER
                await asyncio.sleep(0)
                assert len(home.door.connections) == (mode == "decline")
            assert len(home.made) == 2
            assert home.made[0].gone
            assert not home.made[1].gone
            assert home.told() == [("mirrored", 2)]

    tell(story, loop)


@pytest.mark.parametrize("size", [1, 20, 60, 200])
def test_a_request_may_come_in_pieces(loop: str, size: int) -> None:
    whole = request(b"x" * 150)

    async def story() -> None:
        async with house() as home:
            home.lane("mode", "mirror")
            reader, writer = await home.client()
            for _ in range(2):
                for at in range(0, len(whole), size):
                    writer.write(whole[at : at + size])
                    await asyncio.sleep(0.0005)
                assert (await read_answer(reader))[1] == b"x" * 150
            assert (home.made, home.told()) == ([], [("mirrored", 2)])

    tell(story, loop)


@pytest.mark.parametrize("cut", [3, 30, -70, -1])
def test_half_a_request_is_pythons_after_a_while(loop: str, cut: int) -> None:
    whole = request(b"x" * 50)

    async def story() -> None:
        async with house(half_s=0.05) as home:
            home.lane("mode", "mirror")
            reader, writer = await home.client()
            writer.write(whole[:cut])
            await home.until(lambda: home.door.connections)
            writer.write(whole[cut:])
            assert (await read_answer(reader))[1] == b"x" * 50
            assert home.told() == []

    tell(story, loop)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request(b"{}", b"expect: 100-continue"), b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"),
        (request(b"{}", b"x-api-key: k"), b"HTTP/1.1 200 OK"),
        (request(b"{}", b"x: " + b"y" * 20_000), b"HTTP/1.1 200 OK"),
        (request(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"), b"HTTP/1.1 200 OK"),
        (request(b"{}", b"x: " + b"y" * 70_000), b"HTTP/1.1 431 "),
        (request(b"x" * 1_001), b"HTTP/1.1 413 "),
        (request(b"{}", b": no name"), b"HTTP/1.1 400 "),
        (request(b"{}", b"content-length: 3"), b"HTTP/1.1 400 "),
        (
            request(b"2\r\n{}\r\n0\r\n\r\n").replace(
                b"content-length: 12", b"transfer-encoding: chunked"
            ),
            b"HTTP/1.1 200 OK",
        ),
    ],
    ids=["expect", "header", "long", "old", "too long", "large", "nameless", "twice", "chunked"],
)
def test_what_is_not_plain_is_pythons(loop: str, asked: bytes, status: bytes) -> None:
    async def story() -> None:
        async with house(body_limit=1_000) as home:
            home.lane("mode", "mirror")
            reader, writer = await home.client()
            writer.write(asked)
            assert (await reader.readexactly(len(status))) == status
            assert len(home.made) == 1
            assert home.told() == []

    tell(story, loop)


def test_a_connection_goes_to_the_office_and_comes_back(loop: str) -> None:
    async def story() -> None:
        ours, theirs = pair()
        came: asyncio.Queue[tuple[socket.socket, bytes]] = asyncio.Queue()
        office = Passage(theirs, lambda sock, read: came.put_nowait((sock, read)))
        back: list[tuple[socket.socket, bytes]] = []
        passage = Passage(ours, lambda sock, read: back.append((sock, read)))
        async with house(passage=passage) as home:
            home.lane("mode", "mirror")
            reader, writer = await home.client()
            writer.write(CALL)
            assert await reader.readexactly(len(ANSWER)) == ANSWER
            writer.write(b"GET /x HTTP/1.1\r\n\r\n")
            sock, read = await came.get()
            assert read == b"GET /x HTTP/1.1\r\n\r\n"
            await home.until(lambda: home.core.connections == 0)
            sock.send(b"the office's")
            assert await reader.readexactly(12) == b"the office's"
            # A second time, so that the descriptor is one that the core has had before.
            for body in (b"{}", b"[1]"):
                assert office.send(sock, request(body)[:20])
                sock.close()
                await home.until(lambda: back)
                returned, read = back.pop()
                home.core.adopt(returned.detach(), read)
                writer.write(request(body)[20:])
                assert (await read_answer(reader))[1] == body
                writer.write(b"GET /y HTTP/1.1\r\n\r\n")
                sock, _ = await came.get()
            sock.close()
            assert await reader.read() == b""
        office.close()
        passage.close()

    tell(story, loop)


def test_who_reads_slowly_makes_python_wait_and_gets_everything(loop: str) -> None:
    size, told = 32 * 1024 * 1024, []

    async def serve(_: Request, connection: Connection) -> None:
        go = asyncio.Event()
        go.set()

        def slow(is_slow: bool) -> None:
            told.append(is_slow)
            (go.clear if is_slow else go.set)()

        connection.on_slow = slow
        connection.begin([], b"")
        for _ in range(size // 65_536):
            await go.wait()
            connection.emit(b"x" * 65_536)
            kept.append(connection._transport.get_write_buffer_size())  # type: ignore[union-attr]
        connection.finish(b"")
        connection.done()

    kept: list[int] = []

    async def story() -> None:
        async with house(serve) as home:
            reader, writer = await home.client()
            writer.write(CALL)
            await home.until(lambda: told)
            sent = -1
            while sent != len(kept):  # until both ends' buffers are full
                sent = len(kept)
                await asyncio.sleep(0.1)
            assert told[-1]
            assert sent < size // 65_536
            assert len((await read_answer(reader))[1]) == size
            assert False in told
            assert max(kept) < 200_000

    tell(story, loop)


def test_python_hears_once_that_its_client_has_gone(loop: str) -> None:
    gone: list[bool] = []

    async def serve(_: Request, connection: Connection) -> None:
        connection.on_gone = lambda: gone.append(connection.gone)
        await asyncio.sleep(0.2)
        connection.respond(200, [], b"nobody reads this")
        connection.done()

    async def story() -> None:
        async with house(serve) as home:
            _, writer = await home.client()
            writer.write(CALL)
            await home.until(lambda: home.made)
            writer.close()
            await home.until(lambda: gone)
            await asyncio.sleep(0.25)
            assert gone == [True]
            assert home.core.connections == 0

    tell(story, loop)


def test_an_idle_connection_is_closed(loop: str) -> None:
    async def story() -> None:
        async with house(idle_s=0.1) as home:
            home.lane("mode", "mirror")
            reader, writer = await home.client()
            for _ in range(2):
                writer.write(CALL)
                assert await reader.readexactly(len(ANSWER)) == ANSWER
            writer.write(b"\r\n")  # is no request, and keeps nothing open
            assert await reader.read() == b""
            assert home.core.connections == 0

    tell(story, loop)


def test_closing_ends_who_is_idle_and_the_others_after_their_answer(loop: str) -> None:
    async def story() -> None:
        async with house() as home:
            home.lane("mode", "mirror")
            clients = [await home.client() for _ in range(3)]
            for reader, writer in clients:
                writer.write(CALL)
                assert await reader.readexactly(len(ANSWER)) == ANSWER
            clients[1][1].write(CALL[:40])
            clients[2][1].write(CALL[:-1])
            await asyncio.sleep(0.05)
            home.core.stop_listening()
            home.core.close_idle()
            assert await clients[0][0].read() == b""
            for (reader, writer), cut in zip(clients[1:], (40, -1), strict=True):
                writer.write(CALL[cut:])
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                assert (b"connection: close" in head, body) == (True, b"{}")
            assert home.core.connections == 0
            with contextlib.suppress(OSError):
                _, writer = await home.client()  # waits in the listener's queue
                await asyncio.sleep(0.05)
                assert home.core.connections == 0
                writer.close()

    tell(story, loop)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors")  # noqa: PTH112
def test_without_descriptors_the_core_neither_spins_nor_forgets_who_waits(
    loop: str, unraisable: list[Any]
) -> None:
    async def story() -> None:
        async with house() as home:
            home.lane("mode", "mirror")
            with socket.socket() as client:
                client.setblocking(False)
                limits = resource.getrlimit(resource.RLIMIT_NOFILE)
                highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
                fillers = []
                with contextlib.suppress(OSError):
                    while True:
                        fillers.append(os.dup(0))
                        if fillers[-1] > highest:
                            break
                resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, limits[1]))
                try:
                    await home.loop.sock_connect(client, home.address)
                    await home.until(lambda: unraisable)
                    polls = home.polls
                    await asyncio.sleep(0.2)
                    assert home.polls - polls < 10
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                    for filler in fillers:
                        os.close(filler)
                await home.loop.sock_sendall(client, CALL)
                assert await home.loop.sock_recv(client, 1_000) == ANSWER
        assert [error.errno for error in unraisable] == [24]

    tell(story, loop)


class Failing(Tended):
    """A protocol with errors."""

    def __init__(self, home: House, where: str) -> None:
        super().__init__(home.door, b"")
        self.where = where
        self.lost: list[Any] = []

    def data_received(self, data: bytes) -> None:
        if self.where == "data":
            raise ZeroDivisionError
        if self.where == "interrupt":
            raise KeyboardInterrupt
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)
        super().connection_lost(exc)
        if self.where == "lost":
            raise ZeroDivisionError

    def eof_received(self) -> bool:
        if self.where == "eof":
            raise ZeroDivisionError
        return False


@pytest.mark.parametrize("where", ["data", "eof", "lost"])
def test_an_error_of_a_protocols_ends_its_connection_and_no_other(
    loop: str, where: str, unraisable: list[Any]
) -> None:
    async def story() -> None:
        async with house() as home:
            other_reader, other = await home.client()
            other.write(CALL)
            await other_reader.readexactly(len(ANSWER))
            home.make = lambda: Failing(home, where)
            reader, writer = await home.client()
            writer.write(CALL)
            if where != "data":
                await reader.readexactly(len(ANSWER))
                writer.write_eof()
            assert await reader.read() == b""
            await home.until(lambda: home.made[-1].lost)
            await home.until(lambda: unraisable)
            assert [type(error) for error in unraisable] == [ZeroDivisionError]
            assert len(home.made[-1].lost) == 1
            assert (home.made[-1].lost[0] is None) == (where == "lost")
            other.write(CALL)
            assert await other_reader.readexactly(len(ANSWER)) == ANSWER
            assert home.core.connections == 1

    tell(story, loop)


def test_an_interrupt_goes_through(loop: str) -> None:
    async def story() -> None:
        async with house() as home:
            home.make = lambda: Failing(home, "interrupt")
            reader, writer = await home.client()
            writer.write(CALL)
            assert await reader.read() == b""
            assert [type(error) for error in home.raised] == [KeyboardInterrupt]

    tell(story, loop)


def test_without_a_protocol_there_is_no_connection(loop: str, unraisable: list[Any]) -> None:
    async def story() -> None:
        async with house() as home:

            def make() -> Any:
                raise ZeroDivisionError

            home.make = make
            reader, writer = await home.client()
            writer.write(CALL)
            assert await reader.read() == b""
            assert home.core.connections == 0
        assert [type(error) for error in unraisable] == [ZeroDivisionError]

    tell(story, loop)


class Probe(asyncio.Protocol):
    """A protocol that does with its transport what it is told, when bytes come."""

    idle = False
    resumed: Any = None

    def __init__(self, act: Any) -> None:
        self.act = act
        self.inside = False
        self.heard: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.inside = True
        self.act(self.transport, data)
        self.inside = False

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.inside
        self.heard.append(exc)


def test_the_transport_is_what_asyncio_has(loop: str) -> None:
    checks: list[Any] = []

    def act(transport: Any, data: bytes) -> None:
        checks.append(transport.get_extra_info("peername"))
        checks.append(transport.get_extra_info("sockname"))
        checks.append(transport.get_extra_info("socket").fileno() > 0)
        checks.append(transport.get_extra_info("cipher"))
        checks.append(transport.get_extra_info("cipher", default=7))
        checks.append((transport.can_write_eof(), transport.is_closing(), transport.is_reading()))
        checks.append((transport.get_write_buffer_size(), transport.get_write_buffer_limits()))
        checks.append(type(transport.get_protocol()))
        transport.write(bytearray(b"a"))
        transport.writelines([b"b", memoryview(b"c"), b""])
        with pytest.raises(TypeError):
            transport.write("text")
        transport.close()
        transport.close()
        checks.append(transport.is_closing())
        transport.write(b"too late")

    async def story() -> None:
        async with house() as home:
            home.make = lambda: Probe(act)
            reader, writer = await home.client()
            peer = writer.get_extra_info("sockname")
            writer.write(b"GET")
            assert await reader.read() == b"abc"
            assert checks == [
                *(peer, home.address, True, None, 7),
                *((True, False, True), (0, (16_384, 65_536)), Probe, True),
            ]
            await home.until(lambda: home.made[0].heard)
            assert home.made[0].heard == [None]
            transport = home.made[0].transport
            assert transport.get_extra_info("socket").fileno() == -1
            assert transport.get_extra_info("peername") is None
            assert transport.is_closing()
            transport.abort()
            transport.write_eof()
            transport.resume_reading()

    tell(story, loop)


def test_closing_waits_for_what_is_unsent_and_aborting_does_not(loop: str) -> None:
    size = 8 * 1024 * 1024

    async def story(end: str) -> int:
        def act(transport: Any, data: bytes) -> None:
            transport.write(b"x" * size)
            getattr(transport, end)()

        async with house() as home:
            home.make = lambda: Probe(act)
            reader, writer = await home.client()
            writer.write(b"GET")
            await home.until(lambda: home.made)
            got = 0
            with contextlib.suppress(ConnectionError):
                while part := await reader.read(1 << 20):
                    got += len(part)
            await home.until(lambda: home.made[0].heard[-1:] == [None])
            assert home.made[0].heard[0] == "pause"
            return got

    assert tell(lambda: story("close"), loop) == size
    assert tell(lambda: story("abort"), loop) < size


def test_half_closing_lets_the_client_read_and_go_on(loop: str) -> None:
    def act(transport: Any, data: bytes) -> None:
        if data == b"GET":
            transport.write(b"x" * 1_000_000)
            transport.write_eof()
        else:
            got.append(data)

    got: list[bytes] = []

    async def story() -> None:
        async with house() as home:
            home.make = lambda: Probe(act)
            reader, writer = await home.client()
            writer.write(b"GET")
            assert len(await reader.read()) == 1_000_000
            writer.write(b"more")
            await home.until(lambda: got == [b"more"])
            writer.close()
            await home.until(lambda: "eof" in home.made[0].heard)
            home.made[0].transport.close()
            await home.until(lambda: home.made[0].heard[-1:] == [None])

    tell(story, loop)


def test_who_is_not_read_is_not_read_until_it_is_wanted(loop: str) -> None:
    def act(transport: Any, data: bytes) -> None:
        got.append(data)
        transport.pause_reading()

    got: list[bytes] = []

    async def story() -> None:
        async with house() as home:
            home.make = lambda: Probe(act)
            _, writer = await home.client()
            writer.write(b"GET")
            await home.until(lambda: got)
            writer.write(b"more")
            writer.write_eof()
            polls = home.polls
            await asyncio.sleep(0.1)
            assert got == [b"GET"]
            assert home.polls - polls < 5
            home.made[0].transport.resume_reading()
            await home.until(lambda: len(got) == 2)
            home.made[0].transport.resume_reading()
            await home.until(lambda: "eof" in home.made[0].heard)

    tell(story, loop)


def test_a_client_that_breaks_off_is_lost_with_the_reason(loop: str) -> None:
    async def story() -> None:
        async with house() as home:
            home.make = lambda: Probe(lambda transport, data: None)
            _, writer = await home.client()
            writer.write(b"GET")
            await home.until(lambda: home.made)
            reset(writer)
            await home.until(lambda: home.made[0].heard)
            assert isinstance(home.made[0].heard[0], ConnectionResetError)

    tell(story, loop)


def test_a_core_that_is_closed_ends_its_connections_and_says_so(loop: str) -> None:
    async def story() -> None:
        async with house() as home:
            reader, writer = await home.client()
            writer.write(CALL)
            await reader.readexactly(len(ANSWER))
            home.loop.remove_reader(home.core.fileno())
            home.core.close()
            home.core.close()
            assert await reader.read() == b""
            assert not home.door.connections
            with pytest.raises(ValueError, match="closed"):
                home.core.poll()
            home._look.cancel()
            home.loop.add_reader(home.listener.fileno(), lambda: None)
            home._poll = lambda: None  # type: ignore[method-assign]
            home.core = _Closed(home.listener)  # type: ignore[assignment]

    tell(story, loop)


class _Closed:
    """In place of a core that has been closed already."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def fileno(self) -> int:
        return self._listener.fileno()

    def close(self) -> None: ...


def test_many_clients_at_once(loop: str) -> None:
    async def story() -> None:
        async with house(mirror) as home:

            async def one(number: int) -> None:
                reader, writer = await home.client()
                for turn in range(20):
                    home.lane("mode", "mirror" if (number + turn) % 3 else "decline")
                    body = b"%d-%d" % (number, turn)
                    writer.write(request(body))
                    assert (await read_answer(reader))[1] == body
                writer.close()

            await asyncio.gather(*(one(number) for number in range(100)))
            await home.until(lambda: home.core.connections == 0)

    tell(story, loop)


@pytest.mark.parametrize(
    "wrong", [{"body_limit": -1}, {"connect_s": 0.0}, {"silence_s": float("nan")}]
)
def test_a_core_wants_sensible_settings(wrong: dict[str, Any]) -> None:
    from marketplace.gateway.express._core import Core

    with pytest.raises(ValueError, match="body_limit"):
        Core(None, **({"body_limit": 1, "connect_s": 1.0, "silence_s": 1.0} | wrong))
