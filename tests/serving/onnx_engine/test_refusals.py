"""What is refused, with which status, and what it says."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def _post(engine: Any, path: str, body: bytes, key: str | None = None) -> tuple[int, Any, Any]:
    place = urlsplit(engine.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    try:
        bearer = engine.client.api_key if key is None else key
        connection.request("POST", path, body, {"authorization": f"Bearer {bearer}"})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content), answer.headers
    finally:
        connection.close()


def _refused(engine: Any, path: str, status: int, **fields: Any) -> dict[str, Any]:
    body = {"model": engine.model, "messages": [{"role": "user", "content": "红色"}]}
    if path == TEXT:
        body = {"model": engine.model, "prompt": "红色"}
    found, answer, _ = _post(engine, path, json.dumps(body | fields).encode())
    assert found == status, answer
    error: dict[str, Any] = answer["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"messages": [', b'{"model": NaN}'])
def test_malformed_json(engine: Any, body: bytes) -> None:
    status, answer, _ = _post(engine, CHAT, body)
    assert status == 400
    assert answer["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 99}, "n"),
        ({"seed": 1.5}, "seed"),
        ({"model": None}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop_token_ids": [10**9]}, "stop_token_ids"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty"),
        ({"repetition_penalty": 1e300}, "repetition_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ],
)
def test_a_wrong_field_is_named(engine: Any, fields: dict[str, Any], param: str) -> None:
    error = _refused(engine, CHAT, 400, **fields)
    assert error["param"] == param


@pytest.mark.parametrize("prompt", [[], [-1], [10**9], [True], [["a"]], ["a", 1], 7, {}])
def test_a_wrong_prompt_is_refused(engine: Any, prompt: Any) -> None:
    assert _refused(engine, TEXT, 400, prompt=prompt)["param"] == "prompt"


@pytest.mark.parametrize("fields", [{"echo": True}, {"suffix": "x"}])
def test_what_a_text_completion_cannot_do_is_refused(engine: Any, fields: dict[str, Any]) -> None:
    error = _refused(engine, TEXT, 400, **fields)
    assert (error["code"], error["param"]) == ("unsupported_parameter", *fields)


def test_a_body_without_its_model_is_refused(engine: Any) -> None:
    status, answer, _ = _post(engine, CHAT, b'{"messages": []}')
    assert status == 400
    assert answer["error"]["param"] == "model"


def test_an_unknown_model(engine: Any) -> None:
    for path in (CHAT, TEXT):
        assert _refused(engine, path, 404, model="nobody/nothing")["code"] == "model_not_found"


def test_a_prompt_that_is_too_long_names_the_limit_and_the_true_count(engine: Any) -> None:
    long = [{"role": "user", "content": "红色" * engine.context_length}]
    counted = _post(
        engine, "/tokenize", json.dumps({"model": engine.model, "messages": long}).encode()
    )[1]["count"]
    error = _refused(engine, CHAT, 400, messages=long)
    assert error["code"] == "context_length_exceeded"
    assert str(engine.context_length) in error["message"]
    assert str(counted) in error["message"]
    assert error["prompt_tokens"] == counted


def test_max_tokens_that_do_not_fit_are_refused_only_when_asked_for(engine: Any) -> None:
    error = _refused(engine, CHAT, 400, max_tokens=engine.context_length)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "max_tokens"
    room = engine.context_length - error["prompt_tokens"]
    status, answer, _ = _post(
        engine,
        TEXT,
        json.dumps({"model": engine.model, "prompt": [5] * 20, "ignore_eos": True}).encode(),
    )
    assert status == 200
    assert answer["usage"]["total_tokens"] == engine.context_length
    assert f"at most {room} tokens" in error["message"]


@pytest.mark.parametrize("key", ["", "wrong", "键"])
@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize"])
def test_a_wrong_key(engine: Any, path: str, key: str) -> None:
    status, answer, headers = _post(engine, path, b"{}", key.encode().decode("latin-1"))
    assert status == 401
    assert answer["error"]["code"] == "invalid_api_key"
    assert "www-authenticate" in headers


def test_an_unknown_path_and_a_wrong_method(engine: Any) -> None:
    assert _post(engine, "/v1/nothing", b"")[0] == 404
    assert _post(engine, "/v1/models", b"")[0] == 405


def test_a_body_that_is_too_large(engine: Any) -> None:
    status, answer, _ = _post(engine, CHAT, b" " * (4 * 2**20 + 1))
    assert status == 413
    assert answer["error"]["code"] == "payload_too_large"


def test_no_refusal_costs_a_token(engine: Any) -> None:
    before = engine.metric("generation_tokens_total")
    _refused(engine, CHAT, 404, model="nobody/nothing")
    _refused(engine, CHAT, 400, max_tokens=engine.context_length)
    assert engine.metric("generation_tokens_total") == before
