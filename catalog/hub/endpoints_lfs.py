"""Git LFS: which bodies are missing (batch), their upload in one piece or in parts, verify."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from catalog.artifacts import registry
from catalog.artifacts.sql import join_writers
from catalog.ground.errors import BadRequest, IntegrityError, NotFound
from catalog.hub import access, possession, uploads
from catalog.hub.multipart import MultipartUpload
from catalog.hub.receive import receive
from catalog.hub.tables import Repo
from catalog.hub.web import Hub, JsonObject, answer, new_router, objects_field

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PURPOSE = "lfs"
_OBJECTS_MAX = 1_000
MEDIA_TYPE = "application/vnd.git-lfs+json"


def _objects(body: dict[str, Any]) -> list[tuple[str, int]]:
    if body.get("operation") != "upload":
        raise BadRequest("Only uploads go by LFS; files are read from /resolve.", rule="hub.lfs")
    objects = objects_field(body, "objects")
    if len(objects) > _OBJECTS_MAX:
        raise BadRequest(f"At most {_OBJECTS_MAX} objects at once.", rule="hub.lfs")
    found = []
    for item in objects:
        oid, size = item.get("oid"), item.get("size")
        if not isinstance(oid, str) or not _SHA256.fullmatch(oid):
            raise BadRequest("An object needs a sha256 'oid'.", rule="hub.lfs")
        if not isinstance(size, int) or size < 0:
            raise BadRequest("An object needs a 'size'.", rule="hub.lfs")
        found.append((oid, size))
    return found


def _actions(
    hub: Hub, base: str, repo: Repo, sha256: str, size: int, multi: bool
) -> dict[str, Any]:
    claims: dict[str, Any] = {"repo": repo.id, "sha256": sha256, "size": size}
    parts = multi and size >= hub.limits.multipart_from_bytes
    if parts:
        claims["part"] = hub.limits.part_bytes
    word = hub.signer.sign(_PURPOSE, claims, life_us=hub.limits.link_life_us)
    upload: dict[str, Any] = {"href": f"{base}/_lfs/{word}"}
    if parts:
        count = -(-size // hub.limits.part_bytes)
        header = {str(number): f"{base}/_lfs/{word}/{number}" for number in range(1, count + 1)}
        upload["header"] = {"chunk_size": str(hub.limits.part_bytes), **header}
    verify = f"{base}/{quote(repo.full_name)}.git/info/lfs/objects/verify"
    return {"upload": upload, "verify": {"href": verify}}


def _batch(hub: Hub, request: Request, ns: str, name: str, body: dict[str, Any]) -> Response:
    caller = hub.known_caller(request)
    objects = _objects(body)
    multi = "multipart" in str(body.get("transfers"))
    base = hub.base_url(request)
    items: list[dict[str, Any]] = []
    with hub.database.session() as session:
        repo = access.writable(session, ns, name, caller)
        join_writers(session)
        stored = possession.usable(session, repo, [oid for oid, _ in objects], caller, hub.gate)
        mine = registry.held(session, [repo.id], stored)
        missing = [size for oid, size in objects if oid not in stored]
        extra = sum(missing) + sum(stored[oid].size_bytes for oid in stored.keys() - mine)
        registry.check_quota(
            session, repo.org, extra_bytes=extra, quota_bytes=hub.limits.org_quota_bytes
        )
        lease = hub.clock() + hub.limits.upload_lease_us
        registry.hold(
            session, list(stored.values()), holder=repo.id, account=repo.org, leased_until_us=lease
        )
        for oid, size in objects:
            item: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in stored:
                uploads.check_size(size, oid, hub.limits)
                item["actions"] = _actions(hub, base, repo, oid, size, multi)
            elif stored[oid].size_bytes != size:
                item["error"] = {"code": 422, "message": "the stored object has another size"}
            items.append(item)
    parted = any("header" in item.get("actions", {}).get("upload", {}) for item in items)
    return _lfs_answer({"transfer": "multipart" if parted else "basic", "objects": items})


def _lfs_answer(document: object) -> Response:
    response = answer(document)
    response.headers["content-type"] = MEDIA_TYPE
    return response


def _verify(hub: Hub, request: Request, ns: str, name: str, body: dict[str, Any]) -> Response:
    caller = hub.known_caller(request)
    with hub.reading() as session:
        repo = access.writable(session, ns, name, caller)
        oid = str(body.get("oid"))
        if oid not in registry.held(session, [repo.id], [oid]):
            raise NotFound(f"The object {oid} is not here.", code="lfs_missing", rule="hub.lfs")
        if registry.get(session, oid).size_bytes != body.get("size"):
            raise IntegrityError("The stored object has another size.", rule="hub.lfs")
    return _lfs_answer({"oid": oid, "size": body.get("size")})


async def _put(hub: Hub, request: Request, word: str) -> Response:
    claims = hub.signer.read(_PURPOSE, word)
    size, sha256 = int(claims["size"]), str(claims["sha256"])
    with hub.store.stage(max_bytes=size) as staging:
        await receive(request, staging.write)
        staged = await run_in_threadpool(staging.finish, sha256=sha256, size_bytes=size)
    await run_in_threadpool(uploads.accept, hub, claims["repo"], [staged])
    return Response(status_code=200, headers={"ETag": f'"{sha256}"'})


def _parts_of(hub: Hub, claims: dict[str, Any]) -> MultipartUpload:
    return MultipartUpload(
        hub.store.spool,
        str(claims["repo"]),
        str(claims["sha256"]),
        int(claims["size"]),
        int(claims["part"]),
    )


async def _put_part(hub: Hub, request: Request, word: str, number: int) -> Response:
    upload = _parts_of(hub, hub.signer.read(_PURPOSE, word))
    with upload.part_writer(number) as writer:
        await receive(request, writer.write)
        tag = await run_in_threadpool(writer.finish)
    return Response(status_code=200, headers={"ETag": f'"{tag}"'})


def _complete(hub: Hub, word: str, body: dict[str, Any]) -> Response:
    claims = hub.signer.read(_PURPOSE, word)
    with hub.reading() as session:
        if registry.held(session, [str(claims["repo"])], [str(claims["sha256"])]):
            return _lfs_answer({})  # asked again, because our answer did not arrive
    try:
        tags = {int(part["partNumber"]): str(part["etag"]) for part in objects_field(body, "parts")}
    except (TypeError, KeyError, ValueError, OverflowError):
        raise BadRequest("Each part needs 'partNumber' and 'etag'.", rule="hub.lfs") from None
    uploads.accept(hub, str(claims["repo"]), [_parts_of(hub, claims).complete(tags)])
    return _lfs_answer({})


def routes(hub: Hub) -> APIRouter:
    """Return the LFS endpoints."""
    router = new_router(hub)

    @router.post("/{ns}/{name}.git/info/lfs/objects/batch")
    def batch(ns: str, name: str, request: Request, body: JsonObject) -> Response:
        return _batch(hub, request, ns, name, body)

    @router.post("/{ns}/{name}.git/info/lfs/objects/verify")
    def verify(ns: str, name: str, request: Request, body: JsonObject) -> Response:
        return _verify(hub, request, ns, name, body)

    # No key comes with these: the signed word in the URL is the right to send exactly these bytes.
    @router.put("/_lfs/{word}", include_in_schema=False)
    async def put(word: str, request: Request) -> Response:
        return await _put(hub, request, word)

    @router.put("/_lfs/{word}/{number}", include_in_schema=False)
    async def put_part(word: str, number: int, request: Request) -> Response:
        return await _put_part(hub, request, word, number)

    @router.post("/_lfs/{word}", include_in_schema=False)
    def complete(word: str, body: JsonObject) -> Response:
        return _complete(hub, word, body)

    return router
