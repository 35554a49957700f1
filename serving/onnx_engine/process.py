"""The process around the engine: sockets, the ready line, signals, an orderly end.

SIGTERM (or SIGINT) drains: new work gets 503 and `/healthz` says so, open answers may finish for
`drain_s` seconds, then they end with an error event; the exit code is 0 either way. A second signal
ends the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from catalog.ground.errors import Conflict, Unavailable
from serving.onnx_engine import endpoints
from serving.onnx_engine.engine import Engine
from serving.onnx_engine.loading import Model
from serving.onnx_engine.meters import Meters
from serving.onnx_engine.options import Options

KEEP_ALIVE_S = 75
LAST_WORDS_S = 2
_PR_SET_PDEATHSIG = 1


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: draining is ours to order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def open_socket(options: Options) -> socket.socket:
    """Bind what the options name; `Conflict` when somebody is there already."""
    if options.uds is not None:
        _remove_stale(Path(options.uds))
        listener = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = options.uds
        place = options.uds
    else:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.socket(family)
        address = (options.host, options.port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place = f"{options.host}:{options.port}"
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise Conflict(
            f"Cannot listen on {place}: {error.strerror}.", code="address_taken"
        ) from None
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket file that a killed engine left behind; one that answers is not touched."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()


def address_of(listener: socket.socket, options: Options) -> str:
    """Return the base URL; a Unix socket is given as `http+unix://PATH`."""
    if options.uds is not None:
        return f"http+unix://{options.uds}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends (Linux only).

    The kernel watches the *thread* that started us: a parent should start engines from its main one.
    """
    parent = os.getppid()
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
        raise Unavailable("The parent process is already gone.", code="parent_gone")


async def serve(options: Options, model: Model, listener: socket.socket) -> None:
    """Answer until a signal comes, then drain. Prints the ready line on stdout."""
    engine = Engine(options, model, Meters())
    config = uvicorn.Config(
        endpoints.build(engine),
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
    print(_ready_line(engine, listener), flush=True)
    ended = asyncio.create_task(signals.get())
    await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
    engine.draining = True
    await _drain(engine, signals)
    await asyncio.to_thread(engine.scheduler.stop)
    server.should_exit = True
    await serving
    if options.uds is not None:
        Path(options.uds).unlink(missing_ok=True)


def _ready_line(engine: Engine, listener: socket.socket) -> str:
    return json.dumps(
        {
            "ready": True,
            "url": address_of(listener, engine.options),
            "model": engine.names[0],
            "max_model_len": engine.context_length,
            "pid": os.getpid(),
        },
        ensure_ascii=False,
    )


def _watch_signals() -> asyncio.Queue[int]:
    seen: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, seen.put_nowait, number)
    return seen


async def _drain(engine: Engine, signals: asyncio.Queue[int]) -> None:
    """Wait until no answer is open, the time is over, or a second signal comes."""

    async def empty() -> None:
        while engine.open:
            await asyncio.sleep(0.02)

    waits = {asyncio.create_task(empty()), asyncio.create_task(signals.get())}
    await asyncio.wait(waits, timeout=engine.options.drain_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
