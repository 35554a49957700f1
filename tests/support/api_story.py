"""The marketplace API in one process, over a story's database and clock."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from support.voucher_story import Story

from catalog.ground.errors import TokenMartError
from catalog.ground.ids import new_id
from catalog.ground.rendering import render_problem
from marketplace.members.endpoints import members_router
from marketplace.members.keys import create_key
from marketplace.members.organisations import organisation
from marketplace.members.people import add_member
from marketplace.payouts.endpoints import payouts_router
from marketplace.reports.endpoints import reports_router
from marketplace.vouchers.endpoints import vouchers_router
from marketplace.vouchers.knowledge import kind_of_entry


class Api:
    """A client of the marketplace API, with a key for each visitor."""

    def __init__(self, story: Story) -> None:
        app = FastAPI()
        app.include_router(vouchers_router(story.database, clock=story.clock))
        app.include_router(members_router(story.database, kind_of_entry, clock=story.clock))
        app.include_router(reports_router(story.database, clock=story.clock))
        app.include_router(payouts_router(story.database, clock=story.clock))

        @app.exception_handler(TokenMartError)
        async def render(_: Request, error: Exception) -> Response:
            told = render_problem(error)
            return Response(told.body, told.status, told.headers)

        self.client = TestClient(app)
        self.story = story
        self.keys: dict[str, str] = {}

    def visitor(self, name: str, org: str, role: str = "", *, operator: bool = False) -> str:
        self.story.org(org)
        with self.story.database.session() as session:
            org_id = organisation(session, org).id
            add_member(session, org_id, name, role or "owner", "test", self.story.clock())
            key, secret = create_key(session, org_id, name, self.story.clock(), operator=operator)
            key.member = name
            session.add(key)
        self.keys[name] = secret
        return name

    def post(self, who: str, path: str, body: Any = None, key: str = "") -> Any:
        return self.client.post(
            f"/api{path}",
            json=body,
            headers={
                "Authorization": f"Bearer {self.keys[who]}",
                "Idempotency-Key": key or new_id("key"),
            },
        )

    def get(self, who: str, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.keys[who]}"} if who else {}
        return self.client.get(f"/api{path}", headers=headers)
