"""Looking around in a revision: tree, paths-info, history."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from catalog.ground.errors import BadRequest, NotFound
from catalog.hub import access, answers, history, refs, trees, wire
from catalog.hub.tables import Commit, Repo
from catalog.hub.trees import PathEntry
from catalog.hub.web import Hub, answer, flag, new_router, page_link, read_body, revision_and_path

_PATHS_MAX = 1_000
_COMMITS_A_PAGE = 50


def entry_not_found(path: str, commit: Commit) -> NotFound:
    """Return the answer for a path that is not in a revision; clients remember it by the commit."""
    return NotFound(
        f"{path} does not exist at revision {commit.oid}.",
        code="entry_not_found",
        rule="hub.paths",
        details={answers.REPO_COMMIT: commit.oid},
    )


def _below(
    session: Session, repo: Repo, commit: Commit, path: str, recursive: bool
) -> Iterator[PathEntry]:
    found = trees.lookup(session, repo.id, commit.tree_oid, path)
    if found is None or found.kind != "directory":
        raise entry_not_found(path, commit)
    prefix = f"{path}/" if path else ""
    return trees.walk(session, repo.id, found.oid, prefix=prefix, recursive=recursive)


def _tree(hub: Hub, request: Request, ns: str, name: str) -> Response:
    caller = hub.caller(request)
    asked = request.query_params
    revision, path = revision_and_path(request, 5)
    expand = flag(asked.get("expand"))
    most = hub.limits.page_expanded if expand else hub.limits.page_entries
    try:
        size = max(1, min(most, int(asked.get("limit") or most)))
        first = min(max(0, int(asked.get("cursor") or 0)), hub.limits.repo_files_max * 2)
    except ValueError:
        raise BadRequest("'limit' and 'cursor' are whole numbers.") from None
    with hub.reading() as session:
        repo = access.readable(session, ns, name, caller, hub.gate)
        commit = refs.resolve(session, repo, revision)
        found = _below(session, repo, commit, path, flag(asked.get("recursive")))
        items = list(islice(found, first, first + size + 1))
        paths = [item.path for item in items[:size]]
        last = history.last_changes(session, commit, paths) if expand else {}
    link = page_link(hub, request, cursor=first + size) if len(items) > size else {}
    documents = [wire.tree_item(item, last.get(item.path)) for item in items[:size]]
    return answer(documents, headers={"X-Repo-Commit": commit.oid, **link})


def _paths_info(hub: Hub, request: Request, ns: str, name: str, body: bytes) -> Response:
    caller = hub.caller(request)
    revision, _ = revision_and_path(request, 5)
    try:
        asked = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_PATHS_MAX + 5)
    except ValueError:
        raise BadRequest(f"Ask for at most {_PATHS_MAX} paths at once.", rule="hub.body") from None
    expand = flag(asked.get("expand", [""])[0])
    with hub.reading() as session:
        repo = access.readable(session, ns, name, caller, hub.gate)
        commit = refs.resolve(session, repo, revision)
        found = {
            path: trees.lookup(session, repo.id, commit.tree_oid, path.strip("/"))
            for path in asked.get("paths", [])
        }
        items = [PathEntry(path, entry) for path, entry in found.items() if entry is not None]
        last = (
            history.last_changes(session, commit, [item.path for item in items]) if expand else {}
        )
    return answer([wire.tree_item(item, last.get(item.path)) for item in items])


def _commits(hub: Hub, request: Request, ns: str, name: str) -> Response:
    caller = hub.caller(request)
    revision, _ = revision_and_path(request, 5)
    cursor = request.query_params.get("cursor")
    with hub.reading() as session:
        repo = access.readable(session, ns, name, caller, hub.gate)
        start = refs.resolve(session, repo, cursor or revision)
        found = list(islice(history.ancestors(session, start), _COMMITS_A_PAGE + 1))
    link = page_link(hub, request, cursor=found[-1].oid) if len(found) > _COMMITS_A_PAGE else None
    return answer([wire.commit_item(commit) for commit in found[:_COMMITS_A_PAGE]], headers=link)


def routes(hub: Hub) -> APIRouter:
    """Return the endpoints that read trees and history."""
    router = new_router(hub)

    @router.get("/api/models/{ns}/{name}/tree/{rest:path}")
    def tree(ns: str, name: str, request: Request) -> Response:
        return _tree(hub, request, ns, name)

    @router.post("/api/models/{ns}/{name}/paths-info/{rest:path}")
    async def paths_info(ns: str, name: str, request: Request) -> Response:
        body = await read_body(request)
        return await run_in_threadpool(_paths_info, hub, request, ns, name, body)

    @router.get("/api/models/{ns}/{name}/commits/{rest:path}")
    def commits(ns: str, name: str, request: Request) -> Response:
        return _commits(hub, request, ns, name)

    return router
