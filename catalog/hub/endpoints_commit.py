"""Preupload and commit: which way each file should come, and the moment it becomes visible."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from catalog.ground.errors import BadRequest
from catalog.hub import access, commits, names, pulls, refs, trees, uploads
from catalog.hub.changes import CommitRequest
from catalog.hub.commit_body import CommitReader
from catalog.hub.identity import Caller
from catalog.hub.limits import HubLimits
from catalog.hub.web import (
    Hub,
    JsonObject,
    answer,
    flag,
    new_router,
    objects_field,
    revision_and_path,
    text_field,
)


def upload_mode(sample: bytes, size_bytes: int, limits: HubLimits) -> str:
    """Return `regular` for a small text file, which rides in the commit, and `lfs` for all others."""
    if size_bytes == 0:
        return "regular"
    if size_bytes > limits.regular_max_bytes or b"\0" in sample:
        return "lfs"
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        # The sample may end in the middle of a letter; anything else is not text.
        return "regular" if error.end == len(sample) and len(sample) - error.start < 4 else "lfs"
    return "regular"


def _described(item: dict[str, Any]) -> tuple[str, int, bytes]:
    path, size = text_field(item, "path"), item.get("size")
    if not isinstance(size, int) or size < 0:
        raise BadRequest("'size' must be a whole number.", param="size", rule="hub.body")
    try:
        sample = base64.b64decode(text_field(item, "sample", ""))
    except ValueError:
        raise BadRequest("'sample' is not base64.", param="sample", rule="hub.body") from None
    return names.check_path(path), size, sample


def _preupload(hub: Hub, request: Request, ns: str, name: str, body: dict[str, Any]) -> Response:
    caller = hub.known_caller(request)
    revision, _ = revision_and_path(request, 5)
    described = [_described(item) for item in objects_field(body, "files")]
    items = []
    with hub.reading() as session:
        repo = access.writable(session, ns, name, caller)
        commit = refs.resolve(session, repo, revision)
        uploads.expect_room(session, repo, [size for _, size, _ in described], hub.limits)
        for path, size, sample in described:
            uploads.check_size(size, path, hub.limits)
            mode = upload_mode(sample, size, hub.limits)
            item = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            entry = trees.lookup(session, repo.id, commit.tree_oid, path)
            if entry is not None and entry.kind == "file":
                item["oid"] = entry.sha256 if entry.is_lfs else entry.oid
            items.append(item)
    return answer({"files": items, "commitOid": commit.oid})


def _prepare(
    hub: Hub, ns: str, name: str, caller: Caller, revision: str, wanted: CommitRequest, *, pr: bool
) -> dict[str, str]:
    """Do what takes long before the writing transaction begins, and refuse what can be known by then."""
    with hub.reading() as session:
        repo = access.writable(session, ns, name, caller)
        if not pr:
            commits.target_ref(session, repo, revision, wanted)
        commits.check_room(session, hub.bench(), repo, wanted)
        parameters = commits.check_weights(session, hub.bench(), repo, wanted, caller)
    for change in wanted.small:
        hub.store.publish(change.staged)
    return parameters


def _commit(
    hub: Hub, request: Request, ns: str, name: str, caller: Caller, wanted: CommitRequest
) -> Response:
    revision, _ = revision_and_path(request, 5)
    create_pr = flag(request.query_params.get("create_pr"))
    parameters = _prepare(hub, ns, name, caller, revision, wanted, pr=create_pr)
    pull = None
    with hub.database.session() as session:
        repo = access.changing(session, ns, name, caller)
        if create_pr:
            pull, _ = pulls.open_pull(
                session,
                repo,
                revision,
                caller,
                title=wanted.title,
                description=wanted.description,
                draft=False,
                now_us=hub.clock(),
            )
            revision = f"refs/pr/{pull.number}"
        ref = commits.target_ref(session, repo, revision, wanted)
        made = commits.commit(
            session, hub.bench(), repo, ref, wanted, caller, parameters=parameters
        )
    url = f"{hub.base_url(request)}/{repo.full_name}"
    document = {"success": True, "commitOid": made.oid, "commitUrl": f"{url}/commit/{made.oid}"}
    if pull is not None:
        document["pullRequestUrl"] = f"{url}/discussions/{pull.number}"
    return answer(document)


def _check_writer(hub: Hub, request: Request, ns: str, name: str) -> Caller:
    caller = hub.known_caller(request)
    with hub.reading() as session:
        access.writable(session, ns, name, caller)
    return caller


def routes(hub: Hub) -> APIRouter:
    """Return preupload and commit."""
    router = new_router(hub)

    @router.post("/api/models/{ns}/{name}/preupload/{rest:path}")
    def preupload(ns: str, name: str, request: Request, body: JsonObject) -> Response:
        return _preupload(hub, request, ns, name, body)

    @router.post("/api/models/{ns}/{name}/commit/{rest:path}")
    async def commit(ns: str, name: str, request: Request) -> Response:
        # Who is asking comes before what: a stranger's body is not even read.
        caller = await run_in_threadpool(_check_writer, hub, request, ns, name)
        reader = CommitReader(hub.store, hub.limits)
        try:
            async for piece in request.stream():
                await run_in_threadpool(reader.feed, piece)
            wanted = await run_in_threadpool(reader.finish)
            return await run_in_threadpool(_commit, hub, request, ns, name, caller, wanted)
        finally:
            reader.request.discard()

    return router
