"""The doors: what a stranger, a member, the owner and the operator see and may do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from catalog.ground.database import Database
from catalog.ground.errors import TokenMartError
from catalog.ground.identity import Caller
from catalog.ground.rendering import render_problem
from catalog.listings import records, shelf
from catalog.listings.actors import system
from catalog.listings.endpoints import listings_router
from catalog.listings.schemas import VariantShown

PEOPLE = {
    None: None,
    "mei": Caller("mei", {"acme": "owner"}),
    "bo": Caller("bo", {"acme": "dev"}),
    "eve": Caller("eve", {"other": "owner"}),
    "ops": Caller("ops", is_operator=True),
}
PRICES = {"acme/writer": {"input_u_per_m": 2_500_000, "output_u_per_m": 10_000_000}}
DRAFT = {
    "slug": "acme/writer",
    "kind": "model",
    "tier": "public",
    "title_zh": "短剧写手",
    "title_en": "Drama writer",
    "summary_zh": "写短剧剧本的小模型",
    "card_zh": "# 写手\n\n<script>alert(1)</script> [点](javascript:alert(1)) 分镜",
    "vertical": "short-drama",
    "tasks": ["chat", "text-generation"],
    "languages": ["zh"],
    "licence": "Apache-2.0",
    "parameters": 500_000_000,
    "context_length": 4096,
    "max_output_tokens": 512,
}
ACME = "/api/listings/acme/writer"


async def _render(_: Request, error: Exception) -> Response:
    rendered = render_problem(error)
    return Response(rendered.body, rendered.status, rendered.headers)


@pytest.fixture
def client(database: Database) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(listings_router(database, lambda name: PEOPLE[name], PRICES.get))
    app.add_exception_handler(TokenMartError, _render)
    with TestClient(app) as client:
        yield client


def call(client: TestClient, who: str | None, method: str, path: str, **body: Any) -> Any:
    headers = {} if who is None else {"authorization": who}
    return client.request(method, path, headers=headers, json=body or None)


def test_the_story_of_a_listing(client: TestClient, database: Database) -> None:
    assert call(client, None, "POST", "/api/listings", **DRAFT).status_code == 401
    refused = call(client, "eve", "POST", "/api/listings", **DRAFT)
    assert (refused.status_code, refused.headers["content-type"]) == (
        403,
        "application/problem+json",
    )
    made = call(client, "bo", "POST", "/api/listings", **DRAFT)
    assert (made.status_code, made.json()["state"]) == (201, "draft")
    for who in (None, "eve"):  # what is not on offer does not exist for others
        assert call(client, who, "GET", ACME).status_code == 404
        assert call(client, who, "PATCH", ACME, title_zh="x").status_code in (401, 404)
    assert call(client, "bo", "PATCH", ACME, nonsense=1).status_code == 422
    changed = call(client, "bo", "PATCH", ACME, summary_en="Writes drama scripts")
    assert changed.json()["summary_en"] == "Writes drama scripts"

    assert call(client, "bo", "POST", f"{ACME}/submit", note="first").json()["state"] == "submitted"
    assert call(client, "bo", "POST", f"{ACME}/list").status_code == 409
    assert call(client, "bo", "POST", f"{ACME}/override", reason="me").status_code == 403
    assert call(client, "ops", "POST", f"{ACME}/override").status_code == 422
    passed = call(client, "ops", "POST", f"{ACME}/override", reason="pilot").json()
    assert passed["state"] == "approved"
    unfiled = call(client, "bo", "POST", f"{ACME}/list")
    assert unfiled.json()["rule"] == "listing.guard.filing_gate"
    filing = {"route": "full", "status": "granted", "number": "GD-1", "reason": "letter"}
    assert call(client, "mei", "PUT", f"{ACME}/filing", **filing).status_code == 403
    assert call(client, "ops", "PUT", f"{ACME}/filing", **filing).status_code == 200
    assert call(client, "bo", "POST", f"{ACME}/list").json()["state"] == "listed"

    with database.session() as session:
        variant = VariantShown(
            format="onnx", quant="int8", size_bytes=9, device="cpu", output_tokens_per_s=41.5
        )
        records.show_variants(session, system("bench"), "acme/writer", [variant])
        records.count_requests(session, {"acme/writer": 7})
        shelf.reprice(session, "acme/writer", PRICES["acme/writer"])
    _check_public(client)
    _check_end(client)


def _check_public(client: TestClient) -> None:
    page = call(client, None, "GET", ACME).json()
    assert "state" not in page
    assert "history" not in page
    assert page["filing"] == {"badge": "filed", "number": "GD-1"}
    assert [badge["id"] for badge in page["badges"]] == ["filed", "operator"]
    assert "<script" not in page["card_html_zh"]
    assert "javascript" not in page["card_html_zh"].replace("(javascript:alert(1))", "")
    assert page["variants"][0]["device"] == "cpu"
    assert page["pricing"]["prompt"] == "0.0000025"
    found = call(client, None, "GET", "/api/listings?q=短剧 分镜&vertical=short-drama").json()
    assert [row["slug"] for row in found["data"]] == ["acme/writer"]
    assert found["facets"]["vertical"] == [
        {"value": "short-drama", "count": 1, "zh": "短剧/短视频", "en": "Short drama and video"}
    ]
    counted = {name: values[0]["value"] for name, values in found["facets"].items()}
    assert counted | {"task": ""} == {
        "kind": "model", "tier": "public", "vertical": "short-drama", "task": "", "language": "zh",
        "licence": "Apache-2.0", "size": "to_1b", "device": "cpu", "price": "to_5", "filing": "filed",
    }  # fmt: skip
    assert found["data"][0]["popularity"] == 7
    assert call(client, None, "GET", "/api/listings?vertical=legal").json()["data"] == []
    assert call(client, None, "GET", "/api/listings?sort=beauty").status_code == 422
    model = call(client, None, "GET", "/api/v1/models").json()["data"][0]
    assert (model["id"], model["context_length"]) == ("acme/writer", 4096)
    assert model["pricing"]["completion"] == "0.00001"
    assert model["top_provider"]["max_completion_tokens"] == 512


def _check_end(client: TestClient) -> None:
    reason = {"reason": "complaint"}
    assert call(client, "eve", "POST", f"{ACME}/suspend", **reason).status_code == 403
    assert call(client, "ops", "POST", f"{ACME}/suspend", **reason).json()["state"] == "suspended"
    assert call(client, None, "GET", "/api/listings?q=短剧").json()["total"] == 0
    assert call(client, None, "GET", "/api/v1/models").json()["data"] == []
    assert call(client, None, "GET", ACME).status_code == 404
    assert call(client, "ops", "POST", f"{ACME}/restore").json()["state"] == "listed"
    assert call(client, None, "GET", "/api/listings?q=短剧").json()["total"] == 1
    gone = call(client, "bo", "POST", f"{ACME}/deprecate", reason="old").json()
    assert gone["deprecated"]["reason"] == "old"
    assert call(client, "bo", "POST", f"{ACME}/delist", reason="done").status_code == 403
    history = call(client, "mei", "POST", f"{ACME}/delist", reason="done").json()["history"]
    assert [row["event"] for row in history[-3:]] == ["restore", "deprecate", "delist"]
    assert call(client, None, "GET", "/api/listings").json()["total"] == 0


def test_the_park_tier_is_for_members(client: TestClient) -> None:
    call(client, "bo", "POST", "/api/listings", **DRAFT | {"tier": "park"})
    call(client, "bo", "POST", f"{ACME}/submit")
    call(client, "ops", "POST", f"{ACME}/override", reason="pilot")
    call(client, "bo", "POST", f"{ACME}/list")
    assert call(client, None, "GET", ACME).status_code == 404
    assert call(client, "eve", "GET", ACME).status_code == 200
    assert call(client, None, "GET", "/api/listings?q=短剧").json()["total"] == 0
    assert call(client, "eve", "GET", "/api/listings?q=短剧").json()["total"] == 1
    assert call(client, None, "GET", "/api/v1/models").json()["data"] == []
