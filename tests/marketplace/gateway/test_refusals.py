"""Whatever is wrong is said clearly, in OpenAI's shape, and costs nothing."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.market import SEED, TITLE, Market, wait_until

from catalog.ground.clock import now_us
from marketplace.members.keys import create_key, revoke_key
from marketplace.prices.components import Components


def post(market: Market, key: str | None, body: bytes, path: str = "/v1/chat/completions") -> Any:
    """Return (status, headers, JSON body) of a raw request."""
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(market.url + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.loads(error.read())


def body(**fields: Any) -> bytes:
    asked = {"model": SEED, "messages": [{"role": "user", "content": TITLE}]} | fields
    return json.dumps(asked).encode()


@pytest.fixture
def payer(market: Market) -> Iterator[str]:
    """A key whose voucher must be untouched after the test."""
    _, key = market.organisation(voucher_u=5_000_000)
    yield key
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key=key) as client:
        credits_ = client.get("/credits", cast_to=object)
    assert isinstance(credits_, dict)
    starter = [v for v in credits_["data"]["vouchers"] if v["programme"] == "starter@1"]
    assert [(v["available"], v["held"]) for v in starter] == [(5_000_000, 0)]


def test_no_key_and_a_wrong_key(market: Market) -> None:
    for key, code in ((None, "missing_api_key"), ("tm-wrong", "invalid_api_key")):
        status, headers, told = post(market, key, body())
        assert (status, told["error"]["code"]) == (401, code)
        assert told["error"]["type"] == "authentication_error"
        assert "Bearer" in headers["www-authenticate"]


def test_a_revoked_key_stops_within_a_second(market: Market) -> None:
    org_id, _ = market.organisation()
    database = market.database
    with database.session() as session:
        key, secret = create_key(session, org_id, "short", now_us())
    assert post(market, secret, body())[0] == 402
    with database.session() as session:
        revoke_key(session, key.id, now_us())
    database.dispose()
    wait_until(lambda: post(market, secret, body())[0] == 401, 2)


def test_an_unknown_model(market: Market, payer: str) -> None:
    status, _, told = post(market, payer, body(model="nobody/nothing"))
    assert (status, told["error"]["code"]) == (404, "model_not_found")
    assert "GET /v1/models" in told["error"]["message"]


@pytest.mark.parametrize(
    ("sent", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b'\xff\xfe{"model": 1}', "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b'{"messages": []}', "missing_required_parameter", "model"),
        (b'{"model": 7}', "invalid_type", "model"),
        (body(max_tokens=0), "invalid_value", "max_tokens"),
        (body(max_tokens="many"), "invalid_type", "max_tokens"),
        (body(n=1000), "invalid_value", "n"),
    ],
)
def test_a_body_that_is_not_valid(
    market: Market, payer: str, sent: bytes, code: str, param: str | None
) -> None:
    status, _, told = post(market, payer, sent)
    assert (status, told["error"]["code"], told["error"]["param"]) == (400, code, param)


def test_what_the_engine_refuses_keeps_its_words(market: Market, payer: str) -> None:
    status, _, told = post(market, payer, body(messages="hello"))
    assert status == 400
    assert "messages" in (told["error"]["param"] or told["error"]["message"])


def test_a_prompt_that_is_too_long_names_the_limit_and_its_length(
    market: Market, payer: str
) -> None:
    status, _, told = post(
        market, payer, body(messages=[{"role": "user", "content": "红色" * 900}])
    )
    assert (status, told["error"]["code"]) == (400, "context_length_exceeded")
    assert told["error"]["prompt_tokens"] > told["error"]["context_length"]


def test_a_body_over_the_limit(market: Market, payer: str) -> None:
    status, _, told = post(market, payer, b" " * (9 * 1024 * 1024))
    assert (status, told["error"]["code"]) == (413, "payload_too_large")


def test_nobody_pays_is_explained(market: Market) -> None:
    _, key = market.organisation()
    status, headers, told = post(market, key, body(max_tokens=20))
    assert (status, told["error"]["code"]) == (402, "insufficient_quota")
    assert told["error"]["required_u"] > told["error"]["available_u"] == 0
    assert told["error"]["max_affordable_output_tokens"] == 0
    assert "retry-after" not in headers


def test_a_rate_limit_says_when_to_come_back(market: Market) -> None:
    org_id, _ = market.organisation()
    database = market.database
    with database.session() as session:
        _, secret = create_key(session, org_id, "slow", now_us(), rpm=2)
    database.dispose()
    statuses = [post(market, secret, body()) for _ in range(4)]
    assert [status for status, _, _ in statuses][:2] == [402, 402]
    status, headers, told = statuses[-1]
    assert (status, told["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 30


def test_no_engine_answers(market: Market, payer: str) -> None:
    slug = market.listing(Components(input_u_per_m=1, output_u_per_m=1), url="http://127.0.0.1:9")
    status, headers, told = post(market, payer, body(model=slug))
    assert (status, told["error"]["code"]) == (503, "no_healthy_endpoint")
    assert int(headers["retry-after"]) >= 1


def test_unknown_paths_and_methods_are_told_in_the_right_shape(market: Market) -> None:
    status, _, told = post(market, None, b"{}", "/v1/nothing")
    assert (status, told["error"]["type"]) == (404, "not_found_error")
    status, headers, told = post(market, None, b"{}", "/nothing")
    assert (status, told["title"]) == (404, "not found")
    assert headers["content-type"] == "application/problem+json"
