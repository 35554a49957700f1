"""What comes in at the door of every engine process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.process.edge import body_of
from serving.process.listening import open_socket
from serving.process.running import run


class Idle:
    """Nothing is ever under way."""

    draining = False
    open = 0


async def echo(request: Request) -> Response:
    return Response(await body_of(request, 1000))


async def _asked(address: tuple[str, int], head: bytes, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    length = b"Host: x\r\nConnection: close, Upgrade\r\nContent-Length: %d\r\n" % len(body)
    writer.write(b"POST /echo HTTP/1.1\r\n" + length + head + b"\r\n")
    await writer.drain()
    writer.write(body)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("wish", [b"h2c", b"websocket"])
def test_who_asks_for_another_protocol_is_answered_in_this_one(
    wish: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    async def ask(listener: socket.socket) -> bytes:
        app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])
        serving = asyncio.create_task(run(app, Idle(), listener, ready={}, drain_s=1))
        while not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            await asyncio.sleep(0.005)
        head = b"Upgrade: %b\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n" % wish
        try:
            return await _asked(listener.getsockname(), head, b"all of it")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await serving

    with open_socket("127.0.0.1", 0) as listener:
        answer = asyncio.run(ask(listener))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nall of it")
    said = capfd.readouterr()
    assert json.loads(said.out)["ready"]
    assert said.err == ""
