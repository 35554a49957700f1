"""The API of keys: made, listed and revoked by whoever manages an organisation."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from sqlmodel import Session

from catalog.ground.errors import Forbidden, NotFound
from catalog.ground.identity import Caller
from marketplace.members import keys
from marketplace.members.door import Authorization, Door, Signed, told
from marketplace.members.four_eyes import Act
from marketplace.members.organisations import organisation
from marketplace.members.projects import project
from marketplace.members.schemas import KeyBody
from marketplace.members.tables import ApiKey


def keys_routes(router: APIRouter, door: Door) -> None:
    """Add the routes."""

    @router.get("/organisations/{org}/keys")
    def list_keys(org: str, authorization: Authorization = None) -> dict[str, Any]:
        """List an organisation's keys by their first letters, newest first."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            found = keys.list_keys(session, organisation(session, org).id)
            return {"data": [_key(key) for key in found], "next": None}

    @router.post("/organisations/{org}/keys", status_code=201)
    def create(org: str, body: KeyBody, signed: Signed) -> Any:
        """Make a key. It is shown in this answer only; a repeat gets the row without it."""
        shown: list[str] = []

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            if body.operator and not caller.is_operator:
                raise Forbidden("Only an operator makes an operator.", rule="key.operator")
            org_id = organisation(session, org).id
            key, secret = keys.create_key(
                session,
                org_id,
                body.name,
                at_us,
                operator=body.operator,
                member=body.member,
                project_id=project(session, org_id, body.project).id if body.project else "",
                listings=body.listings,
                cidrs=body.cidrs,
                rpm=body.rpm,
                tpm=body.tpm,
                concurrency=body.concurrency,
                daily_u=body.daily_u,
                monthly_u=body.monthly_u,
                expires_at_us=body.expires_at_us,
            )
            shown.append(secret)
            return _key(key)

        answer = door.write(signed, Act.KEYS, body.plain(), work, org)
        # The key itself stays out of the kept answer: the database knows only its hash.
        return answer | {"key": shown[0] if shown else None}

    @router.post("/organisations/{org}/keys/{key_id}/revoke")
    def revoke(org: str, key_id: str, signed: Signed) -> Any:
        """Revoke a key by its id; gateways refuse it at once."""

        def work(session: Session, _caller: Caller, at_us: int) -> Any:
            key = session.get(ApiKey, key_id)
            if key is None or key.org_id != organisation(session, org).id:
                raise NotFound(f"There is no key {key_id!r}.", rule="key.exists")
            return _key(keys.revoke_key(session, key.id, at_us))

        return door.write(signed, Act.KEYS, {}, work, org)


def _key(row: ApiKey) -> dict[str, Any]:
    """Return a key as its organisation may see it: not even its hash."""
    shown = told(row)
    del shown["sha256"]
    for name in ("listings", "cidrs"):
        shown[name] = None if shown[name] is None else json.loads(shown[name])
    return shown
