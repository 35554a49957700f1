"""Who am I, and the small questions the clients ask beside their work."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from catalog.ground.errors import NotFound
from catalog.hub import access, cards
from catalog.hub.identity import WRITERS
from catalog.hub.web import Hub, JsonObject, answer, new_router


def routes(hub: Hub) -> APIRouter:
    """Return whoami, auth-check, validate-yaml and the answers to telemetry."""
    router = new_router(hub)

    @router.get("/api/whoami-v2")
    def whoami(request: Request) -> Response:
        caller = hub.known_caller(request)
        orgs = [
            {"type": "org", "name": slug, "roleInOrg": caller.orgs[slug]} for slug in caller.orgs
        ]
        writes = caller.is_operator or any(role in WRITERS for role in caller.orgs.values())
        key = {"role": "write" if writes else "read", "displayName": caller.name}
        return answer(
            {
                "type": "user",
                "id": caller.name,
                "name": caller.name,
                "fullname": caller.name,
                "orgs": orgs,
                "auth": {"type": "access_token", "accessToken": key},
            }
        )

    @router.post("/api/validate-yaml")
    def validate_yaml(body: JsonObject) -> Response:
        try:
            cards.parse(str(body.get("content") or ""))
        except cards.CardError as error:
            return answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return answer({"errors": [], "warnings": []})

    @router.get("/api/models/{ns}/{name}/auth-check")
    def check_read(ns: str, name: str, request: Request) -> Response:
        caller = hub.caller(request)
        with hub.reading() as session:
            access.readable(session, ns, name, caller, hub.gate)
        return answer({"ok": True})

    @router.get("/api/models/{ns}/{name}/auth-check/write")
    def check_write(ns: str, name: str, request: Request) -> Response:
        caller = hub.caller(request)
        with hub.reading() as session:
            access.writable(session, ns, name, caller)
        return answer({"ok": True})

    @router.get("/api/agent-harnesses", include_in_schema=False)
    def agent_harnesses() -> Response:
        return answer({"standardEnvVars": [], "harnesses": {}})

    @router.post("/v1/telemetry", include_in_schema=False)
    @router.head("/api/telemetry/{rest:path}", include_in_schema=False)
    def telemetry() -> Response:
        return Response(status_code=204)

    for kind in ("datasets", "spaces"):
        for place in (f"/api/{kind}", f"/{kind}"):
            path = place + "/{rest:path}"
            router.add_api_route(
                path,
                _unsupported,
                methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
                include_in_schema=False,
            )
    return router


def _unsupported(rest: str) -> Response:
    raise NotFound(
        f"This hub keeps models only; there is no dataset or space {rest.split('/resolve/')[0]}.",
        code="repo_type_unsupported",
        rule="hub.repo_type",
    )
