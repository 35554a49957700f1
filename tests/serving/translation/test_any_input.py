"""Whatever a client or an engine sends, it is either understood or refused by a name of ours."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest, UpstreamFailed
from serving.translation import translation_for

Json = dict[str, Any]
PICTURE = {"type": "base64", "media_type": "image/png", "data": "QQ=="}
BODIES: dict[str, Json] = {
    "/v1/responses": {
        "model": "m",
        "instructions": "A",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": "https://x"}]},
            {"role": "user", "content": [{"type": "input_file", "file_data": "QQ", "filename": "a"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}], "content": []},
            {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "r"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {}, "allowed_callers": ["direct"]}],
        "tool_choice": {
            "type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]
        },
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
        "reasoning": {"effort": "low", "mode": "standard"},
        "include": ["message.output_text.logprobs"],
        "metadata": {"a": "b"},
        "top_logprobs": 1,
        "max_output_tokens": 5,
        "stream": True,
    },
    "/v1/messages": {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": PICTURE}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "tool_use", "id": "c", "name": "f", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "x"}]},
                    {"type": "document", "title": "t", "source": {"type": "text", "data": "d"}},
                    {"type": "document", "source": {"type": "content", "content": "d"}},
                    {"type": "search_result", "title": "t", "source": "s", "content": []},
                ],
            },
        ],
        "tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
        "metadata": {"user_id": "u"},
        "stop_sequences": ["x"],
        "stream": True,
    },
}  # fmt: skip
CHUNK: Json = {
    "choices": [
        {
            "index": 0,
            "delta": {
                "reasoning": "r",
                "content": "c",
                "refusal": "f",
                "tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": "{}"}}],
            },
            "logprobs": {"content": [{"token": "c", "bytes": [99], "logprob": -1, "top_logprobs": []}]},
            "finish_reason": "stop",
            "stop_reason": "x",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
}  # fmt: skip

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1) | st.sampled_from(["", "x", "type"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["type", "x"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in inner:
        found.append((*path, key))
        if isinstance(item, dict | list):
            found += _places(item, (*path, key))
    return found


@st.composite
def spoiled(draw: st.DrawFn, document: Json) -> Json:
    """Put something else into one or two places of a document."""
    changed = copy.deepcopy(document)
    for path in draw(st.lists(st.sampled_from(_places(document)), min_size=1, max_size=2)):
        holder: Any = changed
        try:
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = draw(anything)
        except (KeyError, IndexError, TypeError):
            continue  # the place has gone with the first change
    return changed


many = settings(max_examples=200, deadline=None)


@pytest.mark.parametrize("path", sorted(BODIES))
def test_the_unspoiled_ones_are_understood(path: str) -> None:
    asked = translation_for(path)(BODIES[path])
    assert asked.begin("gen_1", 1) + asked.feed(CHUNK) + asked.finish()


@pytest.mark.parametrize("path", sorted(BODIES))
@many
@given(data=st.data())
def test_requests(path: str, data: st.DataObject) -> None:
    body = data.draw(spoiled(BODIES[path]))
    try:
        asked = translation_for(path)(body)
    except BadRequest:
        return
    json.dumps(asked.chat_request())
    assert asked.begin("gen_1", 1) + asked.feed(CHUNK) + asked.finish()


@pytest.mark.parametrize("path", sorted(BODIES))
@many
@given(data=st.data())
def test_engines(path: str, data: st.DataObject) -> None:
    asked = translation_for(path)(BODIES[path])
    chunk = data.draw(spoiled(CHUNK))
    whole = copy.deepcopy(chunk)
    for choice in whole["choices"] if isinstance(whole.get("choices"), list) else ():
        if isinstance(choice, dict):
            choice["message"] = choice.pop("delta", None)
    try:
        assert asked.begin("gen_1", 1) + asked.feed(chunk) + asked.finish()
        json.dumps(asked.answer(whole, "gen_1", 1))
    except UpstreamFailed:
        return
