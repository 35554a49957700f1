"""The HTTP server at the public socket, with a client that is not polite."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from catalog.ground.errors import TokenMartError
from catalog.ground.rendering import RenderedError
from marketplace.gateway.door import Connection, Door, Request
from marketplace.gateway.shapes import render

CALL = b"POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}"
LONG = b"x: " + b"y" * 200_000
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer(request: Request, connection: Connection) -> None:
    connection.respond(200, [(b"x-path", request.path.encode())], request.body)
    connection.done()


async def stream_then_fail(request: Request, connection: Connection) -> None:
    connection.begin([], b"one")
    connection.emit(b"")
    connection.respond(500, [], b"{}")
    connection.done()


def visit(
    client: Client, serve: Any = answer, turned_away: list[tuple[str, str]] | None = None
) -> list[dict[str, Any]]:
    """Let a client visit a door; return what the loop was told of errors.

    `turned_away` gets the path and the error's code of what the door refuses.
    """
    errors: list[dict[str, Any]] = []

    def turn_away(path: str, error: TokenMartError) -> RenderedError:
        if turned_away is not None:
            turned_away.append((path, error.code))
        return render(path, error)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, told: errors.append(told))
        door = Door(serve, turn_away, None, 1_000, frozenset())
        server = await loop.create_server(door.connection, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        await asyncio.wait_for(client(reader, writer), 10)
        writer.close()
        door.close()
        server.close()

    asyncio.run(story())
    return errors


def test_an_empty_line_behind_a_body_is_no_request() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(CALL + b"\r\n")
            assert await reader.readuntil(b"\r\n\r\n{}")

    assert visit(client) == []


def test_garbage_behind_a_request_that_is_not_served_is_not_answered_twice() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL + b"GET /x HTTP/1.1\r\n")
        assert await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"\r\n\x00garbage\r\n\r\n")
        assert await reader.read() == b""

    assert visit(client) == []


def test_an_error_after_the_beginning_of_a_stream_breaks_it_off() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL)
        told = await reader.read()
        assert told.endswith(b"\r\n\r\n3\r\none\r\n")
        assert told.count(b"HTTP/1.1") == 1

    assert visit(client, stream_then_fail) == []


@pytest.mark.parametrize(("first", "second"), [("1.1", "1.0"), ("1.0", "1.1")])
def test_each_request_is_framed_for_its_own_version(first: str, second: str) -> None:
    async def stream(request: Request, connection: Connection) -> None:
        await asyncio.sleep(0.05)
        connection.begin([], b"one")
        connection.finish(b"two")
        connection.done()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls = [CALL.replace(b"1.1", version.encode(), 1) for version in (first, second)]
        writer.write(b"".join(calls))
        told = await reader.read()
        assert (b"3\r\none" in told) == (first == "1.1")
        assert told.endswith(b"onetwo")

    assert visit(client, stream) == []


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("rest", "status", "code"),
    [
        (b" HTTP/1.1\r\ncontent-length: 1001\r\n\r\n", 413, "payload_too_large"),
        (b" HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, 413, ""),
        (b" HTTP/1.1\r\n" + LONG, 431, "head_too_long"),
        (b"?" + b"q" * 200_000, 431, "head_too_long"),
        (b" HTTP/1.1\r\nx: " + b"y" * 66_000 + b"\r\n\r\n", 431, "head_too_long"),
        (b" HTTP/1.1\r\n: no name\r\n\r\n", 400, "invalid_http"),
        (b" HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, "invalid_http"),
    ],
    ids=["length", "chunks", "head", "query", "whole_head", "header", "chunk"],
)
def test_what_the_door_refuses_is_told_in_the_shape_of_its_path(
    path: str, rest: bytes, status: int, code: str
) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL)
        assert await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"POST " + path.encode() + rest)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        told = json.loads(body)
        assert ("request_id" in told) == path.startswith("/v1/messages")
        assert told["error"]["type"] == (
            "request_too_large"
            if "request_id" in told and status == 413
            else "invalid_request_error"
        )

    turned_away: list[tuple[str, str]] = []
    assert visit(client, turned_away=turned_away) == []
    assert turned_away == [(path, code or "payload_too_large")]


def test_a_refusal_waits_for_the_answers_before_it_and_is_counted_when_it_is_told() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL + CALL.replace(b"length: 2", b"length: 2000"))
        told = await reader.read()
        assert told.count(b"HTTP/1.1 200") == told.count(b"HTTP/1.1 413") == 1
        assert told.index(b"200 OK") < told.index(b"413")

    turned_away: list[tuple[str, str]] = []
    assert visit(client, turned_away=turned_away) == []
    assert turned_away == [("/v1/completions", "payload_too_large")]


CHUNKED = CALL.replace(b"content-length: 2", b"transfer-encoding: chunked").removesuffix(b"{}")


def test_trailers_are_no_headers() -> None:
    async def tell(request: Request, connection: Connection) -> None:
        connection.respond(200, [], repr(sorted(request.headers)).encode())
        connection.done()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\nhost: y\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n[b'host', b'transfer-encoding']")

    assert visit(client, tell) == []


@pytest.mark.parametrize("trailer", [b"a: b\r\n" * 100_000, LONG * 5])
def test_trailers_end(trailer: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"2\r\n{}\r\n0\r\n")
        writer.write(trailer)
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")

    assert visit(client) == []


@pytest.mark.parametrize("wish", [b"h2c", b"websocket"])
def test_a_wish_for_another_protocol_is_ignored(wish: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # As Java's client sends it: the body in a packet of its own.
        head = CALL.removesuffix(b"\r\n{}")
        head += b"connection: Upgrade, HTTP2-Settings\r\nupgrade: %b\r\nhttp2-settings: AA\r\n\r\n"
        writer.write(head % wish)
        await writer.drain()
        await asyncio.sleep(0.01)
        for rest in (b"{}", (head + b"{}") % wish, (head + b"{}") % wish + CALL):
            writer.write(rest)
            for _ in range(rest.count(b"{}")):
                assert (await reader.readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200 ")

    assert visit(client) == []


def test_a_client_of_http_1_0_is_not_left_waiting_for_the_end() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = CALL.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"host: h", b"connection: keep-alive")
        writer.write(head)
        assert (await reader.read()).endswith(b"{}")

    assert visit(client) == []


def test_nothing_is_begun_for_a_client_that_leaves_its_answers_unread() -> None:
    unread: list[int] = []

    async def much(request: Request, connection: Connection) -> None:
        transport: Any = connection._transport
        unread.append(transport.get_write_buffer_size())
        connection.respond(200, [], b"y" * 1_000_000)
        connection.done()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL * 40 + CALL.replace(b"length: 2", b"length: 2000"))
        told = await reader.read()
        assert told.count(b"HTTP/1.1 200") == 40
        assert told.rpartition(b"HTTP/1.1")[2].startswith(b" 413 ")

    assert visit(client, much) == []
    assert max(unread) <= 64 * 1024  # what a transport calls full


def test_requests_ahead_are_read_only_as_far_as_there_is_room() -> None:
    waiting: list[int] = []
    count = 15_000

    async def count_ahead(request: Request, connection: Connection) -> None:
        waiting.append(len(connection._waiting))
        connection.respond(200, [], b"")
        connection.done()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL * count)
        for _ in range(count):
            await reader.readuntil(b"\r\n\r\n")

    assert visit(client, count_ahead) == []
    assert len(waiting) == count
    assert max(waiting) < 8 + 256 * 1024 // len(CALL) + 1  # what one packet of the loop brings


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("forwarded", "client"),
    [("", "127.0.0.1"), ("10.1.2.3", "10.1.2.3"), ("::ffff:10.1.2.3, 127.0.0.1", "10.1.2.3")],
)
@pytest.mark.parametrize("proxy", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_client_of_ipv4_keeps_its_address_where_both_are_listened_to(
    forwarded: str, client: str, proxy: str
) -> None:
    async def tell(request: Request, connection: Connection) -> None:
        connection.respond(200, [], request.client.encode())
        connection.done()

    async def story() -> bytes:
        loop = asyncio.get_running_loop()
        trusted = frozenset({proxy} if forwarded else ())
        door = Door(tell, render, None, 1_000, trusted)
        both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        server = await loop.create_server(door.connection, sock=both)
        reader, writer = await asyncio.open_connection("127.0.0.1", both.getsockname()[1])
        headers = f"connection: close\r\nx-forwarded-for: {forwarded}".encode()
        writer.write(CALL.replace(b"host: h", headers))
        told = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        door.close()
        server.close()
        return told

    assert asyncio.run(story()).endswith(b"\r\n\r\n" + client.encode())
