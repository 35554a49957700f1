"""Put the processes of one machine together: office, workers, and the seed model's engine.

This process is the office (`marketplace.app`); the workers at the door and the engine are its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import uvicorn
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from catalog.ground.alone import alone
from catalog.ground.clock import now_us
from catalog.ground.driver import sqlite_path
from catalog.ground.errors import Conflict
from catalog.ground.marker import raise_marker
from marketplace.app import Marketplace
from marketplace.gateway.call_log import set_up
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.door import READ_S
from marketplace.gateway.handover import is_call
from marketplace.gateway.observer import Observer
from marketplace.gateway.office import GatewayOffice
from marketplace.gateway.otlp import Exporter, collector_of
from marketplace.gateway.presence import Presence
from marketplace.gateway.tables import Endpoint
from marketplace.seeding.catalogue import SEED_SLUG, seed_folder
from marketplace.settings import Settings
from serving.local_engine import LocalEngine

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_AGAIN_S = 5.0
_DRAINED_S = 0.01
_SEED_ENDPOINT = "ept_seed"
_SEED_PLACES = 16
"""Twice the rows that its engine decodes together, so that the next ones are at hand."""


class _Guarded:
    """A transport that may be written to when it is closing: uvloop's raises then, until uvicorn is told."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, unless the client has gone."""
        if not self._transport.is_closing():
            self._transport.write(data)


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol for a connection that a worker has handed over; it goes back for the next call."""

    def __init__(self, server: _Server, read: bytes) -> None:
        super().__init__(
            config=server.config,
            server_state=server.server_state,
            app_state=server.lifespan.state,
        )
        self._read_before = read
        self._unclear = b""
        self._complete = True
        self._gateway = server.gateway
        self._heard_at = 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._cycles: list[RequestResponseCycle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _Guarded(transport))
        self._check_patience()
        read, self._read_before = self._read_before, b""
        self.data_received(read)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def send_400_response(self, msg: str) -> None:
        # Behind a request that is still being answered, its own answer must not be cut in two.
        if any(not cycle.response_complete for cycle in self._cycles):
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles.append(self.cycle)

    def _check_patience(self) -> None:
        """Give up a request that has begun and does not go on; uvicorn itself would wait for ever."""
        quiet_s = self.loop.time() - self._heard_at if self._heard_at else 0.0
        if not self._complete and quiet_s > READ_S and not self.flow.read_paused:
            self.transport.close()
            return
        self._patience = self.loop.call_later(_LOOK_S, self._check_patience)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        if self._between_requests():
            data, self._unclear = self._unclear + data, b""
            call = is_call(data)
            if call is None:
                self._unclear = data
                return
            if call and self._gateway is not None:
                self._hand_back(data, self._gateway)
                return
        super().data_received(data)

    def _between_requests(self) -> bool:
        # uvicorn declares a cycle that is not there before the first request.
        cycle: RequestResponseCycle | None = self.cycle
        return self._complete and (cycle is None or cycle.response_complete)

    def on_message_begin(self) -> None:
        self._complete = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._complete = True

    def _hand_back(self, data: bytes, gateway: GatewayOffice) -> None:
        self._unset_keepalive_if_required()
        self.transport.pause_reading()
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():
            # What has been answered must leave before the connection does.
            self.loop.call_later(_DRAINED_S, self._hand_back, data, gateway)
            return
        descriptor = self.transport.get_extra_info("socket").fileno()
        gateway.hand_back(descriptor, data)
        self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn without a listener: its connections come from the workers."""

    def __init__(
        self,
        config: uvicorn.Config,
        market: Marketplace,
        listener: socket.socket,
        listening: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._market = market
        self._listener = listener
        self._listening = listening
        self.gateway: GatewayOffice | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        if not self.started or self._market.desk is None:
            return
        desk, settings = self._market.desk, self._market.settings
        options = await asyncio.to_thread(self._market.options)
        collector = collector_of(settings.otlp_url, os.environ)
        exporter = None if collector is None else Exporter(*collector)
        gateway = GatewayOffice(
            options,
            settings.workers,
            self._listener,
            desk.lookup,
            self._adopt,
            Observer(settings.log, settings.slow_request_s, exporter),
            Presence(self._market.database, settings.workers),
        )
        gateway.heard = desk.directory.notice
        self.gateway = self._market.gateway = gateway
        await gateway.start()
        self._listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGINT and SIGTERM as the wish to stop, which ends in exit code 0.

        uvicorn would raise them once more at the end, and nobody would stop the engine any more.
        """
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def _adopt(self, connection: socket.socket, read: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: _Protocol(self, read), connection)
        except OSError:
            connection.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.gateway is not None:
            await self.gateway.stop()
        await super().shutdown(sockets=[])


async def run_gateway(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve the gateway until SIGINT or SIGTERM. `ready` is told its URL once calls are welcome."""
    set_up(settings.log)
    with _alone(settings), _listen(settings.host, settings.port) as listener:
        await _serve(settings, listener, ready)


async def run_all(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve the gateway, and the seed model's engine as a child that is kept alive."""
    set_up(settings.log)
    # Before the engine: whoever cannot serve must not touch the address of one that does.
    with _alone(settings), _listen(settings.host, settings.port) as listener:
        async with _seed_engine(settings):
            await _serve(settings, listener, ready)


async def _serve(settings: Settings, listener: socket.socket, ready: Callable[[str], None]) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    market = Marketplace(settings)
    config = uvicorn.Config(
        market.web,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        date_header=False,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=int(settings.drain_s),
        timeout_keep_alive=75,
    )
    await _Server(config, market, listener, lambda: ready(f"http://{shown}:{port}")).serve()


@contextlib.asynccontextmanager
async def _seed_engine(settings: Settings) -> AsyncIterator[None]:
    """Keep the seed model's engine alive, and its address in the database true."""
    engine = LocalEngine(seed_folder(), SEED_SLUG)

    async def report(url: str) -> None:
        # A database that is away must not be the end of the engine's keeper. Nobody can call meanwhile.
        while not await asyncio.to_thread(_publish_endpoint, settings, engine, url):
            await asyncio.sleep(_AGAIN_S)

    try:
        await report(await engine.start())
        keeper = asyncio.ensure_future(engine.keep(report))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
    finally:
        await engine.stop()
        await asyncio.to_thread(_publish_endpoint, settings, engine, "")


def _alone(settings: Settings) -> AbstractContextManager[None]:
    """Be the one office on an SQLite file."""
    if settings.database.kind != "sqlite":
        return contextlib.nullcontext()
    path = sqlite_path(settings.database.url)
    taken = Conflict(
        f"Another TokenMart serves {path} already.",
        rule="gateway.one_office",
        remedy="Stop it, give this one a TOKENMART_DATA_DIR of its own, or let both use PostgreSQL.",
    )
    return alone(Path(f"{path}.lock"), taken)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Conflict(
            f"{host}:{port} cannot be listened on: {error.strerror}.",
            remedy="Stop what listens there, or choose another port: make up PORT=8001",
        ) from None
    listener.listen(2048)
    return listener


def _publish_endpoint(settings: Settings, engine: LocalEngine, url: str) -> bool:
    """Tell the gateways where the engine is; '' takes it out of routing. False: the database is away."""
    try:
        with settings.database.session() as session:
            _note_endpoint(session, engine, url)
    except DBAPIError as error:
        log.warning("where the engine is cannot be written: %s", error.orig)
        return False
    return True


def _note_endpoint(session: Session, engine: LocalEngine, url: str) -> None:
    endpoint = session.get(Endpoint, _SEED_ENDPOINT)
    if endpoint is None:
        # Our own engine keeps nothing of what it answers. What an operator sets later stays set.
        endpoint = Endpoint(
            id=_SEED_ENDPOINT,
            listing=SEED_SLUG,
            url="",
            model="",
            data_collection="deny",
            zdr=True,
            max_concurrency=_SEED_PLACES,
            updated_at_us=0,
        )
    if not url and endpoint.url != engine.url:
        return  # another `tokenmart up` on this database has put its own engine there
    endpoint.url, endpoint.model, endpoint.api_key = url, engine.model, engine.api_key
    endpoint.state = "up" if url else "down"
    endpoint.updated_at_us = now_us()
    session.add(endpoint)
    session.flush()
    raise_marker(session, ENDPOINTS)
