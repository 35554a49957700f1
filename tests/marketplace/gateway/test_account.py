"""What a caller learns about itself: a quote that the call then keeps, usage by page, key and quotas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.market import SEED, TITLE, Market

from catalog.ground.clock import now_us
from catalog.ground.errors import BadRequest
from marketplace.gateway.usage_log import instant
from marketplace.members.keys import create_key
from marketplace.members.projects import create_project
from marketplace.prices.components import Components

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": TITLE}]
PER_TOKEN = Components(input_u_per_m=0, output_u_per_m=1_000_000_000)
PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=10_001)


class Asker:
    """A key in hand."""

    def __init__(self, market: Market, key: str) -> None:
        self.client = openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0)

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, cast_to=object, options={"params": params})

    def quote(self, model: str, **fields: Any) -> Any:
        return self.client.post("/quote", cast_to=object, body={"model": model, **fields})

    def call(self, model: str, **fields: Any) -> Any:
        made = self.client.chat.completions.with_raw_response.create(
            model=model, messages=MESSAGES, **fields
        )
        return made.headers


@pytest.fixture
def askers(market: Market) -> Iterator[list[Asker]]:
    """Keep clients open for the test, and close them after it."""
    made: list[Asker] = []
    yield made
    for asker in made:
        asker.client.close()


def _asker(market: Market, askers: list[Asker], voucher_u: int, **limits: Any) -> Asker:
    org_id, _ = market.organisation(voucher_u=voucher_u)
    database = market.database
    with database.session() as session:
        project_id = create_project(session, org_id, "shop", now_us()).id
        _, key = create_key(session, org_id, "shop key", now_us(), project_id=project_id, **limits)
    database.dispose()
    askers.append(Asker(market, key))
    return askers[-1]


def test_the_call_keeps_what_the_quote_said(market: Market, askers: list[Asker]) -> None:
    slug = market.listing(PER_CALL)
    asker = _asker(market, askers, 100_000)
    told = asker.quote(slug, messages=MESSAGES, max_tokens=4)
    assert told["affordable"] is True
    assert told["tokens"]["input_from"] == "engine"
    assert (told["cost_u"], told["wallet_u"], told["later_u"]) == (10_001, 0, 0)
    (leg,) = told["paid_by"]
    assert (leg["programme"], leg["kind"], leg["covered_u"]) == ("starter@1", "instant", 10_001)
    shares = {part["funder"]: part["amount_u"] for part in leg["funders"]}
    assert sum(shares.values()) == 10_001
    # 5:3:2 of 10,001, each within one micro-yuan
    assert all(
        abs(shares[name] - part) <= 1
        for name, part in (("province", 5000), ("city", 3000), ("district", 2000))
    )
    assert [r["rule"] for r in told["vouchers_refused"]] == ["items.free-endpoint"]
    headers = asker.call(slug, max_tokens=4)
    assert headers["x-tm-cost-u"] == "10001"
    assert headers["x-tm-voucher-u"] == "10001"
    assert headers["x-tm-price-version"] == told["price_version"]


def test_a_quote_says_how_long_an_answer_may_be_and_why_not_longer(
    market: Market, askers: list[Asker]
) -> None:
    slug = market.listing(PER_TOKEN)
    asker = _asker(market, askers, 20_500)
    told = asker.quote(slug, input_tokens=10, output_tokens=60)
    assert (told["affordable"], told["max_affordable_output_tokens"]) == (False, 20)
    assert (told["cost_u"], told["shortfall_u"]) == (60_000, 39_500)
    assert told["refusal"] is None  # the answer would be cut to 20 tokens instead
    assert (
        asker.call(slug, max_tokens=60, extra_body={"ignore_eos": True})["x-tm-max-tokens"] == "20"
    )
    told = asker.quote(slug, input_tokens=10, output_tokens=60)
    assert told["max_affordable_output_tokens"] == 0
    assert told["refusal"]["rule"] == "payment.affordable"
    assert told["refusal"]["required_u"] == 60_000


def test_a_quote_knows_the_key_s_caps(market: Market, askers: list[Asker]) -> None:
    slug = market.listing(PER_CALL)
    asker = _asker(market, askers, 1_000_000, daily_u=15_000)
    assert asker.quote(slug, input_tokens=1, output_tokens=1)["affordable"] is True
    asker.call(slug, max_tokens=4)
    told = asker.quote(slug, input_tokens=1, output_tokens=1)
    assert (told["affordable"], told["refusal"]["rule"]) == (False, "key.daily_u")
    key = asker.get("/key")
    assert (key["name"], key["role"], key["project"]) == ("shop key", "dev", "shop")
    assert (key["monthly"], key["expires_at"]) == (None, None)
    daily = key["daily"]
    assert (daily["limit_u"], daily["spent_u"], daily["left_u"]) == (15_000, 10_001, 4_999)


def test_a_quote_needs_a_key_and_something_to_price(market: Market, askers: list[Asker]) -> None:
    asker = _asker(market, askers, 0)
    with pytest.raises(openai.BadRequestError) as refused:
        asker.quote(SEED)
    assert refused.value.response.json()["error"]["rule"] == "quote.input"
    with pytest.raises(openai.BadRequestError):
        asker.quote(SEED, input_tokens=1, max_tokens="many")
    with pytest.raises(openai.NotFoundError):
        asker.quote("nobody/nothing", input_tokens=1)
    askers.append(Asker(market, "tm-wrong"))
    for path in ("/key", "/usage", "/me/quota"):
        with pytest.raises(openai.AuthenticationError):
            askers[-1].get(path)
    with pytest.raises(openai.AuthenticationError):
        askers[-1].quote(SEED, input_tokens=1)


def test_usage_comes_in_pages_with_sums_over_all_of_them(
    market: Market, askers: list[Asker]
) -> None:
    first, second = market.listing(PER_CALL), market.listing(PER_CALL)
    asker = _asker(market, askers, 1_000_000)
    made = [asker.call(slug, max_tokens=4)["x-tm-generation"] for slug in (first, second, first)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        told = asker.get("/usage", limit=2, **cursor)
        seen += [call["id"] for call in told["data"]]
        assert told["totals"]["calls"] == 3
        assert told["totals"]["cost_u"] == told["totals"]["voucher_u"] == 30_003
        if told["next_cursor"] is None:
            break
        cursor = {"cursor": told["next_cursor"]}
    assert seen == made[::-1]
    assert [c["id"] for c in asker.get("/usage", model=second)["data"]] == [made[1]]
    assert len(asker.get("/usage", project="shop")["data"]) == 3
    assert asker.get("/usage", **{"from": "2999-01-01"})["totals"]["calls"] == 0
    assert asker.get("/usage", to="2000-01-01T00:00:00Z")["data"] == []
    assert asker.get("/usage", key="key_other", totals="false")["totals"] is None
    for bad in ({"cursor": "???"}, {"from": "yesterday"}, {"limit": 0}):
        with pytest.raises(openai.BadRequestError):
            asker.get("/usage", **bad)
    stranger = _asker(market, askers, 0)
    assert stranger.get("/usage")["data"] == []


def test_free_quotas_are_whole_until_they_are_used(market: Market, askers: list[Asker]) -> None:
    slug = market.listing(PER_CALL)
    asker = _asker(market, askers, 0)
    (quota,) = asker.get("/me/quota")["data"]
    assert (quota["programme"], quota["unit"], quota["left"]) == ("free-daily@1", "CNY", 200_000)
    headers = asker.call(f"{slug}:free", max_tokens=4)
    assert headers["x-tm-free-u"] == "10001"
    (quota,) = asker.get("/me/quota")["data"]
    assert (quota["left"], quota["used"], quota["held"]) == (189_999, 10_001, 0)


def test_the_doors_are_described() -> None:
    from fastapi import FastAPI

    from marketplace.app import Marketplace
    from marketplace.gateway.endpoints_account import account_router
    from marketplace.settings import Settings

    web = FastAPI()
    web.include_router(account_router(Marketplace(Settings())))
    described = web.openapi()
    for path, verb in (("quote", "post"), ("usage", "get"), ("key", "get"), ("me/quota", "get")):
        schema = described["paths"][f"/v1/{path}"][verb]["responses"]["200"]["content"]
        assert schema["application/json"]["schema"]


@pytest.mark.parametrize("text", ["nonsense", "2026-13-01", "0001-01-01", "1795365944", ""])
def test_what_is_no_instant_is_named(text: str) -> None:
    with pytest.raises(BadRequest, match="not an instant") as refused:
        instant(text, "from")
    assert refused.value.param == "from"
