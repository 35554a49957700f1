"""Releases over HTTP, beside the hub's own paths and rendered like them."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from catalog.ground.clock import to_iso
from catalog.hub import access
from catalog.hub.tables import Repo
from catalog.hub.web import Hub, JsonObject, answer, new_router, text_field
from catalog.releases import diff as comparing
from catalog.releases import releases, variants
from catalog.releases.tables import Release, Variant


def release_item(release: Release) -> dict[str, Any]:
    """Return what a list says of a release."""
    return {
        "id": release.id,
        "model": release.repo_name,
        "version": release.version,
        "commit": release.commit_oid,
        "digest": f"sha256:{release.digest}",
        "createdBy": release.created_by,
        "createdAt": to_iso(release.created_at_us),
    }


def variant_item(variant: Variant) -> dict[str, Any]:
    """Return what a release says of a variant."""
    return {
        "id": variant.id,
        "name": variant.name,
        "format": variant.format,
        "precision": variant.precision,
        "digest": f"sha256:{variant.digest}",
        "sizeBytes": variant.size_bytes,
        "lineage": json.loads(variant.lineage),
        "createdAt": to_iso(variant.created_at_us),
    }


def _readable(hub: Hub, request: Request, ns: str, name: str) -> Repo:
    caller = hub.caller(request)
    with hub.reading() as session:
        return access.readable(session, ns, name, caller, hub.gate)


def _cut(hub: Hub, request: Request, ns: str, name: str, body: dict[str, Any]) -> Response:
    caller = hub.known_caller(request)
    with hub.reading() as session:
        repo = access.writable(session, ns, name, caller)
    release = releases.cut(
        hub.database,
        hub.store,
        repo.id,
        revision=text_field(body, "revision", "main"),
        version=text_field(body, "version", "") or None,
        created_by=caller.name,
        clock=hub.clock,
    )
    return answer(release_item(release) | {"manifest": json.loads(release.manifest)})


def routes(hub: Hub) -> APIRouter:
    """Return the endpoints of releases."""
    router = new_router(hub)

    @router.post("/api/models/{ns}/{name}/releases", tags=["releases"])
    def cut(ns: str, name: str, request: Request, body: JsonObject) -> Response:
        return _cut(hub, request, ns, name, body)

    @router.get("/api/models/{ns}/{name}/releases", tags=["releases"])
    def list_releases(ns: str, name: str, request: Request) -> Response:
        repo = _readable(hub, request, ns, name)
        with hub.reading() as session:
            found = releases.listed(session, repo.id)
        return answer([release_item(release) for release in found])

    @router.get("/api/models/{ns}/{name}/releases/{version}", tags=["releases"])
    def show(ns: str, name: str, version: str, request: Request) -> Response:
        repo = _readable(hub, request, ns, name)
        with hub.reading() as session:
            release = releases.named(session, repo.id, version)
            built = variants.listed(session, release.id)
        document = release_item(release) | {"manifest": json.loads(release.manifest)}
        return answer(document | {"variants": [variant_item(variant) for variant in built]})

    @router.get("/api/models/{ns}/{name}/releases/{old}/diff/{new}", tags=["releases"])
    def diff(ns: str, name: str, old: str, new: str, request: Request) -> Response:
        repo = _readable(hub, request, ns, name)
        with hub.reading() as session:
            before = releases.named(session, repo.id, old)
            after = releases.named(session, repo.id, new)
            return answer(comparing.diff(session, before, after))

    return router
