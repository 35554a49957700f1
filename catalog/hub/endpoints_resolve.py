"""Files: `/{org}/{name}/resolve/{revision}/{path}`, no redirect, the body from here."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from catalog.ground.errors import InternalError
from catalog.hub import access, refs, trees
from catalog.hub.endpoints_tree import entry_not_found
from catalog.hub.serve_blob import BlobResponse, Span, Unsatisfiable, parse_range
from catalog.hub.web import Hub, new_router, revision_and_path


class _Found(NamedTuple):
    repo_id: str
    commit_oid: str
    path: str
    sha256: str
    size_bytes: int
    etag: str


def _find(hub: Hub, request: Request, ns: str, name: str) -> _Found:
    caller = hub.caller(request)
    revision, path = revision_and_path(request, 3)
    with hub.reading() as session:
        repo = access.readable(session, ns, name, caller, hub.gate)
        commit = refs.resolve(session, repo, revision)
        entry = trees.lookup(session, repo.id, commit.tree_oid, path)
    if entry is None or entry.sha256 is None:
        raise entry_not_found(path, commit)
    etag = entry.sha256 if entry.is_lfs else entry.oid
    return _Found(repo.id, commit.oid, path, entry.sha256, entry.size_bytes, etag)


def _headers(found: _Found) -> dict[str, str]:
    name = quote(found.path.rpartition("/")[2])
    return {
        "ETag": f'"{found.etag}"',
        "X-Repo-Commit": found.commit_oid,
        "X-Linked-Size": str(found.size_bytes),
        "X-Linked-Etag": f'"{found.etag}"',
        "Accept-Ranges": "bytes",
        # Files are strangers' work on our origin: no browser may run them as a page of ours.
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache, no-transform",
    }


def _span(request: Request, found: _Found) -> Span | None:
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip('"') != found.etag:
        return None
    return parse_range(request.headers.get("range"), found.size_bytes)


def _open(hub: Hub, found: _Found, span: Span | None, headers: dict[str, str]) -> Response:
    try:
        reader = hub.store.open(found.sha256)
    except FileNotFoundError:
        raise InternalError(
            "The file's content is missing here; the operator has to look."
        ) from None
    if span is None:
        return BlobResponse(reader, Span(0, found.size_bytes), 200, headers)
    headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{found.size_bytes}"
    return BlobResponse(reader, span, 206, headers)


def _accelerated(hub: Hub, found: _Found, headers: dict[str, str]) -> Response | None:
    place = hub.store.local_path(found.sha256)
    if hub.accel_prefix is None or place is None:
        return None
    inside = "/".join(place.parts[-3:])
    return Response(headers=headers | {"X-Accel-Redirect": f"{hub.accel_prefix}/{inside}"})


def _answer(hub: Hub, request: Request, found: _Found) -> Response:
    headers = _headers(found)
    if request.headers.get("if-none-match", "").strip('W/"') == found.etag:
        return Response(status_code=304, headers=headers)
    try:
        span = _span(request, found)
    except Unsatisfiable:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{found.size_bytes}"})
    if request.method == "HEAD":
        size = found.size_bytes
        return Response(headers=headers | {"Content-Length": str(size)})
    if request.headers.get("x-hf-download-counter") and (span is None or span.start == 0):
        hub.downloads.count(found.repo_id)
    return _accelerated(hub, found, headers) or _open(hub, found, span, headers)


def routes(hub: Hub) -> APIRouter:
    """Return the endpoint that sends files."""
    router = new_router(hub)

    # Two routes, because each operation of the API description needs a name of its own.
    @router.head("/{ns}/{name}/resolve/{rest:path}", operation_id="resolve_head")
    @router.get("/{ns}/{name}/resolve/{rest:path}", operation_id="resolve")
    async def resolve(ns: str, name: str, request: Request) -> Response:
        found = await run_in_threadpool(_find, hub, request, ns, name)
        return await run_in_threadpool(_answer, hub, request, found)

    # Names without an organisation are the other hub's: say what is wrong where the clients look for it.
    @router.get("/api/models/{name}", include_in_schema=False)
    @router.get("/api/models/{name}/revision/{rest:path}", include_in_schema=False)
    @router.get("/api/models/{name}/tree/{rest:path}", include_in_schema=False)
    @router.get("/{name}/resolve/{rest:path}", include_in_schema=False)
    @router.head("/{name}/resolve/{rest:path}", include_in_schema=False)
    def nameless(name: str) -> Response:
        raise access.repo_not_found(name)

    return router
