"""Whatever comes, in whatever pieces: a client at the wire is answered as one at Python's door."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from typing import Any

import pytest

pytest.importorskip("marketplace.gateway.express._core")

from support.express_wire import House, house, mirror, pieces, request, tell

GOOD = [
    *(
        request(b"{}"),
        request(b"x" * 300),
        request(b"[1]", b"authorization: Bearer k"),
        request(b""),
    ),
    *(request(b"{}") + b"\r\n", request(b"y" * 900)),
    request(b"[2]", path=b"/v1/completions"),
    request(b"[3]", b"x-api-key: k"),
    request(b"3\r\n[5]\r\n0\r\n\r\n").replace(b"content-length: 13", b"transfer-encoding: chunked"),
    request(b"[6]", b"x: " + b"y" * 17_000),
]
LAST = [
    request(b"[7]", b"connection: close"),
    request(b"[8]").replace(b"HTTP/1.1", b"HTTP/1.0"),
    request(b"[9]", b"upgrade: h2c", b"connection: upgrade"),
    request(b"{}", b": no name"),
    request(b"{}", b"content-length: 3"),
    request(b"{}", b"x: a\r\n b"),
    request(b"x" * 1_001),
    request(b"{}", b"x: " + b"y" * 200_000),
    b"POST /v1/chat/completions HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: h\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"POST /v1/chat/completions \r\n\r\n",
    b"\r\n\r\n",
    request(b"{}")[:-1],
    request(b"{}")[:40],
]
QUIET_S = 0.1


def coming(chance: random.Random) -> tuple[list[bytes], list[bytes], bool]:
    """Return good requests and what comes last, in pieces, and whether the client waits between them.

    What comes last is not sent before everything good has been answered: else what Python's door makes of
    it depends on the packets in which it comes.
    """
    good = b"".join(chance.choice(GOOD) for _ in range(chance.randint(0, 5)))
    last = bytearray(chance.choice(LAST if chance.random() < 0.5 else GOOD))
    if chance.random() < 0.5:
        for _ in range(chance.randint(1, 2)):
            last[chance.randrange(min(200, len(last)))] = chance.randrange(256)
    return cut(chance, good), cut(chance, bytes(last)), chance.random() < 0.5


def cut(chance: random.Random, data: bytes) -> list[bytes]:
    return list(pieces(data, [chance.randrange(1 << 20) for _ in range(chance.randint(0, 6))]))


async def visit(
    address: tuple[str, int], good: list[bytes], last: list[bytes], waits: bool
) -> bytes:
    """Send the pieces and return all that comes."""
    reader, writer = await asyncio.open_connection(*address)
    got = bytearray()
    stays = True

    async def read(most_s: float) -> bool:
        nonlocal stays
        try:
            part = await asyncio.wait_for(reader.read(1 << 20), most_s)
        except TimeoutError:
            return False
        except ConnectionError:
            part = b""
        stays = bool(part)
        got.extend(part)
        return stays

    with contextlib.suppress(OSError, RuntimeError):  # the other side has closed
        for sent in (good, last):
            for piece in sent:
                writer.write(piece)
                if waits:
                    await read(0.003)
            # Twice, because a loop that was held up finds its timers due before it looks at its sockets.
            while await read(QUIET_S) or (stays and await read(QUIET_S)):
                pass
        writer.write_eof()
    while stays and await read(5):
        pass
    writer.transport.abort()
    await asyncio.sleep(0)
    return bytes(got)


def told(answers: bytes) -> tuple[list[bytes], list[int]]:
    """Return the bodies of what was served, and the statuses of what was refused."""
    served, refused = [], []
    while answers:
        head, _, answers = answers.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(
            b"\r\n\r\n"
        )
        status = int(head.split(b" ")[1])
        size = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        body, answers = answers[:size], answers[size:]
        assert len(body) == size
        if status == 200:
            served.append(body)
        else:
            refused.append(status)
    return served, refused


@pytest.mark.parametrize("mode", ["mirror", "decline"])
@pytest.mark.parametrize("seed", range(2))
def test_whatever_comes_is_answered_as_at_the_door(mode: str, seed: int) -> None:
    chance = random.Random(seed)
    visits = [coming(chance) for _ in range(200)]
    errors: list[Any] = []

    async def at(address: tuple[str, int]) -> list[bytes]:
        few = asyncio.Semaphore(40)

        async def one(good: list[bytes], last: list[bytes], waits: bool) -> bytes:
            async with few:
                return await visit(address, good, last, waits)

        return list(await asyncio.gather(*(one(*coming) for coming in visits)))

    async def story() -> tuple[list[bytes], list[bytes]]:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(what))
        async with house(mirror, body_limit=1_000, half_s=0.01) as home:
            home.lane("mode", mode)
            return await at(home.address), await at_the_door(home, at)

    ours, theirs = tell(story)
    for sent, mine, his in zip(visits, ours, theirs, strict=True):
        assert (told(mine), sent) == (told(his), sent)
    assert errors == []


async def at_the_door(home: House, at: Any) -> list[bytes]:
    server = await home.loop.create_server(home.door.connection, "127.0.0.1", 0)
    try:
        return list(await at(server.sockets[0].getsockname()))
    finally:
        server.close()
