"""Whose listing may be seen, his files may be read, and nobody else's."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from sqlmodel import Session
from support.market import Market

from catalog.listings.actors import Actor
from catalog.listings.schemas import ListingDraft
from catalog.listings.service import create, move
from catalog.listings.states import Part
from marketplace.members.tables import Organisation


def ask(market: Market, path: str, key: str | None, body: bytes | None = None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(market.url + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@contextmanager
def writing(market: Market) -> Iterator[Session]:
    database = market.database
    try:
        with database.session() as session:
            yield session
    finally:
        database.dispose()


def test_a_park_listings_files_are_for_members(market: Market) -> None:
    org_id, owner = market.organisation()
    _, member = market.organisation()
    with writing(market) as session:
        slug = f"{session.get_one(Organisation, org_id).slug}/model"
    assert ask(market, "/api/repos/create", owner, json.dumps({"name": slug}).encode()) == 200
    content = base64.b64encode(b"words").decode()
    value = {"path": "x.txt", "content": content, "encoding": "base64"}
    lines = [{"key": "header", "value": {"summary": "t"}}, {"key": "file", "value": value}]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    assert ask(market, f"/api/models/{slug}/commit/main", owner, body) == 200

    def seen() -> list[tuple[int, ...]]:
        pages = (f"/api/listings/{slug}", f"/{slug}/resolve/main/x.txt")
        return [tuple(ask(market, page, key) for page in pages) for key in (None, member)]

    developer = Actor("dev", frozenset({Part.DEVELOPER}))
    operator = Actor("operator", frozenset({Part.OPERATOR}))
    draft = ListingDraft(
        slug=slug,
        kind="model",
        tier="park",
        title_zh="测试",
        title_en="Test",
        summary_zh="测试用",
        card_zh="测试",
        vertical="general",
        licence="Apache-2.0",
        context_length=256,
        max_output_tokens=64,
    )
    assert seen() == [(404, 403), (404, 403)]
    with writing(market) as session:
        create(session, developer, draft, owner_org=org_id)
        move(session, developer, slug, "submit")
        move(session, operator, slug, "override", reason="test")
        move(session, operator, slug, "list")
    assert seen() == [(404, 403), (200, 200)]
    with writing(market) as session:
        move(session, operator, slug, "suspend", reason="test")
    assert seen() == [(404, 403), (404, 403)]
