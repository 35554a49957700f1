"""The hub as one router, to be included in an application at `/`."""

from __future__ import annotations

from fastapi import APIRouter

from catalog.artifacts.store import ArtifactStore
from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.hub import (
    endpoints_account,
    endpoints_commit,
    endpoints_lfs,
    endpoints_refs,
    endpoints_repos,
    endpoints_resolve,
    endpoints_tree,
    endpoints_xet,
)
from catalog.hub.access import Gate, open_gate
from catalog.hub.downloads import DownloadCounter
from catalog.hub.identity import Identify
from catalog.hub.limits import HubLimits
from catalog.hub.meter import RequestMeter
from catalog.hub.signing import Signer
from catalog.hub.web import Hub

_CONCERNS = (
    endpoints_account,
    endpoints_repos,
    endpoints_commit,
    endpoints_lfs,
    endpoints_xet,
    endpoints_tree,
    endpoints_refs,
    endpoints_resolve,
)


def build_hub(
    database: Database,
    store: ArtifactStore,
    identify: Identify,
    *,
    secret: bytes,
    gate: Gate = open_gate,
    limits: HubLimits | None = None,
    clock: Clock = now_us,
    public_url: str | None = None,
    accel_prefix: str | None = None,
) -> Hub:
    """Put a hub together. `secret` signs upload links: all replicas need the same one, 16 bytes or more."""
    limits = limits or HubLimits()
    return Hub(
        database=database,
        store=store,
        identify=identify,
        gate=gate,
        limits=limits,
        signer=Signer(secret, clock),
        clock=clock,
        meter=RequestMeter(limits.requests_per_minute, clock),
        downloads=DownloadCounter(database, clock),
        public_url=public_url.rstrip("/") if public_url else None,
        accel_prefix=accel_prefix,
    )


def hub_router(hub: Hub) -> APIRouter:
    """Return every endpoint of the hub; call `hub.downloads.flush()` when the application stops."""
    router = APIRouter(tags=["hub"])
    for concern in _CONCERNS:
        router.include_router(concern.routes(hub))
    return router
