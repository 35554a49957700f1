"""Everything on one machine: the seed engine as a child process, the gateway in this one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import uvicorn

from catalog.ground.clock import now_us
from catalog.ground.errors import Conflict
from catalog.ground.marker import raise_marker
from marketplace.app import DRAIN_S, Marketplace
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint
from marketplace.seeding.catalogue import SEED_SLUG, seed_folder
from marketplace.settings import Settings
from serving.local_engine import LocalEngine

_SEED_ENDPOINT = "ept_seed"


class _Server(uvicorn.Server):
    """uvicorn that tells when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()


async def run_gateway(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve the gateway until SIGINT or SIGTERM. `ready` is told its URL once calls are welcome."""
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        Marketplace(settings),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=int(DRAIN_S),
        timeout_keep_alive=75,
    )
    await _Server(config, lambda: ready(f"http://{shown}:{port}")).serve([listener])


async def run_all(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve the gateway, and the seed model's engine as a child that is kept alive."""
    engine = LocalEngine(seed_folder(), SEED_SLUG)
    _publish_endpoint(settings, engine, await engine.start())

    async def report(url: str) -> None:
        await asyncio.to_thread(_publish_endpoint, settings, engine, url)

    keeper = asyncio.ensure_future(engine.keep(report))
    try:
        await run_gateway(settings, ready)
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        await engine.stop()
        _publish_endpoint(settings, engine, "")


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


def _publish_endpoint(settings: Settings, engine: LocalEngine, url: str) -> None:
    """Tell the gateways where the engine is; '' takes it out of routing."""
    with settings.database.session() as session:
        session.merge(
            Endpoint(
                id=_SEED_ENDPOINT,
                listing=SEED_SLUG,
                url=url,
                model=engine.model,
                api_key=engine.api_key,
                state="up" if url else "down",
                updated_at_us=now_us(),
            )
        )
        raise_marker(session, ENDPOINTS)
