"""OpenAI's own client against the translation: what it accumulates is what a whole answer says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from catalog.ground.errors import PaymentRequired, RateLimited, UpstreamFailed

MODEL = "acme/chat"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
TIME: Any = WEATHER | {"name": "get_time"}


class Trip(BaseModel):
    city: str
    days: int


@pytest.fixture
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="tm-1", max_retries=0, timeout=30) as made:
        yield made


def _without_ids(response: Response) -> dict[str, Any]:
    told = response.model_dump(mode="json", exclude={"id"}, warnings=False)
    for item in told["output"]:
        del item["id"]
        for part in item.get("content") or []:
            part.pop("parsed", None)
        item.pop("parsed_arguments", None)
    return told


def test_whole_and_streamed_answers_are_the_same(client: OpenAI, server: Any, script: Any) -> None:
    server.script = script
    asked: Any = {"model": MODEL, "input": "Hi", "tools": [WEATHER, TIME], "top_logprobs": 1}
    whole = client.responses.create(**asked)
    Response.model_validate(whole.model_dump(warnings=False))
    final, text = None, ""
    for event in client.responses.create(**asked, stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type in ("response.completed", "response.incomplete"):
            final = event.response
    assert final is not None
    assert _without_ids(final) == _without_ids(whole)
    assert text == whole.output_text == final.output_text
    assert whole.id.startswith("resp_")
    assert whole.model == MODEL


def test_the_streaming_helper(client: OpenAI, server: Any, scripts: Any) -> None:
    server.script = scripts["tools"]
    with client.responses.stream(model=MODEL, input="Hi", tools=[WEATHER, TIME]) as stream:
        seen = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    snapshots = [e.snapshot for e in seen if e.type == "response.function_call_arguments.delta"]
    assert snapshots[:3] == ['{"city":', '{"city": "Hang', '{"city": "Hangzhou"}']
    message, weather, time = final.output
    assert message.type == "message"
    assert final.output_text == "I look it up."
    assert weather.type == time.type == "function_call"
    assert (weather.name, json.loads(weather.arguments)) == ("get_weather", {"city": "Hangzhou"})
    assert (time.name, time.arguments) == ("get_time", "{}")
    assert len({item.id for item in final.output}) == 3


def test_events_come_in_their_order(client: OpenAI, server: Any, scripts: Any) -> None:
    server.script = scripts["reasoning"]
    kinds = [
        event.type.removeprefix("response.")
        for event in client.responses.create(model=MODEL, input="Hi", stream=True)
    ]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]


def test_usage_in_the_names_of_responses(client: OpenAI) -> None:
    usage = client.responses.create(model=MODEL, input="Hi").usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (30, 12, 42)
    assert usage.input_tokens_details.cached_tokens == 16
    assert usage.output_tokens_details.reasoning_tokens == 5


@pytest.mark.parametrize("streamed", [False, True])
def test_structured_output(client: OpenAI, server: Any, scripts: Any, streamed: bool) -> None:
    server.script = scripts["json"]
    if streamed:
        with client.responses.stream(model=MODEL, input="Plan", text_format=Trip) as stream:
            parsed = stream.get_final_response().output_parsed
    else:
        parsed = client.responses.parse(model=MODEL, input="Plan", text_format=Trip).output_parsed
    assert parsed == Trip(city="Hz", days=3)
    form = server.asked[-1]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    assert set(form["json_schema"]["schema"]["properties"]) == {"city", "days"}


def test_a_round_trip_through_functions(client: OpenAI, server: Any, scripts: Any) -> None:
    server.script = scripts["tools"]
    talk: list[Any] = [{"role": "user", "content": "Weather?"}]
    first = client.responses.create(model=MODEL, input=talk, tools=[WEATHER, TIME])
    talk += first.output
    for item in first.output:
        if item.type == "function_call":
            output = {"type": "function_call_output", "call_id": item.call_id, "output": "ok"}
            talk.append(output)
    server.script = scripts["text"]
    second = client.responses.create(model=MODEL, input=talk, tools=[WEATHER, TIME])
    assert second.output_text == "你好, world"
    user, turn, *results = server.asked[-1]["messages"]
    assert user == {"role": "user", "content": "Weather?"}
    assert turn["content"] == "I look it up."
    assert [call["function"]["name"] for call in turn["tool_calls"]] == ["get_weather", "get_time"]
    called = [call["id"] for call in turn["tool_calls"]]
    assert [result["tool_call_id"] for result in results] == called


def test_logprobs(client: OpenAI, server: Any, scripts: Any) -> None:
    server.script = scripts["logprobs"]
    asked: Any = {"model": MODEL, "input": "Hi", "include": ["message.output_text.logprobs"]}
    part: Any = client.responses.create(**asked).output[0]
    assert [token.bytes for token in part.content[0].logprobs] == [[65], [0xC3], [0xA9]]
    assert server.asked[-1]["logprobs"] is True
    unasked: Any = client.responses.create(model=MODEL, input="Hi").output[0]
    assert unasked.content[0].logprobs == []


def test_an_answer_that_was_cut_says_so(client: OpenAI, server: Any, scripts: Any) -> None:
    for name, reason in (("length", "max_output_tokens"), ("filtered", "content_filter")):
        server.script = scripts[name]
        response = client.responses.create(model=MODEL, input="Hi")
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == reason
        assert response.output[-1].status == "incomplete"  # type: ignore[union-attr]


def test_a_refusal(client: OpenAI, server: Any, scripts: Any) -> None:
    server.script = scripts["refusal"]
    item: Any = client.responses.create(model=MODEL, input="Hi").output[0]
    assert item.content[0].refusal == "I will not."


def test_a_stream_that_breaks_off(client: OpenAI, server: Any, scripts: Any) -> None:
    script = scripts["tools"]
    server.script = type(script)(**vars(script) | {"breaks": UpstreamFailed("Gone.")})
    events = list(client.responses.create(model=MODEL, input="Hi", stream=True))
    error, failed = events[-2:]
    assert error.type == "error"
    assert (error.code, error.message) == ("upstream_failed", "Gone.")
    assert failed.type == "response.failed"
    assert failed.response.error is not None
    assert failed.response.error.code == "server_error"
    # What had ended before is still there.
    assert [item.type for item in failed.response.output] == ["message", "function_call"]


def test_errors_before_the_answer(client: OpenAI, server: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="nothing is stored") as wrong:
        client.responses.create(model=MODEL, input="Hi", store=True)
    assert wrong.value.param == "store"
    server.refusal = PaymentRequired("No voucher.", remedy="Buy one.")
    with pytest.raises(openai.APIStatusError, match="Buy one") as empty:
        client.responses.create(model=MODEL, input="Hi", stream=True)
    assert (empty.value.status_code, empty.value.code) == (402, "insufficient_quota")
    server.refusal = RateLimited("Slow.", retry_after_s=2)
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model=MODEL, input="Hi")


def test_counting_a_prompt(client: OpenAI, server: Any) -> None:
    counted = client.responses.input_tokens.count(model=MODEL, input="Hi", instructions="Be brief")
    assert counted.input_tokens == 17
    assert [message["role"] for message in server.asked[-1]["messages"]] == ["system", "user"]
