"""Whose fault it was: errors of providers, and what callers may not ask."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from support.adapter import CLAUDE, GPT, HEADER_SECRET, PROVIDER_KEY, Adapter
from support.market import wait_until
from support.providers import Provider

MESSAGES: Any = [{"role": "user", "content": "hi"}]
BOTH = pytest.mark.parametrize("model", [GPT, CLAUDE])


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"message": message, "type": "invalid_request_error"} | more}


CASES = [
    # the provider's status, its error, our status and code, words that the caller reads
    (401, said(f"Incorrect API key provided: {PROVIDER_KEY}"), 502, "provider_auth", "key"),
    (403, said("no", type="permission_error"), 502, "provider_auth", "key"),
    (402, said("Insufficient Balance"), 502, "provider_quota", "account"),
    (404, said("model acme-chat-1 not found"), 502, "provider_model", "outside/"),
    (429, said("slow down", type="rate_limit_error"), 429, "rate_limit_exceeded", "rate limit"),
    (
        429,
        said("no quota", type="insufficient_quota", code="insufficient_quota"),
        502,
        "provider_quota",
        "account",
    ),
    (
        400,
        said("This model's maximum context length is 128 tokens", code="context_length_exceeded"),
        400,
        "context_length_exceeded",
        "128 tokens",
    ),
    (400, said("temperature 太高: it's at most 1"), 400, "bad_request", "太高: it's at most 1"),
    (400, said("no number in b'价格' or {x}"), 400, "bad_request", "no number in b'价格' or {x}"),
    (422, said("odd"), 422, "unprocessable", "odd"),
    (500, said("boom at 10.0.0.7", type="api_error"), 502, "provider_failed", "provider failed"),
    (502, said("bad gateway", type="api_error"), 502, "provider_failed", "provider failed"),
    (503, said("full", type="api_error"), 503, "provider_overloaded", "overloaded"),
    (529, said("full", type="overloaded_error"), 503, "provider_overloaded", "overloaded"),
    (504, said("late", type="api_error"), 504, "provider_timeout", "silent"),
]


def provider_of(outside: Adapter, model: str) -> Provider:
    return outside.openai if model == GPT else outside.anthropic


@BOTH
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "body", "ours", "code", "words"), CASES)
def test_a_provider_that_refuses(
    client: openai.OpenAI,
    outside: Adapter,
    model: str,
    stream: bool,
    status: int,
    body: dict[str, Any],
    ours: int,
    code: str,
    words: str,
) -> None:
    provider_of(outside, model).refuse(status, body, retry_after="7")
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
    error = caught.value
    told = error.response.json()["error"]
    assert (error.status_code, told["code"]) == (ours, code)
    assert words in told["message"]
    if ours in (429, 503):
        assert error.response.headers["retry-after"] == "7"
    everything = error.response.text + str(dict(error.response.headers))
    for hidden in (
        PROVIDER_KEY,
        HEADER_SECRET,
        "internal-7781",
        "127.0.0.1",
        "10.0.0.7",
        "litellm",
    ):
        assert hidden not in everything
    assert len(provider_of(outside, model).seen) == 1  # nothing is tried twice


def test_content_policy_and_the_field_at_fault(client: openai.OpenAI, outside: Adapter) -> None:
    words = "Your request was rejected as a result of our safety system"
    outside.openai.refuse(400, said(words, code="content_policy_violation"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=GPT, messages=MESSAGES)
    assert caught.value.code == "content_filter"
    outside.openai.refuse(400, said("too hot", param="temperature"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=GPT, messages=MESSAGES, temperature=2)
    assert caught.value.param == "temperature"


@BOTH
@pytest.mark.parametrize("after", [3, 5])
def test_a_stream_that_is_cut_off_does_not_end_well(
    client: openai.OpenAI, outside: Adapter, model: str, after: int
) -> None:
    provider_of(outside, model).behave(cut_after=after)
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True))


@BOTH
def test_a_stream_that_stops_without_a_reason_does_not_end_well(
    client: openai.OpenAI, outside: Adapter, model: str
) -> None:
    # The connection ends in order, the answer does not: litellm would call that "stop".
    provider_of(outside, model).behave(stop_after=4)
    seen: list[Any] = []
    with pytest.raises(openai.APIError, match="broke off"):
        seen += client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    assert all(chunk.choices[0].finish_reason is None for chunk in seen)


def test_late_unreachable_and_unlisted_providers(client: openai.OpenAI, outside: Adapter) -> None:
    outside.openai.behave(silent=True)
    cases = [("hasty", 504, "provider_timeout"), ("gone", 503, "provider_unreachable")]
    for model, status, code in [*cases, ("unlisted", 502, "egress_refused")]:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(
                    model=f"outside/{model}", messages=MESSAGES, stream=stream
                )
            assert (caught.value.status_code, caught.value.code) == (status, code)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.png", "http://169.254.169.254/x.png"])
def test_an_address_in_a_request_is_not_fetched(client: openai.OpenAI, address: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": address}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "x"}, picture]}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=CLAUDE, messages=messages)
    assert caught.value.code == "url_not_allowed"


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_takes_no_key_to_another_provider(
    client: openai.OpenAI, outside: Adapter, model: str, stream: bool
) -> None:
    first, other = outside.openai, outside.anthropic
    path = "/v1/chat/completions"
    if model == CLAUDE:
        first, other, path = other, first, "/v1/messages"
    first.refuse(307, {}, location=other.url + path)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (502, "provider_failed")
    assert (len(first.seen), other.seen) == (1, [])


def test_a_field_that_a_provider_does_not_take(client: openai.OpenAI, outside: Adapter) -> None:
    asked: Any = {"messages": MESSAGES, "seed": 7}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=CLAUDE, **asked)
    assert caught.value.code == "unsupported_parameter"
    client.chat.completions.create(model="outside/lenient", **asked)
    assert "seed" not in outside.anthropic.seen[-1].body


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "outside/none"}, "model_not_found", "model"),
        ({"model": "outside/vectors"}, "unsupported_endpoint", "model"),
        ({"messages": []}, "invalid_type", "messages"),
        ({"messages": "hi"}, "invalid_type", "messages"),
        ({"n": 2, "stream": True}, "unsupported_parameter", "n"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "unsupported_parameter", None),
        ({"tools": [{"type": "web_search_20250305"}]}, "unsupported_parameter", None),
    ],
)
def test_what_may_not_be_asked(
    client: openai.OpenAI, fields: Any, code: str, param: str | None, outside: Adapter
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**({"model": GPT, "messages": MESSAGES} | fields))
    assert caught.value.code == code
    assert param is None or caught.value.param == param
    assert outside.openai.seen == []


def post(outside: Adapter, path: str, body: bytes, key: str) -> tuple[int, dict[str, Any]]:
    where = urlsplit(outside.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    connection.request("POST", path, body, {"authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told


def test_the_adapters_own_key_its_paths_and_its_limit(outside: Adapter) -> None:
    asked = json.dumps({"model": GPT, "messages": MESSAGES}).encode()
    for path in ("/v1/chat/completions", "/tokenize", "/v1/embeddings"):
        assert post(outside, path, asked, "wrong")[0] == 401
    assert post(outside, "/v1/chat/completions", b"{", outside.key)[0] == 400
    assert post(outside, "/v1/chat/completions", b"[" * 100_001, outside.key)[0] == 413
    assert post(outside, "/v1/nothing", b"{}", outside.key)[1]["error"]["code"] == "no_such_path"


def test_tokens_are_counted(outside: Adapter) -> None:
    def count(**fields: Any) -> Any:
        asked = json.dumps({"model": GPT} | fields).encode()
        status, told = post(outside, "/tokenize", asked, outside.key)
        return told if status == 200 else told["error"]["code"]

    assert count(prompt="夏季女士纯棉短袖T恤")["max_model_len"] == 32768
    one, two = count(prompt="cotton")["count"], count(prompt=["cotton", "cotton"])["count"]
    assert two == 2 * one > 0
    assert count(prompt=[1, 2, 3])["count"] == 3
    assert count(messages=MESSAGES)["count"] > count(prompt="hi")["count"]
    assert count(prompt="word " * 10_000)["count"] > 9_000
    assert count() == "invalid_value"
    assert count(prompt=[{"a": 1}]) == "not_countable"
    assert outside.openai.seen == []


def test_more_calls_than_allowed_are_told_to_wait(outside: Adapter, client: openai.OpenAI) -> None:
    outside.openai.behave(silent=True)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(
            client.chat.completions.create, model="outside/narrow", messages=MESSAGES
        )
        wait_until(lambda: len(outside.openai.seen) == 1)
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(
                    model="outside/narrow", messages=MESSAGES, stream=stream
                )
            assert caught.value.code == "engine_overloaded"
        outside.openai.script.silent = False
        assert first.result().choices
    # The place is free again, as soon as the adapter has seen the end of the first call.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            client.chat.completions.create(model="outside/narrow", messages=MESSAGES)
            break
        except openai.RateLimitError:
            time.sleep(0.05)
    else:
        pytest.fail("the place was not given back")
