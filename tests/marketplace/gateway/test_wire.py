"""The small HTTP client against servers that answer in every awkward way (RFC 9112)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.ground.errors import Unavailable
from marketplace.gateway.flight import Flight
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.upstream import Upstream
from marketplace.gateway.wire import Pool, WireError

REQUEST = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(2)


@asynccontextmanager
async def engine(script: Script, silence_s: float = 5.0) -> Any:
    """Serve `script` on a free port and yield a pool for it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    # A full backlog drops a connection, which is tried again a second later: that is not what is tested.
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1], 10.0, silence_s)
    try:
        yield pool
    finally:
        pool.close()
        server.close()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


def sends(answers: list[bytes], cuts: list[int], *, close: bool = False) -> Script:
    """Answer each request of a connection with the next answer, cut into pieces."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            for piece in pieces(answer, cuts):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        if not close:
            await reader.read()

    return script


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\nTrailer: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"


@settings(max_examples=40, deadline=None)
@given(
    answers=st.lists(
        st.sampled_from([LENGTH, CHUNKED, INTERIM + LENGTH, INTERIM + CHUNKED]),
        min_size=1,
        max_size=4,
    ),
    cuts=st.lists(st.integers(0, 500), max_size=8),
)
def test_however_it_is_framed_and_cut_the_body_is_the_same(
    answers: list[bytes], cuts: list[int]
) -> None:
    async def story() -> list[bytes]:
        async with engine(sends(answers, cuts)) as pool:
            return [(await pool.request(REQUEST)).body for _ in answers]

    assert asyncio.run(story()) == [b"hello world"] * len(answers)


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async def story() -> bytes:
        answer = b"HTTP/1.1 200 OK\r\n\r\nhello world"
        async with engine(sends([answer], [], close=True)) as pool:
            return (await pool.request(REQUEST)).body

    assert asyncio.run(story()) == b"hello world"


def test_a_kept_connection_that_died_is_replaced_and_a_fresh_one_is_not() -> None:
    connections = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(LENGTH)
        await writer.drain()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    async def story() -> None:
        async with engine(once) as pool:
            for _ in range(3):
                assert (await pool.request(REQUEST)).body == b"hello world"
        async with engine(never) as pool:
            with pytest.raises(WireError) as caught:
                await pool.request(REQUEST)
            assert not caught.value.reached

    asyncio.run(story())
    assert connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_an_error_and_not_a_short_answer(answer: bytes) -> None:
    async def story() -> None:
        async with engine(sends([answer], [], close=True)) as pool:
            with pytest.raises(WireError) as caught:
                await pool.request(REQUEST)
            assert caught.value.reached

    asyncio.run(story())


def test_garbage_is_an_error() -> None:
    async def story() -> None:
        async with engine(sends([b"SSH-2.0-OpenSSH\r\n\r\n"], [], close=True)) as pool:
            with pytest.raises(WireError):
                await pool.request(REQUEST)

    asyncio.run(story())


def test_silence_before_and_inside_an_answer_times_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()

    async def story() -> None:
        async with engine(silent, silence_s=0.1) as pool:
            with pytest.raises(TimeoutError):
                await pool.request(REQUEST)
        async with engine(sends([LENGTH[:-4]], []), silence_s=0.1) as pool:
            with pytest.raises(TimeoutError):
                await pool.request(REQUEST)

    asyncio.run(story())


def test_abort_closes_the_connection_so_that_the_engine_sees_it() -> None:
    seen = asyncio.Event

    async def story() -> bool:
        gone = seen()

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await writer.drain()
            if await reader.read() == b"":
                gone.set()

        async with engine(endless) as pool:
            came = asyncio.get_running_loop().create_future()
            flight = Flight(came.set_result)
            asking = asyncio.ensure_future(pool.request(REQUEST, flight))
            assert await came == b"a"
            flight.cut_off(ZeroDivisionError())
            with pytest.raises(ZeroDivisionError):
                await asking
            await asyncio.wait_for(gone.wait(), 2)
        return True

    assert asyncio.run(story())


def test_a_slow_reader_makes_the_engine_wait_instead_of_filling_memory() -> None:
    size = 64 * 1024 * 1024

    async def story() -> int:
        sent = 0

        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // 65536):
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536

        async with engine(flood) as pool:
            got = 0

            def push(piece: bytes) -> None:
                nonlocal got
                got += len(piece)
                if not released:
                    flight.pause()

            released = False
            flight = Flight(push)
            asking = asyncio.ensure_future(pool.request(REQUEST, flight))
            await asyncio.sleep(0.3)
            held, released = sent, True
            flight.resume()
            await asking
            assert got == size
            return held

    assert asyncio.run(story()) < 16 * 1024 * 1024


def test_a_flight_that_was_cut_off_before_it_was_sent_is_not_sent() -> None:
    async def story() -> int:
        async with engine(sends([LENGTH], [])) as pool:
            flight = Flight()
            flight.cut_off(ZeroDivisionError())
            with pytest.raises(ZeroDivisionError):
                await pool.request(REQUEST, flight)
            return len((await pool.request(REQUEST)).body)

    assert asyncio.run(story()) == 11


def test_only_a_200_is_pushed() -> None:
    async def story() -> None:
        refused = b"HTTP/1.1 429 Slow Down\r\nContent-Length: 4\r\nRetry-After: 3\r\n\r\nslow"
        async with engine(sends([refused, CHUNKED], [])) as pool:
            pushed: list[bytes] = []
            answer = await pool.request(REQUEST, Flight(pushed.append))
            assert (answer.status, answer.body, pushed) == (429, b"slow", [])
            assert answer.headers[b"retry-after"] == b"3"
            answer = await pool.request(REQUEST, Flight(pushed.append))
            assert (answer.status, answer.body, b"".join(pushed)) == (200, b"", b"hello world")

    asyncio.run(story())


def test_a_flight_that_has_landed_cannot_cut_off_the_next_one() -> None:
    async def story() -> bytes:
        async with engine(sends([LENGTH, LENGTH], [7])) as pool:
            flight = Flight()
            await pool.request(REQUEST, flight)
            asking = asyncio.ensure_future(pool.request(REQUEST))
            await asyncio.sleep(0)
            flight.cut_off(ZeroDivisionError())
            return (await asking).body

    assert asyncio.run(story()) == b"hello world"


def test_many_at_once_never_mix_their_answers() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            await asyncio.sleep(0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + request[-2:])
            await writer.drain()

    async def story() -> None:
        async with engine(echo) as pool:

            async def one(number: int) -> None:
                body = b"%02d" % (number % 100)
                assert (await pool.request(REQUEST[:-2] + body)).body == body

            for _ in range(5):
                await asyncio.gather(*(one(number) for number in range(100)))

    asyncio.run(story())


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED])
@pytest.mark.parametrize("cuts", [[], [50]])
def test_an_answer_that_its_reader_cannot_read_ends_all_the_same(
    answer: bytes, cuts: list[int]
) -> None:
    def unreadable(piece: bytes) -> None:
        raise RecursionError

    async def story() -> None:
        async with engine(sends([answer], cuts)) as pool:
            with pytest.raises(WireError, match="cannot be read"):
                await asyncio.wait_for(pool.request(REQUEST, Flight(unreadable)), 5)

    asyncio.run(story())


def test_the_last_piece_can_still_cut_its_flight_off() -> None:
    async def story() -> None:
        async with engine(sends([LENGTH], [])) as pool:
            flight = Flight(lambda _: flight.cut_off(ZeroDivisionError()))
            with pytest.raises(ZeroDivisionError):
                await pool.request(REQUEST, flight)

    asyncio.run(story())


@pytest.mark.parametrize(
    "endless",
    [b"x-a: y\r\n", b"x" * 1000, b"HTTP/1.1 102 Processing\r\n\r\n"],
    ids=["headers", "one name", "interim answers"],
)
def test_a_head_without_an_end_is_cut_off(endless: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
        while not reader.at_eof():
            writer.write(endless * 1000)
            await asyncio.wait_for(writer.drain(), 5)
            await asyncio.sleep(0)

    async def story() -> None:
        async with engine(script) as pool:
            with pytest.raises(WireError):
                await asyncio.wait_for(pool.request(REQUEST), 10)

    asyncio.run(story())


@pytest.mark.parametrize("behind", [LENGTH, b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf"])
def test_a_second_answer_is_nobodys(behind: bytes) -> None:
    other = LENGTH.replace(b"hello", b"other")

    async def story() -> None:
        async with engine(sends([LENGTH + behind, other], [])) as pool:
            assert (await pool.request(REQUEST)).body == b"hello world"
            # The connection was given up, and the engine begins anew on the next.
            assert (await pool.request(REQUEST)).body == b"hello world"

    asyncio.run(story())


def test_an_engine_does_not_change_protocols() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"

    async def story() -> None:
        async with engine(sends([switch], [])) as pool:
            with pytest.raises(WireError, match="changes protocols"):
                await pool.request(REQUEST)

    asyncio.run(story())


def test_a_connection_that_was_idle_for_long_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections = 0

    async def forgotten(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer once; what comes then is lost on its way, and nobody is told."""
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(LENGTH)
        await reader.read()

    async def story() -> None:
        async with engine(forgotten, silence_s=0.5) as pool:
            for _ in range(3):
                assert (await pool.request(REQUEST)).body == b"hello world"

    monkeypatch.setattr("marketplace.gateway.wire._IDLE_S", 0.0)
    asyncio.run(story())
    assert connections == 3


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999",
        "http://a..example",
        "http://模型.example",
        "http://127.0.0.1:1/模型",
        "http://127.0.0.1:1",
    ],
)
def test_who_cannot_be_reached_is_away_and_the_log_says_why(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        upstream = Upstream(1.0, 1.0)
        endpoint = EndpointRecord(id="ept_1", url=url, model="m", api_key="")
        with pytest.raises(Unavailable):
            await upstream.post(endpoint, "/v1/completions", b"{}", "gen_1")

    asyncio.run(story())
    assert "engine ept_1 cannot be reached: " in caplog.text
