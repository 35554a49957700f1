"""What the OpenAI SDK gets of providers that speak OpenAI's and Anthropic's shape, and what they are sent."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from support.adapter import CLAUDE, GPT, HEADER_SECRET, PROVIDER_KEY, Adapter
from support.providers import (
    ARGUMENTS,
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    PROMPT_TOKENS,
    WORDS,
    Provider,
)

MESSAGES: Any = [{"role": "user", "content": "Translate: 夏季女士纯棉短袖T恤"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
BOTH = pytest.mark.parametrize("model", [GPT, CLAUDE])


def behind(outside: Adapter, model: str) -> Provider:
    return outside.openai if model == GPT else outside.anthropic


def check_usage(usage: Any) -> None:
    assert usage.prompt_tokens == PROMPT_TOKENS
    assert usage.completion_tokens == COMPLETION_TOKENS
    assert usage.total_tokens == PROMPT_TOKENS + COMPLETION_TOKENS
    assert usage.prompt_tokens_details.cached_tokens == CACHED_TOKENS


@BOTH
def test_a_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=MESSAGES)
    assert answer.choices[0].message.content == "".join(WORDS)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == model
    check_usage(answer.usage)
    assert not hasattr(answer.usage, "cost")


@BOTH
def test_a_streamed_chat_ends_with_the_providers_usage(client: openai.OpenAI, model: str) -> None:
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True))
    *told, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in told) == "".join(WORDS)
    assert [c.choices[0].finish_reason for c in told][-2:] == [None, "stop"]
    assert last.choices == []
    check_usage(last.usage)
    assert {c.model for c in chunks} == {model}
    assert len({c.id for c in chunks}) == 1


@BOTH
def test_tools(client: openai.OpenAI, outside: Adapter, model: str) -> None:
    behind(outside, model).behave(tool="weather")
    asked: Any = {"model": model, "messages": MESSAGES, "tools": TOOLS}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason == "tool_calls"
    call: Any = (whole.choices[0].message.tool_calls or [])[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", ARGUMENTS)
    with client.chat.completions.stream(**asked) as stream:
        streamed: Any = (stream.get_final_completion().choices[0].message.tool_calls or [])[0]
    assert streamed.function.name == "weather"
    assert json.loads(streamed.function.arguments) == ARGUMENTS


@BOTH
def test_the_answer_to_a_tool_goes_back(
    client: openai.OpenAI, outside: Adapter, model: str
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "23 °C"},
    ]
    client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
    assert "23 °C" in json.dumps(behind(outside, model).seen[-1].body, ensure_ascii=False)


@BOTH
def test_structured_output_is_asked_for(
    client: openai.OpenAI, outside: Adapter, model: str
) -> None:
    schema = {"type": "object", "properties": {"zh": {"type": "string"}}, "required": ["zh"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "title", "schema": schema}}
    client.chat.completions.create(model=model, messages=MESSAGES, response_format=wanted)
    assert '"zh"' in json.dumps(behind(outside, model).seen[-1].body)


def test_what_a_provider_is_sent(client: openai.OpenAI, outside: Adapter) -> None:
    client.chat.completions.create(
        model=GPT,
        messages=MESSAGES,
        max_tokens=40,
        max_completion_tokens=30,
        temperature=0.2,
        stream=True,
        extra_body={
            "top_k": 5,
            "continuous": 1,
            "api_base": "http://127.0.0.1:1",
            "fallbacks": ["x"],
        }
        | {"api_key": "sk-other", "num_retries": 3, "mock_response": "no", "metadata": {"a": "b"}},
    ).close()
    sent = outside.openai.seen[-1]
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert sent.headers["x-team"] == "opc"
    assert sent.headers["x-tenant-secret"] == HEADER_SECRET
    assert sent.body == {
        "model": "acme-chat-1",
        "messages": MESSAGES,
        "max_tokens": 30,
        "temperature": 0.2,
        "top_k": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    client.chat.completions.create(model=CLAUDE, messages=MESSAGES, max_tokens=30)
    sent = outside.anthropic.seen[-1]
    assert (sent.path, sent.headers["x-api-key"]) == ("/v1/messages", PROVIDER_KEY)
    assert (sent.body["max_tokens"], sent.body["model"]) == (30, "claude-sonnet-4-5")
    assert "x-tenant-secret" not in sent.headers


@BOTH
def test_text_completions(client: openai.OpenAI, outside: Adapter, model: str) -> None:
    whole = client.completions.create(model=model, prompt="夏季", max_tokens=20)
    assert whole.choices[0].text == "".join(WORDS)
    check_usage(whole.usage)
    chunks = list(client.completions.create(model=model, prompt="夏季", stream=True))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == "".join(WORDS)
    check_usage(chunks[-1].usage)
    path = "/v1/completions" if model == GPT else "/v1/messages"
    assert behind(outside, model).seen[-1].path == path


def test_embeddings_in_numbers_and_in_base64(client: openai.OpenAI) -> None:
    for encoding in ("float", "base64"):
        kind: Any = {"encoding_format": encoding}
        answer = client.embeddings.create(model="outside/vectors", input=["一", "二"], **kind)
        assert isinstance(answer.data[1].embedding, list if encoding == "float" else str)
    plain = client.embeddings.create(model="outside/vectors", input=["一", "二"])
    assert [row.embedding for row in plain.data] == [[0.5, -0.25, 0.0], [0.5, -0.25, 1.0]]
    assert plain.usage.prompt_tokens == PROMPT_TOKENS


def test_moderations(client: openai.OpenAI) -> None:
    answer = client.moderations.create(model="outside/guard", input=["kill", "greet"])
    assert [result.flagged for result in answer.results] == [True, False]
    assert answer.results[0].categories.violence


def test_models(client: openai.OpenAI) -> None:
    cards = {card.id: card for card in client.models.list()}
    assert {GPT, CLAUDE, "outside/vectors"} <= cards.keys()
    assert client.models.retrieve(CLAUDE).owned_by == "anthropic"
    assert cards[GPT].to_dict()["max_model_len"] == 32768


@BOTH
def test_usage_that_nobody_reported_is_not_made_up(
    client: openai.OpenAI, outside: Adapter, model: str
) -> None:
    behind(outside, model).behave(usage=False)
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    whole = client.chat.completions.create(model=model, messages=MESSAGES)
    assert whole.usage is None


@BOTH
def test_a_model_may_repeat_itself(client: openai.OpenAI, outside: Adapter, model: str) -> None:
    behind(outside, model).behave(words=(" dots",) * 150)
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True))
    told = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert told == " dots" * 150


def test_usage_that_cannot_be_is_no_usage(client: openai.OpenAI, outside: Adapter) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    wrong = {"prompt_tokens": -5, "completion_tokens": 100, "total_tokens": 95}
    document = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    outside.openai.refuse(200, document | {"choices": [choice], "usage": wrong})
    answer = client.chat.completions.create(model=GPT, messages=MESSAGES)
    assert answer.choices[0].message.content == "x"
    assert answer.usage is None
