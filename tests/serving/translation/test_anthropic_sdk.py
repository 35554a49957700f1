"""Anthropic's own client against the translation: what it accumulates is what a whole answer says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from catalog.ground.errors import (
    NotFound,
    PaymentRequired,
    RateLimited,
    Unavailable,
    UpstreamFailed,
)

anthropic = pytest.importorskip("anthropic")

MODEL = "acme/chat"
HI: Any = [{"role": "user", "content": "Hi"}]
ASKED: Any = {"model": MODEL, "max_tokens": 64, "messages": HI}
WEATHER: Any = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TIME: Any = WEATHER | {"name": "get_time"}


class Trip(BaseModel):
    city: str
    days: int


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    made = anthropic.Anthropic(base_url=server.url, api_key="tm-1", max_retries=0, timeout=30)
    with made:
        yield made


def _plain(message: Any) -> dict[str, Any]:
    told: dict[str, Any] = message.model_dump(mode="json", exclude={"id"}, warnings=False)
    for block in told["content"]:
        block.pop("signature", None)  # made of the generation's id
        block.pop("parsed_output", None)
    return told


def test_whole_and_streamed_answers_are_the_same(client: Any, server: Any, script: Any) -> None:
    server.script = script
    asked = ASKED | {"tools": [WEATHER, TIME], "stop_sequences": [", 3"]}
    whole = client.messages.create(**asked)
    anthropic.types.Message.model_validate(whole.model_dump(warnings=False))
    with client.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert _plain(final) == _plain(whole)
    assert whole.id.startswith("msg_")
    assert whole.model == MODEL
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


def test_blocks_come_one_after_the_other(client: Any, server: Any, scripts: Any) -> None:
    server.script = scripts["tools"]
    asked = ASKED | {"tools": [WEATHER, TIME]}
    seen = [
        (event.type.removeprefix("content_block_"), getattr(event, "index", None))
        for event in client.messages.create(**asked, stream=True)
    ]
    assert seen == [
        ("message_start", None),
        *(("start", 0), ("delta", 0), ("delta", 0), ("stop", 0)),
        *(("start", 1), ("delta", 1), ("delta", 1), ("delta", 1), ("stop", 1)),
        *(("start", 2), ("delta", 2), ("delta", 2), ("stop", 2)),
        ("message_delta", None),
        ("message_stop", None),
    ]


def test_the_helpers_of_the_stream(client: Any, server: Any, scripts: Any) -> None:
    server.script = scripts["reasoning"]
    with client.messages.stream(**ASKED) as stream:
        seen = list(stream)
        final = stream.get_final_message()
    assert [e.snapshot for e in seen if e.type == "thinking"] == ["Let me ", "Let me see."]
    assert "".join(e.text for e in seen if e.type == "text") == "42"
    thinking, text = final.content
    assert (thinking.thinking, text.text) == ("Let me see.", "42")
    assert thinking.signature


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text", "end_turn"),
        ("tools", "tool_use"),
        ("length", "max_tokens"),
        ("stop string", "stop_sequence"),
        ("refusal", "refusal"),
        ("filtered", "refusal"),
    ],
)
def test_why_it_stopped(client: Any, server: Any, scripts: Any, name: str, reason: str) -> None:
    server.script = scripts[name]
    message = client.messages.create(**ASKED, stop_sequences=[", 3"])
    assert message.stop_reason == reason
    assert (message.stop_sequence == ", 3") == (reason == "stop_sequence")
    assert (message.stop_details is not None) == (reason == "refusal")


def test_usage_in_the_names_of_messages(client: Any) -> None:
    usage = client.messages.create(**ASKED).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (14, 16, 12)
    assert usage.output_tokens_details.thinking_tokens == 5


def test_a_round_trip_through_tools(client: Any, server: Any, scripts: Any) -> None:
    server.script = scripts["tools"]
    first = client.messages.create(**ASKED, tools=[WEATHER, TIME])
    used = [block for block in first.content if block.type == "tool_use"]
    assert [block.input for block in used] == [{"city": "Hangzhou"}, {}]
    results = [{"type": "tool_result", "tool_use_id": b.id, "content": "ok"} for b in used]
    talk = [*HI, {"role": "assistant", "content": first.content}]
    talk.append({"role": "user", "content": [*results, {"type": "text", "text": "And?"}]})
    server.script = scripts["text"]
    second = client.messages.create(**ASKED | {"messages": talk}, tools=[WEATHER, TIME])
    assert second.content[0].text == "你好, world"
    _, turn, *told, last = server.asked[-1]["messages"]
    called = [call["id"] for call in turn["tool_calls"]]
    assert turn["tool_calls"][0]["function"]["arguments"] == '{"city":"Hangzhou"}'
    assert [message["tool_call_id"] for message in told] == called
    assert last == {"role": "user", "content": "And?"}


def test_thinking_comes_back_as_reasoning(client: Any, server: Any, scripts: Any) -> None:
    server.script = scripts["reasoning"]
    first = client.messages.create(**ASKED, thinking={"type": "enabled", "budget_tokens": 2048})
    assert server.asked[-1]["reasoning_effort"] == "low"
    talk = [*HI, {"role": "assistant", "content": first.content}, *HI]
    client.messages.create(**ASKED | {"messages": talk})
    assert server.asked[-1]["messages"][1]["reasoning_content"] == "Let me see."
    hidden = client.messages.create(**ASKED, thinking={"type": "disabled"})
    assert [block.type for block in hidden.content] == ["text"]
    sealed: Any = {"type": "adaptive", "display": "omitted"}
    with client.messages.stream(**ASKED, thinking=sealed) as stream:
        block = stream.get_final_message().content[0]
    assert (block.type, block.thinking) == ("thinking", "")


@pytest.mark.parametrize("streamed", [False, True])
def test_structured_output(client: Any, server: Any, scripts: Any, streamed: bool) -> None:
    server.script = scripts["json"]
    if streamed:
        with client.messages.stream(**ASKED, output_format=Trip) as stream:
            parsed = stream.get_final_message().parsed_output
    else:
        parsed = client.messages.parse(**ASKED, output_format=Trip).parsed_output
    assert parsed == Trip(city="Hz", days=3)
    schema = server.asked[-1]["response_format"]["json_schema"]["schema"]
    assert set(schema["properties"]) == {"city", "days"}


def test_errors_before_the_answer(client: Any, server: Any) -> None:
    with pytest.raises(anthropic.BadRequestError, match="not hosted here") as wrong:
        client.messages.create(
            **ASKED, tools=[{"type": "web_search_20250305", "name": "web_search"}]
        )
    assert wrong.value.type == "invalid_request_error"
    assert wrong.value.error_code == "unsupported_parameter"
    assert wrong.value.body["error"]["details"]["param"] == "tools[0].type"
    for error, kind in (
        (PaymentRequired("No voucher."), "billing_error"),
        (NotFound("No such model."), "not_found_error"),
        (RateLimited("Slow.", retry_after_s=2), "rate_limit_error"),
        (Unavailable("Busy."), "overloaded_error"),
    ):
        server.refusal = error
        with pytest.raises(anthropic.APIStatusError) as refused:
            client.messages.create(**ASKED, stream=True)
        assert (refused.value.status_code, refused.value.type) == (error.status, kind)
        assert refused.value.request_id.startswith("gen_")
        assert refused.value.api_message == error.message


def test_a_stream_that_breaks_off(client: Any, server: Any, scripts: Any) -> None:
    script = scripts["tools"]
    server.script = type(script)(**vars(script) | {"breaks": UpstreamFailed("Gone.")})
    with pytest.raises(anthropic.APIStatusError) as broken:
        with client.messages.stream(**ASKED) as stream:
            list(stream)
    assert (broken.value.type, broken.value.api_message) == ("api_error", "Gone.")


def test_counting_a_prompt(client: Any, server: Any) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=HI, tools=[WEATHER])
    assert counted.input_tokens == 17
    assert server.asked[-1]["tools"][0]["function"]["name"] == "get_weather"
