"""Taken requests and engines at the wire, with a lane that forwards what it takes to one engine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

pytest.importorskip("marketplace.gateway.express._core")

from support.express_wire import (
    LOOPS,
    House,
    engine,
    house,
    read_answer,
    read_request,
    request,
    reset,
    tell,
)

from marketplace.gateway.door import Connection, Request

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\nTrailer: 1\r\n\r\n"
)
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
ASK = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi"
STREAM = request(b'{"stream":true}')


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """Run the test in both kinds of loops."""
    return str(request.param)


def answers(*told: bytes, close: bool = False) -> Any:
    """Answer each request of a connection with the next of these, the last one over and over."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = list(told)
        while left:
            await read_request(reader)
            writer.write(left[0])
            await writer.drain()
            if len(left) > 1 or close:
                left.pop(0)

    return script


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        body = await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def forwards(home: House, address: tuple[str, int], mode: str = "forward") -> None:
    home.lane("engine", *address)
    home.lane("mode", mode)


async def ends(home: House, number: int) -> tuple[Any, ...]:
    """Return the last thing that a flight of the test's own has told."""
    done = lambda: [told for told in home.told() if told[0] == number and told[1] != "piece"]  # noqa: E731
    return tuple((await home.until(done))[0])


# Taken requests.


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED])
@pytest.mark.parametrize("asked", [request(), STREAM])
def test_a_taken_request_is_answered(loop: str, answer: bytes, asked: bytes) -> None:
    async def story() -> None:
        async with house() as home, engine(answers(answer)) as address:
            forwards(home, address)
            reader, writer = await home.client()
            for _ in range(3):
                writer.write(asked)
                assert (await read_answer(reader))[1] == b"hello world"
            assert home.made == []

    tell(story, loop)


def test_many_taken_requests_never_mix(loop: str) -> None:
    async def story() -> None:
        async with house() as home, engine(echo) as address:
            forwards(home, address)

            async def one(number: int) -> None:
                reader, writer = await home.client()
                for turn in range(20):
                    body = b"%d %d" % (number, turn) * (1 + 5_000 * (turn == 7))
                    writer.write(request(body))
                    assert (await read_answer(reader))[1] == body
                writer.close()

            await asyncio.gather(*(one(number) for number in range(100)))

    tell(story, loop)


def test_requests_behind_a_taken_one_wait_for_it(loop: str) -> None:
    async def story() -> None:
        async with house() as home, engine(echo) as address:
            forwards(home, address)
            reader, writer = await home.client()
            writer.write(b"".join(request(b"%d" % number) for number in range(100)))
            for number in range(100):
                assert (await read_answer(reader))[1] == b"%d" % number
            assert home.made == []

    tell(story, loop)


def test_who_sends_far_ahead_is_read_no_further_and_missed_when_gone(loop: str) -> None:
    async def story() -> None:
        async with house() as home, engine(silent) as address:
            forwards(home, address)
            _, writer = await home.client()
            writer.write(request() + b"x" * 32 * 1024 * 1024)
            held = -1
            while held != writer.transport.get_write_buffer_size():
                held = writer.transport.get_write_buffer_size()
                await asyncio.sleep(0.1)
            assert held > 16 * 1024 * 1024
            polls = home.polls
            await asyncio.sleep(0.1)
            assert home.polls - polls < 5
            assert home.told() == []
            reset(writer)  # what ends in good order, ends behind all that was sent
            await home.until(lambda: ("left",) in home.told())
            assert home.core.connections == 0

    tell(story, loop)


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_is_missed_at_once_and_its_engine_cut_off(
    loop: str, begun: bool
) -> None:
    gone = asyncio.Event

    async def story() -> None:
        cut = gone()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(ENDLESS if begun else b"")
            assert await reader.read() == b""
            cut.set()

        async with house() as home, engine(script) as address:
            forwards(home, address)
            reader, writer = await home.client()
            writer.write(STREAM)
            await (reader.readuntil(b"a\r\n") if begun else asyncio.sleep(0.05))
            writer.write_eof()  # there is no half of a call
            await asyncio.wait_for(cut.wait(), 5)
            assert home.told() == [("left",)]
            assert home.core.connections == 0

    tell(story, loop)


def test_a_slow_client_makes_the_engine_wait(loop: str) -> None:
    size, sent = 64 * 1024 * 1024, 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    async def story() -> None:
        async with house() as home, engine(flood) as address:
            forwards(home, address)
            reader, writer = await home.client()
            writer.write(STREAM)
            await home.until(lambda: ("slow", True) in home.told())
            held = -1
            while held != sent:
                held = sent
                await asyncio.sleep(0.1)
            assert held < 32 * 1024 * 1024
            assert len((await read_answer(reader))[1]) == size
            assert ("slow", False) in home.told()

    tell(story, loop)


def test_a_client_that_does_not_read_is_gone(loop: str) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ENDLESS)
        while True:
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()

    async def story() -> None:
        async with house(stall_s=0.2) as home, engine(flood) as address:
            forwards(home, address)
            _, writer = await home.client()
            writer.write(STREAM)
            await home.until(lambda: ("left",) in home.told())
            assert home.core.connections == 0

    tell(story, loop)


@pytest.mark.parametrize(
    "ahead", [b"", request(b"ahead"), b"POST /v1/"], ids=["", "one ahead", "half"]
)
def test_closing_says_so_in_the_answer(loop: str, ahead: bytes) -> None:
    """It is the last of its connection, whatever else has been sent on that."""

    async def story() -> None:
        go = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await go.wait()
            writer.write(LENGTH)

        async with house() as home, engine(script) as address:
            forwards(home, address)
            reader, writer = await home.client()
            writer.write(request() + ahead)
            await asyncio.sleep(0.05)
            home.core.close_idle()
            go.set()
            told = await asyncio.wait_for(reader.read(), 2)
            head, _, body = told.partition(b"\r\n\r\n")
            assert (b"connection: close" in head, body) == (True, b"hello world")

    tell(story, loop)


def test_closing_answers_nothing_that_was_sent_ahead(loop: str) -> None:
    """As at the door: the answer that is being made is the last, and the connection ends with it."""

    async def story() -> None:
        go = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await go.wait()
            writer.write(LENGTH)

        async with house() as home, engine(script) as address:
            forwards(home, address)
            reader, writer = await home.client()
            writer.write(request() + request())
            await asyncio.sleep(0.05)
            home.core.close_idle()
            go.set()
            told = await asyncio.wait_for(reader.read(), 10)
            assert told.count(b"HTTP/1.1 200 OK") == 1
            assert told.endswith(b"hello world")

    tell(story, loop)


# Given up.


@pytest.mark.parametrize("stage", ["taken", "later", "landed", "broke", "piece", "left"])
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "kept"])
def test_what_is_given_up_is_pythons(loop: str, stage: str, before: bool) -> None:
    """Python gets the request as it came, and what it is to resume; the client has one whole answer."""
    seen: list[Any] = []
    body = b"{}" if stage == "landed" else b'{"stream":true}'

    async def serve(asked: Request, connection: Connection) -> None:
        seen.append((asked.body, connection.resumed, connection.gone))
        connection.resumed = None
        connection.respond(200, [], b"python's")
        connection.done()

    async def story() -> None:
        script = answers(LENGTH, close=True)
        if stage == "left":
            script = silent
        elif stage == "broke":
            script = answers(b"nonsense\r\n")
        async with house(serve) as home, engine(script) as address:
            reader, writer = await home.client()
            if before:
                writer.write(request(b"before"))
                assert (await read_answer(reader))[1] == b"python's"
                seen.clear()
            forwards(home, address, f"give_up {stage}")
            home.lane("resumed", told := object())
            writer.write(request(body) + (request(b"behind") if stage != "left" else b""))
            if stage == "left":
                await asyncio.sleep(0.05)
                writer.close()
                await home.until(lambda: seen)
                assert seen == [(body, told, True)]
                await home.until(lambda: home.core.connections == 0)
                await home.until(lambda: not home.door.connections)
                return
            assert (await read_answer(reader))[1] == b"python's"
            assert (await read_answer(reader))[1] == b"python's"
            assert seen == [(body, told, False), (b"behind", None, False)]
            # A protocol that was idle is used again only where its connection was never the lane's.
            assert len(home.made) == (1 if stage == "taken" or not before else 2)
            home.lane("mode", "mirror")
            writer.write(request())
            assert (await read_answer(reader))[1] == b"{}"
            assert home.told()[-1] == ("mirrored", 1)

    tell(story, loop)


def test_a_stream_that_is_given_up_goes_on_behind_what_is_unsent(loop: str) -> None:
    """The client is slow, so Python is told; it is started all the same."""
    told: list[bool] = []

    async def serve(_: Request, connection: Connection) -> None:
        connection.on_slow = told.append
        connection._streaming = True
        connection.finish(b"python's")
        connection.done()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ENDLESS)
        for _ in range(64 * 16):
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()

    async def story() -> None:
        async with house(serve) as home, engine(script) as address:
            forwards(home, address)
            reader, writer = await home.client()
            writer.write(STREAM)
            await home.until(lambda: ("slow", True) in home.told())
            await asyncio.sleep(0.1)
            home.lane("mode", "give_up later")
            await home.until(lambda: home.made)
            body = (await read_answer(reader))[1]
            assert body.startswith(b"axxx")
            assert body.endswith(b"xxxpython's")
            home.lane("mode", "mirror")
            writer.write(request())
            assert (await read_answer(reader))[1] == b"{}"

    tell(story, loop)


# Engines.


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        LENGTH,
        CHUNKED,
        b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH,
        b"HTTP/1.1 200 OK\r\n\r\nhello world",
        b"HTTP/1.0 200 OK\r\n\r\nhello world",
    ],
    ids=["length", "chunked", "interim", "until the end", "old"],
)
def test_an_answer_lands_once(loop: str, answer: bytes, push: bool) -> None:
    async def story() -> None:
        async with house() as home, engine(answers(answer, close=True)) as address:
            home.lane("engine", *address)
            number = home.lane("send", ASK, push)
            assert home.told() == []
            _, what, status, _, body = await ends(home, number)
            pieces = [told[2] for told in home.told() if told[1] == "piece"]
            assert (what, status) == ("landed", 200)
            assert (b"".join(pieces), body) == (
                (b"hello world", b"") if push else (b"", b"hello world")
            )
            await asyncio.sleep(0.05)
            assert len([told for told in home.told() if told[1] in ("landed", "broke")]) == 1

    tell(story, loop)


def test_only_a_200_is_pushed(loop: str) -> None:
    refused = b"HTTP/1.1 429 Slow Down\r\nContent-Length: 4\r\nRetry-After: 3\r\n\r\nslow"

    async def story() -> None:
        async with house() as home, engine(answers(refused)) as address:
            home.lane("engine", *address)
            number = home.lane("send", ASK, True)
            told = (number, "landed", 429, {b"content-length": b"4", b"retry-after": b"3"}, b"slow")
            assert await ends(home, number) == told

    tell(story, loop)


def test_connections_are_kept_and_one_that_died_is_replaced_once(loop: str) -> None:
    connections: list[int] = []

    def counted(script: Any) -> Any:
        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(0)
            await script(reader, writer)

        return run

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    async def once_then_never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if len(connections) == 1:
            writer.write(LENGTH)
            await read_request(reader)  # and away

    async def story() -> None:
        async with house() as home:
            for script, asked, made, told in (
                (answers(LENGTH), 3, 1, "landed"),
                (answers(LENGTH, close=True), 3, 3, "landed"),
                (never, 1, 1, "broke"),
                (once_then_never, 2, 2, "broke"),
            ):
                connections.clear()
                async with engine(counted(script)) as address:
                    home.lane("engine", *address)
                    for _ in range(asked):
                        last = await ends(home, home.lane("send", ASK, False))
                    assert (last[1], len(connections)) == (told, made)

    tell(story, loop)


@pytest.mark.parametrize(
    "answer",
    [
        LENGTH + b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf",
        LENGTH.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"),
        LENGTH.replace(b"1.1", b"1.0"),
    ],
    ids=["more behind it", "close", "old"],
)
def test_a_connection_that_did_not_end_properly_is_not_kept(loop: str, answer: bytes) -> None:
    async def story() -> None:
        async with house() as home, engine(answers(answer, LENGTH)) as address:
            home.lane("engine", *address)
            for _ in range(3):
                told = await ends(home, home.lane("send", ASK, False))
                assert (told[1], told[4]) == ("landed", b"hello world")

    tell(story, loop)


def test_an_unused_connection_is_closed_in_time(loop: str) -> None:
    async def story() -> None:
        closed = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(LENGTH)
            assert await reader.read() == b""
            closed.set()

        async with house(kept_s=0.1) as home, engine(script) as address:
            home.lane("engine", *address)
            await ends(home, home.lane("send", ASK, False))
            await asyncio.wait_for(closed.wait(), 5)

    tell(story, loop)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", "broken"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "broken"),
        (b"SSH-2.0-OpenSSH\r\n", "broken"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
            "broken",
        ),
        (b"", "broken"),
    ],
)
@pytest.mark.parametrize("push", [False, True])
def test_an_answer_that_breaks_off_is_broken(
    loop: str, answer: bytes, why: str, push: bool
) -> None:
    async def story() -> None:
        async with house() as home, engine(answers(answer, close=True)) as address:
            home.lane("engine", *address)
            number = home.lane("send", ASK, push)
            assert await ends(home, number) == (number, "broke", why)

    tell(story, loop)


def test_silence_is_noticed_unless_the_engine_was_told_to_wait(loop: str) -> None:
    async def story() -> None:
        async with house(silence_s=0.15) as home:
            for script in (silent, answers(LENGTH[:-4]), answers(ENDLESS)):
                async with engine(script) as address:
                    home.lane("engine", *address)
                    number = home.lane("send", ASK, True)
                    assert await ends(home, number) == (number, "broke", "silent")
            async with engine(answers(ENDLESS)) as address:
                home.lane("engine", *address)
                number = home.lane("send", ASK, True)
                home.lane("pause", number)
                await asyncio.sleep(0.4)
                assert [told for told in home.told() if told[0] == number] == []
                assert home.lane("sent", number)
                home.lane("resume", number)
                assert await ends(home, number) == (number, "broke", "silent")
                assert (number, "piece", b"a") in home.told()

    tell(story, loop)


def test_who_cannot_be_reached(loop: str) -> None:
    async def story() -> None:
        async with house(connect_s=0.15) as home:
            with socket.create_server(("127.0.0.1", 0)) as closed:
                address = closed.getsockname()
            home.lane("engine", *address)
            number = home.lane("send", ASK, False)
            assert not home.lane("sent", number)
            assert home.told() == []
            assert await ends(home, number) == (number, "broke", "unreachable")
            # A listener whose queue is full lets nobody in: what `upstream.py` calls a time-out.
            with socket.socket() as full, contextlib.ExitStack() as queue:
                full.bind(("127.0.0.1", 0))
                full.listen(0)
                for _ in range(2):
                    waiting = queue.enter_context(socket.socket())
                    waiting.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        waiting.connect(full.getsockname())
                home.lane("engine", *full.getsockname())
                number = home.lane("send", ASK, False)
                assert await ends(home, number) == (number, "broke", "silent")

    tell(story, loop)


def test_what_is_cut_off_is_heard_of_no_more(loop: str) -> None:
    async def story() -> None:
        gone = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(ENDLESS)
            assert await reader.read() == b""
            gone.set()

        async with house() as home, engine(script) as address:
            home.lane("engine", *address)
            early = home.lane("send", ASK, True)
            home.lane("cut_off", early)
            number = home.lane("send", ASK, True)
            await home.until(lambda: (number, "piece", b"a") in home.told())
            home.lane("cut_off", number)
            await asyncio.wait_for(gone.wait(), 5)
            await asyncio.sleep(0.05)
            assert home.told() == [(number, "piece", b"a")]

    tell(story, loop)


def test_an_engine_waits_while_it_is_paused(loop: str) -> None:
    size, sent = 64 * 1024 * 1024, 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    async def story() -> None:
        async with house() as home, engine(flood) as address:
            home.lane("engine", *address)
            number = home.lane("send", ASK, True)
            await home.until(home.told)
            home.lane("pause", number)
            await asyncio.sleep(0.3)
            held = sent
            assert held < 32 * 1024 * 1024
            home.lane("resume", number)
            await ends(home, number)
            assert sum(len(told[2]) for told in home.told() if told[1] == "piece") == size

    tell(story, loop)


def test_a_long_request_is_sent_whole(loop: str) -> None:
    body = b"x" * 8_000_000

    async def story() -> None:
        async with house(body_limit=10_000_000) as home, engine(echo) as address:
            forwards(home, address)
            reader, writer = await home.client()
            for _ in range(2):
                writer.write(request(body))
                assert (await read_answer(reader))[1] == body
            assert home.made == []

    tell(story, loop)


def test_more_connections_than_are_kept(loop: str) -> None:
    async def story() -> None:
        async with house() as home, engine(echo) as address:
            home.lane("engine", *address)
            for _ in range(3):
                numbers = [home.lane("send", ASK, False) for _ in range(200)]
                for number in numbers:
                    assert (await ends(home, number))[4] == b"hi"
            assert len({told[0] for told in home.told()}) == len(home.told()) == 600

    tell(story, loop)


def test_a_core_that_is_closed_with_everything_on_its_way(loop: str) -> None:
    async def story() -> None:
        async with house() as home, engine(silent) as address:
            forwards(home, address)
            for _ in range(5):
                _, writer = await home.client()
                writer.write(request() * 2)
                home.lane("send", ASK, False)
            await asyncio.sleep(0.05)
            home.lane("engine", "127.0.0.1", 9)
            home.lane("send", ASK, False)  # is refused, and nobody is there to hear it

    tell(story, loop)
