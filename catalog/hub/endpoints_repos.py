"""Repositories: create, delete, move, settings, list, info."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.responses import Response

from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.hub import access, refs, repos, trees, wire
from catalog.hub.identity import Caller
from catalog.hub.tables import Repo
from catalog.hub.web import (
    Hub,
    JsonObject,
    answer,
    flag,
    new_router,
    page_link,
    revision_and_path,
    text_field,
)

_LIST_MAX = 1_000


def _named(body: dict[str, Any], caller: Caller) -> tuple[str, str]:
    """Return organisation and name that a body asks for; without the first it is the caller's own."""
    org, _, name = text_field(body, "name").rpartition("/")
    return org or text_field(body, "organization", "") or repos.default_org(caller), name


def _check_type(body: dict[str, Any]) -> None:
    if body.get("type") not in (None, "", "model"):
        raise NotFound(
            f"This hub keeps models only, no {body['type']!r}.",
            code="repo_type_unsupported",
            rule="hub.repo_type",
        )


def _wants_private(body: dict[str, Any], default: bool) -> bool:
    visibility = body.get("visibility")
    if visibility is not None:
        if visibility not in ("public", "private"):
            raise BadRequest("'visibility' is public or private.", param="visibility")
        return bool(visibility == "private")
    return flag(body["private"]) if body.get("private") is not None else default


def _gated(value: object) -> str:
    if value in ("auto", "manual"):
        return str(value)
    if value in (False, None):
        return ""
    raise BadRequest("'gated' is auto, manual or false.", param="gated")


def _create(hub: Hub, request: Request, body: dict[str, Any]) -> Response:
    _check_type(body)
    caller = hub.known_caller(request)
    org, name = _named(body, caller)
    with hub.reading() as session:
        taken = access.find_repo(session, org, name)
    if taken is not None and access.may_see(taken, caller):
        return _taken(hub, request, taken.full_name)
    access.check_role(org, caller)
    private = _wants_private(body, default=False)
    try:
        with hub.database.session() as session:
            repo = repos.create(session, org, name, caller, private=private, now_us=hub.clock())
    except Conflict:  # somebody was faster; who may write to `org` may see it
        return _taken(hub, request, f"{org}/{name}")
    url = f"{hub.base_url(request)}/{repo.full_name}"
    return answer({"url": url, "name": repo.full_name, "id": repo.id})


def _taken(hub: Hub, request: Request, full_name: str) -> Response:
    # The clients read `url` on this path too, so it is an answer of its own and no bare error.
    words = f"You already created this model repo: {full_name}"
    document = {
        "error": words,
        "url": f"{hub.base_url(request)}/{full_name}",
        "name": full_name,
    }
    return answer(document, 409, {"X-Error-Message": words, "X-Error-Code": "RepoExists"})


def _delete(hub: Hub, request: Request, body: dict[str, Any]) -> Response:
    _check_type(body)
    caller = hub.known_caller(request)
    org, name = _named(body, caller)
    with hub.database.session() as session:
        repos.remove(session, access.changing(session, org, name, caller, admin=True))
    return answer({"ok": True})


def _move(hub: Hub, request: Request, body: dict[str, Any]) -> Response:
    _check_type(body)
    caller = hub.known_caller(request)
    source_org, _, source = text_field(body, "fromRepo").partition("/")
    org, _, name = text_field(body, "toRepo").partition("/")
    with hub.database.session() as session:
        repo = access.changing(session, source_org, source, caller, admin=True)
        access.check_role(org, caller, admin=True)
        repos.move(session, repo, org, name)
    return answer({"url": f"{hub.base_url(request)}/{org}/{name}"})


def _settings(hub: Hub, request: Request, ns: str, name: str, body: dict[str, Any]) -> Response:
    caller = hub.known_caller(request)
    with hub.database.session() as session:
        repo = access.changing(session, ns, name, caller, admin=True)
        repo.private = _wants_private(body, default=repo.private)
        if "gated" in body:
            repo.gated = _gated(body["gated"])
        session.add(repo)
    return answer({"private": repo.private, "gated": repo.gated or False})


def _query(request: Request) -> repos.Query:
    asked = request.query_params
    tags = [*asked.getlist("filter"), *asked.getlist("pipeline_tag")]
    try:
        limit = min(_LIST_MAX, int(asked.get("limit") or _LIST_MAX))
        offset = max(0, int(asked.get("cursor") or 0))
    except ValueError:
        raise BadRequest("'limit' and 'cursor' are whole numbers.") from None
    return repos.Query(
        search=asked.get("search") or "",
        author=asked.get("author") or "",
        tags=tuple(tag for tag in ",".join(tags).split(",") if tag),
        sort=asked.get("sort") or "lastModified",
        limit=max(1, limit),
        offset=offset,
    )


def _list(hub: Hub, request: Request) -> Response:
    caller, query = hub.caller(request), _query(request)
    with hub.reading() as session:
        found = repos.find(session, query, caller)
        items = [
            _list_item(session, repo, request)
            if access.refused(session, repo, caller, hub.gate) is None
            else wire.repo_item(repo, inside=False)
            for repo in found[: query.limit]
        ]
    items = [item for item in items if set(query.tags) <= set(item["tags"])]
    more = len(found) > query.limit
    link = page_link(hub, request, cursor=query.offset + query.limit) if more else None
    return answer(items, headers=link)


def _list_item(session: Session, repo: Repo, request: Request) -> dict[str, Any]:
    document = wire.repo_item(repo)
    if flag(request.query_params.get("full")) or "siblings" in request.query_params.getlist(
        "expand"
    ):
        head = refs.resolve(session, repo, refs.MAIN)
        files = trees.files(session, repo.id, head.tree_oid)
        document |= wire.model_info(repo, head, files, blobs=False)
    return document


def _info(hub: Hub, request: Request, ns: str, name: str, revision: str) -> Response:
    caller: Caller | None = hub.caller(request)
    with hub.reading() as session:
        repo = access.readable(session, ns, name, caller, hub.gate)
        commit = refs.resolve(session, repo, revision)
        files = trees.files(session, repo.id, commit.tree_oid)
    blobs = flag(request.query_params.get("blobs"))
    document = wire.model_info(repo, commit, files, blobs=blobs)
    if flag(request.query_params.get("securityStatus")):
        document["securityRepoStatus"] = {"scansDone": False, "filesWithIssues": []}
    return answer(document)


def routes(hub: Hub) -> APIRouter:
    """Return the endpoints for repositories as a whole."""
    router = new_router(hub)

    @router.post("/api/repos/create")
    def create(request: Request, body: JsonObject) -> Response:
        return _create(hub, request, body)

    @router.delete("/api/repos/delete")
    def delete(request: Request, body: JsonObject) -> Response:
        return _delete(hub, request, body)

    @router.post("/api/repos/move")
    def move(request: Request, body: JsonObject) -> Response:
        return _move(hub, request, body)

    @router.put("/api/models/{ns}/{name}/settings")
    def settings(ns: str, name: str, request: Request, body: JsonObject) -> Response:
        return _settings(hub, request, ns, name, body)

    @router.get("/api/models")
    def list_models(request: Request) -> Response:
        return _list(hub, request)

    @router.get("/api/models/{ns}/{name}")
    def info(ns: str, name: str, request: Request) -> Response:
        return _info(hub, request, ns, name, "main")

    @router.get("/api/models/{ns}/{name}/revision/{rest:path}")
    def info_at(ns: str, name: str, request: Request) -> Response:
        revision, _ = revision_and_path(request, 5)
        return _info(hub, request, ns, name, revision)

    return router
