"""Every shape that a client may speak, through the gateway to engines that speak it and to those that do not.

What the SDKs read is what the engine said, what the engine got is what they sent, and each call is one
usage event with the engine's own counts and its exact price.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest
from support.market import SEED, TITLE, Market, wait_until
from support.upstream import (
    Asked,
    Reply,
    Upstream,
    add_endpoint,
    change_endpoints,
    events_of,
    holds_of,
    refuses,
    usual,
)
from support.upstream_answers import (
    CACHED,
    CALL,
    INPUT,
    OUTPUT,
    TEXT,
    chat,
    chat_events,
    chat_usage,
    completion,
    named,
)

from marketplace.prices.components import Components

# What shapes do does not depend on the database.
pytestmark = pytest.mark.parametrize("market", ["sqlite"], indirect=True)
PRICE = Components(
    input_u_per_m=10_000_000,
    cache_read_u_per_m=1_000_000,
    output_u_per_m=20_000_000,
    reasoning_u_per_m=30_000_000,
)
CHAT_U = (INPUT - CACHED) * 10 + CACHED * 1 + OUTPUT * 20
"""What the scripted engine's usual answer costs, in micro-yuan; 2 of 5 tokens are reasoning in Responses."""
RESPONSE_U = CHAT_U + 2 * 10
EVERY_SHAPE = '["responses", "messages"]'
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASK: list[Any] = [{"role": "user", "content": TITLE}]


@dataclass
class Caller:
    """An organisation with a voucher, and a listing."""

    market: Market
    listing: str
    org_id: str
    key: str
    engine: Upstream
    slugs: dict[str, str]

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.market.url}/v1", api_key=self.key, max_retries=0)

    def anthropic(self) -> Any:
        anthropic = pytest.importorskip("anthropic")
        return anthropic.Anthropic(base_url=self.market.url, api_key=self.key, max_retries=0)

    def alike(self, listing: str) -> str:
        """Make another listing with the same engine."""
        slug = self.market.listing(PRICE, url=self.engine.url, model="m", context_length=100_000)
        if listing == self.slugs.get("native"):
            change_endpoints(self.market, slug, speaks=EVERY_SHAPE)
        return slug

    def only_event(self, cost_u: int, **expected: Any) -> Any:
        """Return the one usage event there is; nothing is held any more."""
        (event,) = events_of(self.market, self.org_id)
        assert holds_of(self.market, self.org_id) == 0
        assert (event.cost_u, event.voucher_u, event.overrun_u) == (cost_u, cost_u, 0)
        assert {name: getattr(event, name) for name in expected} == expected
        return event


@pytest.fixture(scope="module")
def slugs(market: Market) -> dict[str, str]:
    """Listings of the module by what their engine speaks, made on first use."""
    return {}


@pytest.fixture(params=["translated", "native"])
def caller(
    request: pytest.FixtureRequest, market: Market, engine: Upstream, slugs: dict[str, str]
) -> Caller:
    """A caller of a listing whose engine speaks chat completions only, or every shape."""
    return _caller(request.param, market, engine, slugs)


@pytest.fixture
def chat_caller(market: Market, engine: Upstream, slugs: dict[str, str]) -> Caller:
    return _caller("translated", market, engine, slugs)


@pytest.fixture
def native_caller(market: Market, engine: Upstream, slugs: dict[str, str]) -> Caller:
    return _caller("native", market, engine, slugs)


def _caller(kind: str, market: Market, engine: Upstream, slugs: dict[str, str]) -> Caller:
    if kind not in slugs:
        slugs[kind] = market.listing(PRICE, url=engine.url, model="m", context_length=100_000)
        if kind == "native":
            change_endpoints(market, slugs[kind], speaks=EVERY_SHAPE)
    org_id, key = market.organisation(voucher_u=10_000_000)
    return Caller(market, slugs[kind], org_id, key, engine, slugs)


def _native(caller: Caller) -> bool:
    return not caller.engine.asked[-1].path.endswith("chat/completions")


# Responses.


def test_a_response(caller: Caller) -> None:
    with caller.openai() as client:
        raw = client.responses.with_raw_response.create(model=caller.listing, input=TITLE)
    answer = raw.parse()
    assert answer.output_text == TEXT
    assert answer.usage is not None
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (11, 5, 16)
    assert usage.input_tokens_details.cached_tokens == CACHED
    cost_u = RESPONSE_U if _native(caller) else CHAT_U
    assert raw.headers["x-tm-cost-u"] == str(cost_u)
    event = caller.only_event(cost_u, input_uncached=7, cache_read=4, streamed=0)
    assert event.output + event.reasoning == OUTPUT
    assert raw.headers["x-tm-generation"] == event.id


def test_a_streamed_response(caller: Caller) -> None:
    with (
        caller.openai() as client,
        client.responses.stream(model=caller.listing, input=TITLE) as stream,
    ):
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        answer = stream.get_final_response()
    assert "".join(deltas) == answer.output_text == TEXT
    assert len(deltas) == 3
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (INPUT, OUTPUT)
    caller.only_event(RESPONSE_U if _native(caller) else CHAT_U, streamed=1, outcome="ok")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_function_is_called_in_a_response(caller: Caller, streamed: bool) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    asked: dict[str, Any] = {"model": caller.listing, "input": TITLE, "tools": [tool]}
    with caller.openai() as client:
        if streamed:
            with client.responses.stream(**asked) as stream:
                stream.until_done()
                answer = stream.get_final_response()
        else:
            answer = client.responses.create(**asked)
    (item,) = answer.output
    assert item.type == "function_call"
    assert (item.name, item.arguments, item.call_id) == ("weather", CALL, "call_1")
    got = caller.engine.asked[-1].document["tools"]
    function = {"name": "weather", "parameters": WEATHER, "strict": True}
    translated = [{"type": "function", "function": function}]
    assert got == ([tool] if _native(caller) else translated)
    caller.only_event(RESPONSE_U if _native(caller) else CHAT_U)


# Messages.


def test_a_message(caller: Caller) -> None:
    with caller.anthropic() as client:
        raw = client.messages.with_raw_response.create(
            model=caller.listing, max_tokens=32, messages=ASK
        )
    answer = raw.parse()
    assert [block.text for block in answer.content] == [TEXT]
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (INPUT - CACHED, OUTPUT)
    assert answer.usage.cache_read_input_tokens == CACHED
    assert raw.headers["x-tm-cost-u"] == str(CHAT_U)
    caller.only_event(CHAT_U, input_uncached=7, cache_read=4, output=5, usage_source="engine")


def test_a_streamed_message(caller: Caller) -> None:
    with (
        caller.anthropic() as client,
        client.messages.stream(model=caller.listing, max_tokens=32, messages=ASK) as stream,
    ):
        pieces = list(stream.text_stream)
        answer = stream.get_final_message()
    assert "".join(pieces) == answer.content[0].text == TEXT
    assert len(pieces) == 3
    assert answer.usage.output_tokens == OUTPUT
    event = caller.only_event(CHAT_U, input_uncached=7, cache_read=4, output=5, streamed=1)
    assert event.outcome == "ok"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_used_in_a_message(caller: Caller, streamed: bool) -> None:
    tool = {"name": "weather", "description": "of a city", "input_schema": WEATHER}
    asked = {"model": caller.listing, "max_tokens": 32, "messages": ASK, "tools": [tool]}
    with caller.anthropic() as client:
        if streamed:
            with client.messages.stream(**asked) as stream:
                answer = stream.get_final_message()
        else:
            answer = client.messages.create(**asked)
    (block,) = answer.content
    assert (block.type, block.name, block.input) == ("tool_use", "weather", json.loads(CALL))
    assert answer.stop_reason == "tool_use"
    caller.only_event(CHAT_U)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_tool_runner_runs_its_tools(caller: Caller, streamed: bool) -> None:
    """Anthropic's SDK asks for a thread that is kept here, and goes on without one when it is told to."""
    anthropic = pytest.importorskip("anthropic")

    @anthropic.beta_tool  # type: ignore[untyped-decorator]
    def weather(city: str) -> str:
        return f"Sunny in {city}"

    def ends(asked: Asked) -> Reply:
        return usual(Asked(asked.path, {}, json.dumps(asked.document | {"tools": []}).encode()))

    caller.engine.script(usual, ends)
    with caller.anthropic() as client:
        runner = client.beta.messages.tool_runner(
            model=caller.listing, max_tokens=32, messages=ASK, tools=[weather], stream=streamed
        )
        said = runner.until_done().content
    assert [block.text for block in said] == [TEXT]
    first, second = (asked.document["messages"] for asked in caller.engine.asked)
    assert (len(first), len(second)) == (1, 3)
    assert "Sunny in Hangzhou" in json.dumps(second[2])


def test_arguments_of_any_depth_are_delivered_and_paid(chat_caller: Caller) -> None:
    deep = '{"a":' * 5_000 + "1" + "}" * 5_000

    def nests(asked: Asked) -> Reply:
        reply = usual(asked)
        assert reply.document is not None
        (call,) = reply.document["choices"][0]["message"]["tool_calls"]
        call["function"]["arguments"] = deep
        return reply

    chat_caller.engine.script(nests)
    tool = {"name": "weather", "input_schema": WEATHER}
    with chat_caller.anthropic() as client:
        answer = client.messages.create(
            model=chat_caller.listing, max_tokens=32, messages=ASK, tools=[tool]
        )
    assert answer.content[0].input == {"INVALID_JSON": deep}
    chat_caller.only_event(CHAT_U)


def test_counting_a_message_costs_nothing(caller: Caller) -> None:
    with caller.anthropic() as client:
        counted = client.messages.count_tokens(model=caller.listing, messages=ASK)
    assert counted.input_tokens == caller.engine.tokens
    assert events_of(caller.market, caller.org_id) == []
    assert caller.engine.asked == []


def test_errors_come_in_the_shape_of_the_path(caller: Caller) -> None:
    anthropic = pytest.importorskip("anthropic")
    with caller.anthropic() as client:
        with pytest.raises(anthropic.NotFoundError) as missing:
            client.messages.create(model="nobody/nothing", max_tokens=8, messages=ASK)
        caller.engine.script(refuses(400, "temperature is too high", param="temperature"))
        with pytest.raises(anthropic.BadRequestError) as refused:
            client.messages.create(model=caller.listing, max_tokens=8, messages=ASK)
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="tm-wrong").messages.create(
                model=caller.listing, max_tokens=8, messages=ASK
            )
    told = missing.value.response.json()
    assert (told["type"], told["error"]["type"]) == ("error", "not_found_error")
    assert told["request_id"] == missing.value.response.headers["x-tm-generation"]
    assert told["request_id"] == missing.value.request_id
    told = refused.value.response.json()
    assert told["error"]["type"] == "invalid_request_error"
    assert "temperature is too high" in told["error"]["message"]
    with caller.openai() as openai_client, pytest.raises(openai.NotFoundError) as error:
        openai_client.responses.create(model="nobody/nothing", input="x")
    assert error.value.code == "model_not_found"
    assert events_of(caller.market, caller.org_id) == []
    assert holds_of(caller.market, caller.org_id) == 0


@pytest.mark.parametrize("path", ["responses", "messages"])
def test_a_stream_that_breaks_off_says_so_and_costs_nothing(caller: Caller, path: str) -> None:
    # Three failures would make the others wait, so this engine is behind a listing of its own.
    caller.listing = caller.alike(caller.listing)

    def breaks(asked: Asked) -> Reply:
        return Reply(events=usual(asked).events, fails="close", after=4)

    caller.engine.script(breaks)
    if path == "responses":
        with caller.openai() as client, pytest.raises(openai.APIError):
            for event in client.responses.create(model=caller.listing, input=TITLE, stream=True):
                if event.type in ("error", "response.failed"):
                    raise openai.APIError(event.type, None, body=None)  # type: ignore[arg-type]
    else:
        anthropic = pytest.importorskip("anthropic")
        asked = {"model": caller.listing, "max_tokens": 8, "messages": ASK, "stream": True}
        with caller.anthropic() as client, pytest.raises(anthropic.APIError):
            list(client.messages.create(**asked))
    assert events_of(caller.market, caller.org_id) == []
    assert holds_of(caller.market, caller.org_id) == 0


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_an_error_with_status_200_is_no_answer_and_costs_nothing(caller: Caller, path: str) -> None:
    caller.engine.script(Reply({"error": {"message": "out of memory"}}))
    asked = {"model": caller.listing, "messages": ASK, "input": TITLE, "max_tokens": 8}
    with caller.openai() as client, pytest.raises(openai.InternalServerError):
        client.post(f"/{path}", body=asked, cast_to=object)
    assert events_of(caller.market, caller.org_id) == []
    assert holds_of(caller.market, caller.org_id) == 0


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_a_stream_that_begins_with_an_error_is_another_engines_to_answer(
    caller: Caller, engines: list[Upstream], path: str
) -> None:
    slug = caller.alike(caller.listing)
    add_endpoint(caller.market, slug, engines[1], priority=1)
    error = {"type": "error", "error": {"message": "out of memory"}}
    caller.engine.script(Reply(events=[named(error)]))
    asked = {"model": slug, "messages": ASK, "input": TITLE, "stream": True, "max_tokens": 8}
    with caller.openai() as client:
        assert "world" in client.post(f"/{path}", body=asked, cast_to=str)
    assert [len(engine.asked) for engine in engines[:2]] == [1, 1]
    caller.only_event(CHAT_U)


@pytest.mark.parametrize("path", ["chat", "responses", "messages"])
def test_who_leaves_a_stream_pays_for_what_was_made(caller: Caller, path: str) -> None:
    """The engine is cut off; where it had not yet said what was used, its tokenizer counts."""

    def waits(asked: Asked) -> Reply:
        return Reply(events=usual(asked).events, waits=True, after=5 if _native(caller) else 3)

    caller.engine.script(waits)
    with caller.openai() as client, caller.anthropic() as other:
        asked: dict[str, Any] = {"model": caller.listing, "stream": True}
        if path == "chat":
            stream: Any = client.chat.completions.create(messages=ASK, **asked)
        elif path == "responses":
            stream = client.responses.create(input=TITLE, **asked)
        else:
            stream = other.messages.create(messages=ASK, max_tokens=16, **asked)
        next(event for event in stream if "lo, " in str(event))  # the last that is sent
        stream.close()
        wait_until(lambda: caller.engine.aborted == 1)
        wait_until(lambda: len(events_of(caller.market, caller.org_id)) == 1)
    (event,) = events_of(caller.market, caller.org_id)
    tokens = caller.engine.tokens
    assert event.outcome == "cancelled"
    if _native(caller):
        counted = (event.input_uncached + event.cache_read, event.output, event.usage_source)
        assert counted == (tokens, tokens, "counted")
    else:
        # It says after each chunk what was used so far: three chunks, two of them of text.
        assert (event.input_uncached, event.cache_read, event.output) == (7, 4, 2)
    assert event.cost_u > 0
    assert holds_of(caller.market, caller.org_id) == 0


# Completions, embeddings, moderations.


def test_a_completion(chat_caller: Caller) -> None:
    with chat_caller.openai() as client:
        answer = client.completions.create(model=chat_caller.listing, prompt=TITLE, echo=False)
        assert answer.choices[0].text == TEXT
    got = chat_caller.engine.asked[-1].document
    assert (got["prompt"], got["echo"]) == (TITLE, False)
    chat_caller.only_event(CHAT_U)


def test_each_prompt_of_a_completion_is_held_for(chat_caller: Caller) -> None:
    """A list of prompts has an answer for each, so the hold must cover all of them."""
    prompts, limit = ["red", "green", "blue", "white"], 100

    def uses_it_up(asked: Asked) -> Reply:
        made = len(prompts) * 2 * limit
        return Reply(completion(asked.document) | {"usage": chat_usage(made)})

    chat_caller.engine.script(uses_it_up)
    with chat_caller.openai() as client:
        raw = client.completions.with_raw_response.create(
            model=chat_caller.listing, prompt=prompts, max_tokens=limit, n=2
        )
    assert len(raw.parse().choices) == 8
    cost_u = CHAT_U + (8 * limit - OUTPUT) * 20
    assert raw.headers["x-tm-cost-u"] == str(cost_u)
    chat_caller.only_event(cost_u, output=8 * limit)


@pytest.mark.parametrize("given", ["one", ["one", "two"], [[1, 2, 3], [4]]])
def test_embeddings(chat_caller: Caller, given: Any) -> None:
    with chat_caller.openai() as client:
        raw = client.embeddings.with_raw_response.create(
            model=chat_caller.listing, input=given, encoding_format="float"
        )
    answer = raw.parse()
    assert len(answer.data) == (len(given) if isinstance(given, list) else 1)
    assert answer.data[0].embedding == [0.25, -0.5]
    assert raw.headers["x-tm-cost-u"] == str(INPUT * 10)
    got = chat_caller.engine.asked[-1].document
    assert got == {"model": "m", "input": given, "encoding_format": "float"}
    chat_caller.only_event(INPUT * 10, input_uncached=INPUT, output=0)


def test_moderations_are_counted_by_the_engines_tokenizer(chat_caller: Caller) -> None:
    with chat_caller.openai() as client:
        raw = client.moderations.with_raw_response.create(model=chat_caller.listing, input=TITLE)
    assert raw.parse().results[0].flagged
    cost_u = chat_caller.engine.tokens * 10
    assert raw.headers["x-tm-cost-u"] == str(cost_u)
    chat_caller.only_event(cost_u, usage_source="counted", output=0)


# What an engine that tells no usage is paid for.


@pytest.mark.parametrize("odd", [b"1e400", b'"\xff"', b"[" * 980 + b"]" * 980])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_only_the_engine_could_read_is_counted_all_the_same(
    chat_caller: Caller, odd: bytes, streamed: bool
) -> None:
    def silent(asked: Asked) -> Reply:
        document = {"model": "m", "messages": []}
        answer = chat(document)
        del answer["usage"]
        return Reply(events=chat_events(document)) if streamed else Reply(answer)

    chat_caller.engine.script(silent)
    asked: dict[str, Any] = {"model": chat_caller.listing, "messages": ASK, "stream": streamed}
    body = json.dumps(asked).encode()[:-1] + b',"x":' + odd + b"}"
    with chat_caller.openai() as client:
        told = client.post("/chat/completions", content=body, cast_to=str)
    assert "error" not in told
    tokens = chat_caller.engine.tokens
    chat_caller.only_event(tokens * 30, usage_source="counted", output=tokens)


@pytest.mark.parametrize("given", [[1, 2, 3, 4, 5], [[1, 2], [3, 4, 5]]])
def test_ids_of_tokens_are_as_many_as_there_are(chat_caller: Caller, given: list[Any]) -> None:
    def silent(asked: Asked) -> Reply:
        if asked.path.endswith("/tokenize"):
            return refuses(400, "a text is needed")
        return Reply({"object": "list", "data": [], "model": "m"})

    url = f"{chat_caller.engine.url}/behind/a/path"  # where its /tokenize is scripted, too
    slug = chat_caller.market.listing(PRICE, url=url, model="m", context_length=100_000)
    chat_caller.engine.answer = silent
    with chat_caller.openai() as client:
        asked = {"model": slug, "input": given}
        client.post("/embeddings", body=asked, cast_to=object)
    chat_caller.only_event(5 * 10, usage_source="estimated", input_uncached=5)


# What reaches the engine.


EVERYTHING: dict[str, Any] = {
    "temperature": 0.1,
    "top_p": 0.30000000000000004,
    "seed": 9_007_199_254_740_993,
    "logprobs": True,
    "top_logprobs": 3,
    "n": 2,
    "stop": ["\n\n", "结束"],
    "logit_bias": {"50256": -100},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "w", "strict": True, "schema": WEATHER},
    },
    "parallel_tool_calls": False,
    "x_unknown": {"deep": [1, 2.50, None, {"é": "\U0001f600"}], "empty": {}},
    "chat_template_kwargs": {"enable_thinking": False},
    "messages": [
        {"role": "system", "content": "Be brief. \\ \" \u0000 \u2028"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
                {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\": \"H\"}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "[{\"t\": 21}]"},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
}  # fmt: skip


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_chat_request_reaches_the_engine_as_it_was_sent(chat_caller: Caller, limit: str) -> None:
    asked = EVERYTHING | {limit: 20}
    with chat_caller.openai() as client:
        answer = client.chat.completions.create(
            model=chat_caller.listing, extra_body=asked, messages=[]
        )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].message.tool_calls is not None
    bound = {"max_tokens": 20, "max_completion_tokens": 20}
    assert chat_caller.engine.asked[-1].document == asked | bound | {"model": "m"}
    chat_caller.only_event(CHAT_U)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_completion_tokens": 16},
        {"max_completion_tokens": 16, "max_tokens": 50_000},
        {"max_output_tokens": 16},
        {"max_tokens": 16, "n_predict": 50_000, "n_cmpl": 8},
    ],
)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_an_engine_is_told_the_bound_that_is_held_for_under_every_name_that_it_may_read(
    chat_caller: Caller, path: str, limits: dict[str, int]
) -> None:
    """What it made beyond the hold would be charged to nobody."""
    asked = {"model": chat_caller.listing, "messages": ASK, "prompt": TITLE} | limits
    with chat_caller.openai() as client:
        client.post(f"/{path}", body=asked, cast_to=object)
    got = chat_caller.engine.asked[-1].document
    assert got["max_tokens"] == 16
    assert path == "completions" or got["max_completion_tokens"] == 16
    assert not {"n_predict", "n_cmpl"} & got.keys()


def test_a_native_request_reaches_the_engine_as_it_was_sent(native_caller: Caller) -> None:
    body: dict[str, Any] = {
        "input": [{"role": "user", "content": [
            {"type": "input_text", "text": "this?"},
            {"type": "input_image", "image_url": "data:image/png;base64,iVBO"}]}],
        "tools": [{"type": "web_search"}, {"type": "function", "name": "f", "parameters": WEATHER}],
        "previous_response_id": "resp_before",
        "store": True,
        "max_output_tokens": 33,
        "text": {"format": {"type": "json_schema", "name": "w", "schema": WEATHER}},
        "x_unknown": {"kept": [1]},
    }  # fmt: skip
    asked = body | {"model": native_caller.listing}
    with native_caller.openai() as client:
        client.post("/responses", body=asked, cast_to=object)
    assert native_caller.engine.asked[-1].document == body | {"model": "m"}
    native_caller.only_event(RESPONSE_U)


def test_a_native_message_reaches_the_engine_as_it_was_sent(native_caller: Caller) -> None:
    body: dict[str, Any] = {
        "max_tokens": 33,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": ASK,
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "metadata": {"user_id": "u"},
        "x_unknown": [],
    }
    asked = body | {"model": native_caller.listing}
    with native_caller.anthropic() as client:
        client.post("/v1/messages", body=asked, cast_to=object)
    assert native_caller.engine.asked[-1].document == body | {"model": "m"}
    native_caller.only_event(CHAT_U)


LINK = "https://pictures.example/1.png"
PARTS: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"type": "image_url", "image_url": {"url": LINK}}),
    ("chat/completions", {"image_url": LINK}),
    ("chat/completions", {"type": "video_url", "video_url": {"url": LINK}}),
    ("chat/completions", {"type": "file", "file": {"file_id": "f"}}),
    ("responses", {"type": "input_image", "image_url": LINK}),
    ("responses", {"type": "input_file", "file_id": "f"}),
    ("messages", {"type": "image", "source": {"type": "url", "url": LINK}}),
    ("messages", {"type": "document", "source": {"type": "url", "url": LINK}}),
]


def _uses(input_tokens: int) -> Callable[[Asked], Reply]:
    """An engine whose answer says that the prompt had so many tokens, in the shape that it was asked in."""

    def answer(asked: Asked) -> Reply:
        reply = usual(asked)
        usage = reply.document["usage"]
        usage["prompt_tokens" if "prompt_tokens" in usage else "input_tokens"] = input_tokens
        usage["total_tokens"] = input_tokens + OUTPUT
        for part in ("prompt_tokens_details", "input_tokens_details", "cache_read_input_tokens"):
            usage.pop(part, None)
        return reply

    return answer


def _ask_with(caller: Caller, path: str, part: dict[str, Any], spelt: str = "") -> None:
    turns = [{"role": "user", "content": [part]}]
    name = "input" if path == "responses" else "messages"
    body = {"model": caller.listing, name: turns, "max_tokens": 9, "max_output_tokens": 9}
    text = json.dumps(body)
    if spelt:
        text = text.replace(spelt, "".join(f"\\u{ord(c):04x}" for c in spelt))
    headers = {"authorization": f"Bearer {caller.key}", "content-type": "application/json"}
    answer = httpx2.post(f"{caller.market.url}/v1/{path}", content=text, headers=headers)
    assert answer.status_code == 200, answer.text


def _input_paid(caller: Caller) -> int:
    (event,) = events_of(caller.market, caller.org_id)
    assert holds_of(caller.market, caller.org_id) == event.overrun_u == 0
    assert "marks" not in json.loads(event.route)
    return int(event.input_uncached + event.cache_read)


@pytest.mark.parametrize(("path", "part"), PARTS)
@pytest.mark.parametrize("spelt", ["", "url", "file"])
def test_what_is_no_text_is_held_for_and_paid(
    native_caller: Caller, path: str, part: dict[str, Any], spelt: str
) -> None:
    """A link is a few bytes, and what it leads to some thousand tokens; whatever its name is spelt with."""
    native_caller.engine.script(_uses(2000))
    _ask_with(native_caller, path, part, spelt)
    assert _input_paid(native_caller) == 2000


def test_a_picture_that_is_longer_than_the_context_as_text_is_held_for(chat_caller: Caller) -> None:
    chat_caller.engine.script(_uses(2000))
    data = "data:image/png;base64," + "A" * 200_000
    part = {"type": "image_url", "image_url": {"url": data}}
    _ask_with(chat_caller, "chat/completions", part)
    assert _input_paid(chat_caller) == 2000


def test_what_an_engine_adds_of_its_own_is_held_for_and_paid(native_caller: Caller) -> None:
    native_caller.engine.script(_uses(90_000))
    with native_caller.openai() as client:
        client.responses.create(
            model=native_caller.listing, input="go on", previous_response_id="resp_before"
        )
    assert _input_paid(native_caller) == 90_000


def test_an_engine_that_counts_no_tokens_goes_on_with_what_it_keeps(native_caller: Caller) -> None:
    """How much it adds no tokenizer could say: a short request needs none."""

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/tokenize"):
            return refuses(404, "no such path")
        path = asked.path.removeprefix("/behind/a/path")
        return _uses(90_000)(Asked(path, asked.headers, asked.body))

    url = f"{native_caller.engine.url}/behind/a/path"  # where its /tokenize is scripted, too
    slug = native_caller.market.listing(PRICE, url=url, model="m", context_length=100_000)
    change_endpoints(native_caller.market, slug, speaks=EVERY_SHAPE)
    native_caller.engine.answer = answer
    with native_caller.openai() as client:
        client.responses.create(model=slug, input="go on", previous_response_id="resp_before")
    assert _input_paid(native_caller) == 90_000


def test_what_cannot_be_translated_is_refused_only_where_it_must_be(chat_caller: Caller) -> None:
    with chat_caller.openai() as client, pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(
            model=chat_caller.listing, input="x", tools=[{"type": "web_search"}]
        )
    assert refused.value.param == "tools[0].type"
    assert chat_caller.engine.asked == []
    assert holds_of(chat_caller.market, chat_caller.org_id) == 0


def test_what_no_engine_can_be_asked_is_refused_before_anybody_is_asked_to_pay(
    chat_caller: Caller,
) -> None:
    _, penniless = chat_caller.market.organisation()
    with chat_caller.openai().with_options(api_key=penniless) as client:
        with pytest.raises(openai.APIStatusError) as unpaid:
            client.responses.create(model=chat_caller.listing, input="x")
        assert unpaid.value.status_code == 402
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(
                model=chat_caller.listing, input="x", tools=[{"type": "web_search"}]
            )
    assert refused.value.param == "tools[0].type"


def test_what_cannot_be_translated_goes_to_an_engine_that_speaks_it(
    chat_caller: Caller, engines: list[Upstream]
) -> None:
    """Whatever stands before it, and whatever fails: who does not speak the shape is not asked."""
    slug = chat_caller.market.listing(
        PRICE, url=chat_caller.engine.url, model="m", context_length=100_000
    )
    for number, engine in enumerate(engines[1:], 1):
        add_endpoint(chat_caller.market, slug, engine, priority=number, speaks='["responses"]')
    engines[1].script(refuses(500))
    with chat_caller.openai() as client:
        answer = client.responses.create(model=slug, input="x", tools=[{"type": "web_search"}])
        assert answer.output_text == TEXT
        client.responses.create(model=slug, input="x")
    assert [len(engine.asked) for engine in engines] == [1, 1, 1]
    assert {event.cost_u for event in events_of(chat_caller.market, chat_caller.org_id)} == {
        RESPONSE_U,
        CHAT_U,
    }


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("limits", "names"),
    [
        ({"max_tokens": 1000}, ("max_tokens", "max_completion_tokens")),
        ({"max_completion_tokens": 1000}, ("max_tokens", "max_completion_tokens")),
        ({}, ("max_tokens", "max_completion_tokens")),
    ],
)
def test_a_short_voucher_shortens_the_answer_at_the_engine(
    chat_caller: Caller, limits: dict[str, int], names: tuple[str, ...], streamed: bool
) -> None:
    """20 yuan a million tokens of output: what is left after the input's bound pays for some tokens."""
    org_id, key = chat_caller.market.organisation(voucher_u=3_000)
    messages: Any = ASK
    with openai.OpenAI(base_url=f"{chat_caller.market.url}/v1", api_key=key, max_retries=0) as c:
        raw = c.chat.completions.with_raw_response.create(
            model=chat_caller.listing, messages=messages, stream=streamed, extra_body=limits
        )
        if streamed:
            assert "".join(x.choices[0].delta.content or "" for x in raw.parse() if x.choices)
    document = chat_caller.engine.asked[-1].document
    sent = document["max_tokens"]
    assert [document[name] for name in names] == [sent, sent]
    if limits:
        assert raw.headers["x-tm-max-tokens"] == str(sent)
        assert 16 <= sent < 1000
    (event,) = events_of(chat_caller.market, org_id)
    assert (event.cost_u, event.voucher_u) == (CHAT_U, CHAT_U)


# The seed engine, which is real.


def test_the_seed_engine_answers_every_shape_alike(market: Market) -> None:
    anthropic = pytest.importorskip("anthropic")
    org_id, key = market.organisation(voucher_u=1_000_000)
    with (
        openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0) as client,
        anthropic.Anthropic(base_url=market.url, api_key=key, max_retries=0) as other,
    ):
        chat = client.chat.completions.create(model=SEED, messages=ASK, temperature=0)
        response = client.responses.create(model=SEED, input=TITLE, temperature=0)
        with client.responses.stream(model=SEED, input=TITLE, temperature=0) as stream:
            streamed = stream.until_done().get_final_response()
        asked = {"model": SEED, "messages": ASK, "max_tokens": 64, "extra_body": {"temperature": 0}}
        message = other.messages.create(**asked)
        with other.messages.stream(**asked) as events:
            told = events.get_final_message()
        counted = other.messages.count_tokens(model=SEED, messages=ASK)
    texts = (
        response.output_text,
        streamed.output_text,
        message.content[0].text,
        told.content[0].text,
    )
    assert set(texts) == {chat.choices[0].message.content}
    assert chat.usage is not None
    used = (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    rows = events_of(market, org_id)
    assert [(e.input_uncached + e.cache_read, e.output) for e in rows] == [used] * 5
    assert {e.cost_u for e in rows} == {
        (used[0] * 500_000 + used[1] * 2_000_000 + 500_000) // 10**6
    }
    assert (counted.input_tokens, message.usage.output_tokens) == used


@pytest.mark.parametrize("shape", ["embeddings", "moderations"])
def test_what_an_engine_cannot_do_costs_nothing(
    market: Market, shape: str, client: openai.OpenAI
) -> None:
    org_id, key = market.organisation(voucher_u=1_000_000)
    calls: dict[str, Callable[..., object]] = {
        "embeddings": client.with_options(api_key=key).embeddings.create,
        "moderations": client.with_options(api_key=key).moderations.create,
    }
    with pytest.raises(openai.NotFoundError):
        calls[shape](model=SEED, input="x")
    assert (events_of(market, org_id), holds_of(market, org_id)) == ([], 0)


def test_an_endpoint_beside_it_that_speaks_less_gets_it_translated(
    native_caller: Caller, engines: list[Upstream]
) -> None:
    """The same listing, one engine that speaks Messages and one that does not: retried, translated."""
    slug = native_caller.market.listing(
        PRICE, url=native_caller.engine.url, model="m", context_length=100_000
    )
    change_endpoints(native_caller.market, slug, speaks='["messages"]')
    add_endpoint(native_caller.market, slug, engines[1], priority=1, model="other")
    native_caller.engine.script(refuses(500))
    with native_caller.anthropic() as client:
        answer = client.messages.create(model=slug, max_tokens=32, messages=ASK)
    assert answer.content[0].text == TEXT
    assert [asked.path for asked in native_caller.engine.asked] == ["/v1/messages"]
    assert [asked.path for asked in engines[1].asked] == ["/v1/chat/completions"]
    native_caller.only_event(CHAT_U)
