"""Branches, tags, pull requests."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from catalog.ground.clock import to_iso
from catalog.hub import access, pulls, refs, wire
from catalog.hub.tables import Pull, Repo
from catalog.hub.web import (
    Hub,
    JsonObject,
    answer,
    flag,
    new_router,
    raw_segments,
    revision_and_path,
    text_field,
)


def _refs(hub: Hub, request: Request, ns: str, name: str) -> Response:
    caller = hub.caller(request)
    with hub.reading() as session:
        repo = access.readable(session, ns, name, caller, hub.gate)
        found = refs.list_refs(session, repo)
    groups: dict[str, list[dict[str, Any]]] = {"heads": [], "tags": [], "pr": []}
    for ref in found:
        # refs/releases/* hold releases fast; the clients know no such kind.
        groups.setdefault(ref.name.split("/")[1], []).append(wire.ref_item(ref))
    document = {"branches": groups["heads"], "converts": [], "tags": groups["tags"]}
    if flag(request.query_params.get("include_prs")):
        document["pullRequests"] = groups["pr"]
    return answer(document)


def _create_ref(
    hub: Hub, request: Request, ns: str, name: str, full: str, start: str, message: str = ""
) -> Response:
    caller = hub.known_caller(request)
    with hub.database.session() as session:
        repo = access.changing(session, ns, name, caller)
        commit = refs.resolve(session, repo, start)
        ref = refs.create(session, repo, full, commit, now_us=hub.clock(), message=message)
    return answer(wire.ref_item(ref))


def _delete_ref(hub: Hub, request: Request, ns: str, name: str, full: str) -> Response:
    caller = hub.known_caller(request)
    with hub.database.session() as session:
        refs.delete(session, access.changing(session, ns, name, caller), full)
    return answer({"ok": True})


def _details(repo: Repo, pull: Pull) -> dict[str, Any]:
    opening = {
        "id": f"{pull.number}-0",
        "type": "comment",
        "createdAt": to_iso(pull.created_at_us),
        "author": {"name": pull.author},
        "data": {"edited": False, "hidden": False, "latest": {"raw": pull.description}},
    }
    changes = {"base": pull.target, "mergeCommitId": pull.merge_oid}
    return wire.pull_item(repo, pull) | {
        "events": [opening],
        "filesWithConflicts": [],
        "changes": changes,
        "diffUrl": None,
    }


def _open_pull(hub: Hub, request: Request, ns: str, name: str, body: dict[str, Any]) -> Response:
    caller = hub.known_caller(request)
    with hub.database.session() as session:
        repo = access.changing(session, ns, name, caller)
        pull, _ = pulls.open_pull(
            session,
            repo,
            "main",
            caller,
            title=text_field(body, "title"),
            description=text_field(body, "description", ""),
            draft=True,
            now_us=hub.clock(),
        )
    url = f"{hub.base_url(request)}/{repo.full_name}/discussions/{pull.number}"
    return answer(wire.pull_item(repo, pull) | {"url": url, "pullRequest": True})


def _list_pulls(hub: Hub, request: Request, ns: str, name: str) -> Response:
    caller = hub.caller(request)
    with hub.reading() as session:
        repo = access.readable(session, ns, name, caller, hub.gate)
        found = [wire.pull_item(repo, pull) for pull in pulls.listed(session, repo)]
    return answer(
        {"discussions": found, "count": len(found), "start": 0, "numClosedDiscussions": 0}
    )


def _change_pull(
    hub: Hub, request: Request, ns: str, name: str, number: int, body: dict[str, Any] | None
) -> Response:
    caller = hub.known_caller(request)
    with hub.database.session() as session:
        repo = access.changing(session, ns, name, caller)
        pull = pulls.get(session, repo, number)
        if body is None:
            pulls.merge(session, hub.store, repo, pull, caller, now_us=hub.clock())
        else:
            pulls.set_status(pull, text_field(body, "status"))
    data = {"status": pull.status}
    return answer(
        {
            "newStatus": {
                "id": f"{pull.number}-1",
                "type": "status-change",
                "createdAt": to_iso(hub.clock()),
                "author": {"name": caller.name},
                "data": data,
            },
            **data,
        }
    )


def routes(hub: Hub) -> APIRouter:
    """Return the endpoints for refs and pull requests."""
    router = new_router(hub)
    _add_refs(router, hub)
    _add_pulls(router, hub)
    return router


def _add_refs(router: APIRouter, hub: Hub) -> None:
    @router.get("/api/models/{ns}/{name}/refs")
    def list_refs(ns: str, name: str, request: Request) -> Response:
        return _refs(hub, request, ns, name)

    @router.post("/api/models/{ns}/{name}/branch/{rest:path}")
    def create_branch(ns: str, name: str, request: Request, body: JsonObject) -> Response:
        start = text_field(body, "startingPoint", "main")
        full = f"refs/heads/{'/'.join(_rest(request))}"
        return _create_ref(hub, request, ns, name, full, start)

    @router.delete("/api/models/{ns}/{name}/branch/{rest:path}")
    def delete_branch(ns: str, name: str, request: Request) -> Response:
        return _delete_ref(hub, request, ns, name, f"refs/heads/{'/'.join(_rest(request))}")

    @router.post("/api/models/{ns}/{name}/tag/{rest:path}")
    def create_tag(ns: str, name: str, request: Request, body: JsonObject) -> Response:
        start, _ = revision_and_path(request, 5)
        full = f"refs/tags/{text_field(body, 'tag')}"
        message = text_field(body, "message", "")
        return _create_ref(hub, request, ns, name, full, start, message)

    @router.delete("/api/models/{ns}/{name}/tag/{rest:path}")
    def delete_tag(ns: str, name: str, request: Request) -> Response:
        return _delete_ref(hub, request, ns, name, f"refs/tags/{'/'.join(_rest(request))}")


def _rest(request: Request) -> list[str]:
    return raw_segments(request)[5:]


def _add_pulls(router: APIRouter, hub: Hub) -> None:
    @router.get("/api/models/{ns}/{name}/discussions")
    def list_pulls(ns: str, name: str, request: Request) -> Response:
        return _list_pulls(hub, request, ns, name)

    @router.post("/api/models/{ns}/{name}/discussions")
    def open_pull(ns: str, name: str, request: Request, body: JsonObject) -> Response:
        return _open_pull(hub, request, ns, name, body)

    @router.get("/api/models/{ns}/{name}/discussions/{number}")
    def details(ns: str, name: str, number: int, request: Request) -> Response:
        caller = hub.caller(request)
        with hub.reading() as session:
            repo = access.readable(session, ns, name, caller, hub.gate)
            return answer(_details(repo, pulls.get(session, repo, number)))

    @router.post("/api/models/{ns}/{name}/discussions/{number}/merge")
    def merge(ns: str, name: str, number: int, request: Request) -> Response:
        return _change_pull(hub, request, ns, name, number, None)

    @router.post("/api/models/{ns}/{name}/discussions/{number}/status")
    def set_status(ns: str, name: str, number: int, request: Request, body: JsonObject) -> Response:
        return _change_pull(hub, request, ns, name, number, body)
