"""From the ready line to an orderly end.

SIGTERM (or SIGINT) drains: new work gets 503 and the health page says so, open answers may finish for
`drain_s` seconds. A second signal ends the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sized
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from serving.process.listening import url_of

KEEP_ALIVE_S = 75
LAST_WORDS_S = 2


class Work(Protocol):
    """What is going on behind the endpoints; it takes nothing new while `draining`."""

    draining: bool

    @property
    def open(self) -> Sized | int:
        """The answers under way, or how many there are."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: draining is ours to order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(
    app: ASGIApp,
    work: Work,
    listener: socket.socket,
    *,
    ready: dict[str, Any],
    drain_s: float,
    stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Answer on `listener` until a signal comes, then drain; the loop is the caller's.

    Prints one line of JSON on stdout when ready: the URL, the fields of `ready`, the process id. `stop`
    is awaited after the drain, while connections are still open, so that it can end what has not ended.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        # With httptools a request that asks for HTTP/2 as well (`Upgrade: h2c`), as Java's client does with
        # each, loses its body. h11 ignores the wish, as a server may (RFC 9110, section 7.8); uvicorn would
        # only warn of it.
        http="h11",
        lifespan="off",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_WORDS_S,
    )
    server = _Server(config)
    signals = _watch_signals()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if serving.done():
        serving.result()
        return
    said = {"ready": True, "url": url_of(listener)} | ready | {"pid": os.getpid()}
    print(json.dumps(said, ensure_ascii=False), flush=True)
    ended = asyncio.create_task(signals.get())
    await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
    work.draining = True
    await _drain(work, drain_s, signals)
    if stop is not None:
        await stop()
    server.should_exit = True
    await serving


def _watch_signals() -> asyncio.Queue[int]:
    seen: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, seen.put_nowait, number)
    return seen


async def _drain(work: Work, drain_s: float, signals: asyncio.Queue[int]) -> None:
    """Wait until no answer is open, the time is over, or a second signal comes."""

    async def empty() -> None:
        while work.open:
            await asyncio.sleep(0.02)

    waits = {asyncio.create_task(empty()), asyncio.create_task(signals.get())}
    await asyncio.wait(waits, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
