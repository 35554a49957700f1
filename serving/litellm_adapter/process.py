"""The process around the adapter: the ready line, signals, an orderly end.

SIGTERM (or SIGINT) drains: new calls get 503 and `/health` says so, open answers may finish for `drain_s`
seconds; the exit code is 0 either way. A second signal ends the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator

import uvicorn

from serving.litellm_adapter.endpoints import Adapter, build
from serving.litellm_adapter.options import Options

KEEP_ALIVE_S = 75
LAST_WORDS_S = 2


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: draining is ours to order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: Options, adapter: Adapter, listener: socket.socket) -> None:
    """Answer until a signal comes, then drain. Prints the ready line on stdout."""
    config = uvicorn.Config(
        build(adapter),
        loop="none",
        lifespan="off",
        ws="none",
        log_level="warning",
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
    print(_ready_line(adapter, listener), flush=True)
    ended = asyncio.create_task(signals.get())
    await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
    adapter.draining = True
    await _drain(options, adapter, signals)
    server.should_exit = True
    await serving


def _ready_line(adapter: Adapter, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    told = {"ready": True, "url": url, "models": list(adapter.config.models), "pid": os.getpid()}
    return json.dumps(told, ensure_ascii=False)


def _watch_signals() -> asyncio.Queue[int]:
    seen: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, seen.put_nowait, number)
    return seen


async def _drain(options: Options, adapter: Adapter, signals: asyncio.Queue[int]) -> None:
    """Wait until no answer is open, the time is over, or a second signal comes."""

    async def empty() -> None:
        while adapter.open:
            await asyncio.sleep(0.02)

    waits = {asyncio.create_task(empty()), asyncio.create_task(signals.get())}
    await asyncio.wait(waits, timeout=options.drain_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
