"""The write side of Xet, as much of it as a client needs to upload; files are kept whole, as ever.

Since huggingface-hub 1.20 every large file is uploaded this way and no other. Not served, and answered with
the 404 that the client takes for "go on without": global deduplication, upload grants, v2 shards. Downloads
never need Xet, because no answer of ours says that a file has a Xet hash.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from catalog.artifacts import registry
from catalog.artifacts.staging import Staged
from catalog.ground.clock import SECOND_US
from catalog.ground.errors import Forbidden, NotFound, PayloadTooLarge, Unauthenticated
from catalog.ground.ids import new_id
from catalog.hub import access, uploads, xet_sessions
from catalog.hub.reassemble import Reassembler, xorb_path
from catalog.hub.receive import receive
from catalog.hub.web import Hub, answer, new_router, read_body
from catalog.hub.xorbs import ShardFile, read_shard

_PURPOSE = "xet"
XORB_MAX_BYTES = 80 << 20
SHARD_MAX_BYTES = 128 << 20


def _token(hub: Hub, request: Request, ns: str, name: str) -> Response:
    caller = hub.known_caller(request)
    now = hub.clock()
    with hub.database.session() as session:
        repo = access.writable(session, ns, name, caller)
        registry.check_quota(
            session, repo.org, extra_bytes=0, quota_bytes=hub.limits.org_quota_bytes
        )
        upload = xet_sessions.open_session(session, repo, caller.name, now_us=now)
    xet_sessions.sweep(hub.database, hub.store, now_us=now)
    claims = {"repo": repo.id, "org": repo.org, "caller": caller.name}
    life = hub.limits.xet_token_life_us
    token = hub.signer.sign(_PURPOSE, claims, life_us=life)
    url = f"{hub.base_url(request)}/_cas/{upload.id}"
    expires = (now + life) // SECOND_US
    headers = {
        "X-Xet-Cas-Url": url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return answer({"casUrl": url, "accessToken": token, "exp": expires}, headers=headers)


def _claims(hub: Hub, request: Request) -> dict[str, Any]:
    word = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    try:
        return hub.signer.read(_PURPOSE, word)
    except Forbidden as error:
        raise Unauthenticated(str(error), code=error.code, rule="hub.xet") from None


def _check_session(hub: Hub, request: Request, session_id: str) -> dict[str, Any]:
    claims = _claims(hub, request)
    with hub.reading() as session:
        upload = xet_sessions.get(session, session_id, claims["repo"], claims["caller"])
        if upload.received_bytes > hub.limits.org_quota_bytes:
            raise Forbidden("The upload is larger than the quota.", code="quota_exceeded")
    return claims


def _count(hub: Hub, session_id: str, more_bytes: int) -> None:
    with hub.database.session() as session:
        xet_sessions.received(session, session_id, more_bytes, now_us=hub.clock())


async def _put_xorb(hub: Hub, request: Request, session_id: str, xorb: str) -> Response:
    await run_in_threadpool(_check_session, hub, request, session_id)
    folder = xet_sessions.folder(hub.store, session_id)
    target = xorb_path(folder, xorb)
    folder.mkdir(parents=True, exist_ok=True)
    coming = folder / new_id("in")
    written = 0
    try:
        with coming.open("wb", buffering=0) as stream:

            def write(piece: bytes | memoryview) -> None:
                nonlocal written
                written += len(piece)
                if written > XORB_MAX_BYTES:
                    raise PayloadTooLarge("A xorb has at most 64 MiB.", rule="hub.xet")
                stream.write(piece)

            size = await receive(request, write)
        existed = target.exists()
        coming.rename(target)
    finally:
        coming.unlink(missing_ok=True)
    await run_in_threadpool(_count, hub, session_id, 0 if existed else size)
    return answer({"was_inserted": not existed})


def _missing(hub: Hub, repo_id: str, files: list[ShardFile]) -> list[ShardFile]:
    """Return the files that the repository has not; `Forbidden` before any is written when they do not
    fit: a few bytes of a shard can ask for the same chunks a million times.
    """
    by_digest = {wanted.sha256: wanted for wanted in files}
    for wanted in files:
        uploads.check_size(wanted.size_bytes, wanted.sha256, hub.limits)
    with hub.reading() as session:
        sizes = {sha256: wanted.size_bytes for sha256, wanted in by_digest.items()}
        uploads.check_room(session, hub, repo_id, sizes)
        done = registry.held(session, [repo_id], by_digest)
    return [wanted for sha256, wanted in by_digest.items() if sha256 not in done]


def _take_shard(hub: Hub, session_id: str, claims: dict[str, Any], body: bytes) -> Response:
    files = read_shard(body)
    folder = xet_sessions.folder(hub.store, session_id)
    maker = Reassembler(hub.store, folder, max_bytes=hub.limits.file_max_bytes)
    bodies: list[Staged] = []
    try:
        for wanted in _missing(hub, claims["repo"], files):
            staged = maker.file(wanted)
            bodies.append(staged)
        uploads.accept(hub, claims["repo"], bodies)
    finally:
        maker.close()
        for staged in bodies:
            staged.discard()
    with hub.database.session() as session:
        upload = xet_sessions.get(session, session_id, claims["repo"], claims["caller"])
        upload.closed_at_us = upload.touched_at_us = hub.clock()
    return answer({"result": 1})


def routes(hub: Hub) -> APIRouter:
    """Return the Xet endpoints."""
    router = new_router(hub)

    @router.get("/api/models/{ns}/{name}/xet-write-token/{rest:path}")
    def token(ns: str, name: str, request: Request) -> Response:
        return _token(hub, request, ns, name)

    @router.post("/_cas/{session_id}/v1/xorbs/default/{xorb}", include_in_schema=False)
    async def put_xorb(session_id: str, xorb: str, request: Request) -> Response:
        return await _put_xorb(hub, request, session_id, xorb)

    @router.post("/_cas/{session_id}/v1/shards", include_in_schema=False)
    async def put_shard(session_id: str, request: Request) -> Response:
        claims = await run_in_threadpool(_check_session, hub, request, session_id)
        body = await read_body(request, SHARD_MAX_BYTES)
        return await run_in_threadpool(_take_shard, hub, session_id, claims, body)

    @router.api_route("/_cas/{rest:path}", methods=["GET", "HEAD", "POST"], include_in_schema=False)
    def not_served(rest: str) -> Response:
        raise NotFound(f"{rest.partition('/')[2]} is not served; go on without.", rule="hub.xet")

    return router
