"""A hub that stands alone: an edge mirror, and what the tests start as a real process.

    python -m catalog.hub.app --data DIR --keys keys.json --port 8100

`keys.json` maps a key to a caller: `{"hf_…": {"name": "li", "orgs": {"acme": "owner"}, "operator": false}}`.
The database must have been migrated. Prints `ready <port>` once it listens.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from catalog.artifacts.store import open_store
from catalog.ground.database import Database
from catalog.hub.identity import Caller, Identify
from catalog.hub.limits import HubLimits
from catalog.hub.router import build_hub, hub_router
from catalog.hub.web import Hub


def identify_by(keys: Mapping[str, Mapping[str, Any]]) -> Identify:
    """Return an `Identify` that knows the callers of a key file; only digests stay in memory."""
    callers = {
        hashlib.sha256(key.encode()).digest(): Caller(
            name=str(facts["name"]),
            orgs=dict(facts.get("orgs") or {}),
            is_operator=bool(facts.get("operator")),
        )
        for key, facts in keys.items()
    }

    def identify(header: str | None) -> Caller | None:
        scheme, _, key = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        return callers.get(hashlib.sha256(key.strip().encode()).digest())

    return identify


def create_app(hub: Hub) -> FastAPI:
    """Return an application that is the hub and nothing else."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        hub.downloads.flush()

    app = FastAPI(title="TokenMart hub", lifespan=lifespan)
    app.include_router(hub_router(hub))
    return app


class _Server(uvicorn.Server):
    """Says on stdout which port it got, so that whoever started it may ask for port 0."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                print(f"ready {listening.getsockname()[1]}", flush=True)


def _limits(changes: str | None) -> HubLimits:
    return HubLimits(**json.loads(changes)) if changes else HubLimits()


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="A hub that stands alone.")
    parser.add_argument("--data", type=Path, required=True, help="folder of database and artifacts")
    parser.add_argument("--database", help="database URL (default: hub.db in the data folder)")
    parser.add_argument("--store", help="artifact store: a folder or an fsspec URL")
    parser.add_argument("--keys", type=Path, required=True, help="JSON file of keys and callers")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--limits", help="JSON object of limits that differ from the defaults")
    parser.add_argument("--accel-prefix", help="internal nginx location of the blobs folder")
    options = parser.parse_args(arguments)
    keys_text = options.keys.read_text()
    hub = build_hub(
        Database(options.database or f"sqlite:///{options.data / 'hub.db'}"),
        open_store(options.store or str(options.data / "artifacts"), spool=options.data / "spool"),
        identify_by(json.loads(keys_text)),
        secret=hmac.digest(b"hub links", keys_text.encode(), hashlib.sha256),
        limits=_limits(options.limits),
        accel_prefix=options.accel_prefix,
    )
    config = uvicorn.Config(
        create_app(hub), host=options.host, port=options.port, log_level="warning"
    )
    _Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
