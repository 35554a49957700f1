"""What a request becomes for the engine, and what is refused because it cannot become anything."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from pydantic import TypeAdapter

from catalog.ground.errors import BadRequest
from serving.translation import Messages, Responses, token_count_for

Json = dict[str, Any]
HI: Json = {"role": "user", "content": "Hi"}
FUNCTION: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}}
TOOL: Json = {"name": "f", "input_schema": {"type": "object"}}
CALL: Json = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
USE: Json = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PNG = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
_chat: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsBase)


def responses(**fields: Any) -> Json:
    chat = Responses({"model": "acme/chat", "input": "Hi"} | fields).chat_request()
    _chat.validate_python(chat)
    return chat


def messages(*turns: Json, **fields: Any) -> Json:
    body = {"model": "acme/chat", "max_tokens": 9, "messages": list(turns) or [HI]}
    chat = Messages(body | fields).chat_request()
    _chat.validate_python(chat)
    return chat


def test_the_smallest_requests() -> None:
    assert responses() == {"model": "acme/chat", "messages": [HI]}
    assert messages() == {"model": "acme/chat", "messages": [HI], "max_tokens": 9}


def test_plain_fields_of_responses() -> None:
    chat = responses(
        stream=True,
        max_output_tokens=7,
        temperature=0.1,
        top_p=0.9,
        metadata={"a": "b"},
        user="u",
        reasoning={"effort": "high", "summary": "auto"},
        text={"verbosity": "low", "format": {"type": "json_object"}},
        top_logprobs=3,
        truncation="auto",
        store=False,
        include=["reasoning.encrypted_content"],
        service_tier="auto",
        parallel_tool_calls=True,
        previous_response_id=None,
    )
    assert chat == {
        "model": "acme/chat",
        "messages": [HI],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 7,
        "temperature": 0.1,
        "top_p": 0.9,
        "metadata": {"a": "b"},
        "user": "u",
        "reasoning_effort": "high",
        "verbosity": "low",
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "top_logprobs": 3,
    }


def test_plain_fields_of_messages() -> None:
    chat = messages(
        stream=True,
        stop_sequences=["END"],
        temperature=0.1,
        top_p=0.9,
        top_k=5,
        metadata={"user_id": "u"},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": {}}},
        thinking={"type": "adaptive"},
        service_tier="auto",
    )
    form = {"name": "answer", "schema": {}, "strict": True}
    assert chat == {
        "model": "acme/chat",
        "messages": [HI],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": ["END"],
        "temperature": 0.1,
        "top_p": 0.9,
        "top_k": 5,
        "user": "u",
        "reasoning_effort": "high",
        "response_format": {"type": "json_schema", "json_schema": form},
    }


def test_instructions_at_the_start_are_one_system_message() -> None:
    given = [{"role": "developer", "content": "B"}, HI, {"role": "system", "content": "C"}]
    assert responses(instructions="A", input=given)["messages"] == [
        {"role": "system", "content": "A\n\nB"},
        HI,
        {"role": "system", "content": "C"},
    ]
    blocks = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    turns = messages(HI, {"role": "system", "content": "C"}, HI, system=blocks)["messages"]
    assert turns == [
        {"role": "system", "content": "A\n\nB"},
        HI,
        {"role": "system", "content": "C"},
        HI,
    ]


def test_one_turn_of_the_model_is_one_message() -> None:
    text = {"type": "output_text", "text": "Hm.", "annotations": []}
    said = {"type": "message", "role": "assistant", "id": "m", "content": [text]}
    thought = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "T"}]}
    output = {"type": "function_call_output", "call_id": "c1", "output": "ok"}
    turn = {
        "role": "assistant",
        "content": "Hm.",
        "reasoning": "T",
        "reasoning_content": "T",
        "tool_calls": [CHAT_CALL],
    }
    result = {"role": "tool", "tool_call_id": "c1", "content": "ok"}
    assert responses(input=[HI, thought, said, CALL, output])["messages"] == [HI, turn, result]
    blocks = [
        {"type": "thinking", "thinking": "T", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Hm."},
        USE,
    ]
    answer = [{"type": "tool_result", "tool_use_id": "c1", "content": "ok"}]
    turns = messages(
        HI, {"role": "assistant", "content": blocks}, {"role": "user", "content": answer}
    )
    assert turns["messages"] == [HI, turn, result]


def test_pictures_and_files() -> None:
    url = {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}
    file = {
        "type": "input_file",
        "filename": "a.pdf",
        "file_data": "data:application/pdf;base64,QQ",
    }
    given = [{"type": "input_text", "text": "See"}, url, file]
    (turn,) = responses(input=[{"role": "user", "content": given}])["messages"]
    assert turn["content"] == [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ"},
        },
    ]
    link = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    blocks = [{"type": "image", "source": PNG}, link, {"type": "text", "text": "See"}]
    (turn,) = messages({"role": "user", "content": blocks})["messages"]
    assert turn["content"] == [
        PICTURE,
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "text", "text": "See"},
    ]


def test_documents_and_search_results_become_text() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "Body"}
    found = {
        "type": "search_result",
        "title": "Page",
        "source": "https://x",
        "content": [{"type": "text", "text": "Found"}],
    }
    blocks = [{"type": "document", "title": "Title", "source": plain}, found]
    assert messages({"role": "user", "content": blocks})["messages"] == [
        {"role": "user", "content": "Title\nBody\nPage (https://x)\nFound"}
    ]


def test_pictures_of_a_tool_follow_its_result() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "is_error": True,
        "content": [{"type": "text", "text": "No"}, {"type": "image", "source": PNG}],
    }
    answer = {"role": "user", "content": [result, {"type": "text", "text": "Look"}]}
    turns = messages(HI, {"role": "assistant", "content": [USE]}, answer)["messages"]
    assert turns[2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "The tool failed:\nNo"},
        {"role": "user", "content": [PICTURE, {"type": "text", "text": "Look"}]},
    ]
    shown = [{"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": None}]
    output = {"type": "function_call_output", "call_id": "c1", "output": shown}
    assert responses(input=[HI, CALL, output])["messages"][2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {"role": "user", "content": [PICTURE]},
    ]


def test_tools_and_the_choice_among_them() -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    tool = {"type": "function", "function": function}
    named = {"type": "function", "function": {"name": "f"}}
    assert responses(tools=[FUNCTION]) == responses() | {"tools": [tool], "tool_choice": "auto"}
    assert responses(tools=[], tool_choice="auto") == responses()
    chat = responses(
        tools=[FUNCTION], tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False
    )
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == (named, False)
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "f"}],
    }
    chat = responses(tools=[FUNCTION, FUNCTION | {"name": "g"}], tool_choice=allowed)
    assert (chat["tools"], chat["tool_choice"]) == ([tool], "required")
    for choice, wanted in (
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, named),
    ):
        chat = messages(tools=[TOOL], tool_choice=choice)
        assert (chat["tools"], chat["tool_choice"]) == ([tool], wanted)
    chat = messages(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert chat["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "disabled"}, "none"),
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 8000}, "medium"),
        ({"type": "enabled", "budget_tokens": 32_000}, "high"),
        ({"type": "adaptive"}, None),
    ],
)
def test_a_budget_of_thinking_is_an_effort(thinking: Json, effort: str | None) -> None:
    assert messages(thinking=thinking).get("reasoning_effort") == effort


def test_a_budget_gives_way_to_an_effort_that_is_named() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    assert messages(thinking=thinking, output_config={"effort": "max"})["reasoning_effort"] == "max"


OUTPUT: Json = {"type": "function_call_output", "call_id": "c9", "output": "x"}
RESULT: Json = {"type": "tool_result", "tool_use_id": "c9", "content": "x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "odd"}]}]}, "input[0].content[0].type"),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "file_id": "f", "detail": "auto"}]}
                ]
            },
            "input[0].content[0].file_id",
        ),
        ({"input": [HI, OUTPUT]}, "input[1].call_id"),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type"),
        (
            {"input": [{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}]},
            "input[0].encrypted_content",
        ),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [FUNCTION | {"defer_loading": True}]}, "tools[0]"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ],
)  # fmt: skip
def test_what_responses_refuses(fields: Json, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        responses(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 7}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [HI, {"role": "assistant", "content": "So"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "user", "content": [{"type": "odd"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content[0].source.type",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "document",
                                "citations": {"enabled": True},
                                "source": {"type": "text", "data": "x"},
                            }
                        ],
                    }
                ]
            },
            "messages[0].content[0].citations",
        ),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ({"compaction": {"type": "summarize"}}, "compaction"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"stop_sequences": "END"}, "stop_sequences"),
    ],
)  # fmt: skip
def test_what_messages_refuses(fields: Json, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Messages({"model": "m", "max_tokens": 9, "messages": [HI]} | fields)
    assert refused.value.param == param


def test_every_way_out_is_named() -> None:
    with pytest.raises(BadRequest) as refused:
        responses(previous_response_id="resp_1")
    assert "whole conversation" in (refused.value.remedy or "")


def test_counting_needs_no_bound_on_the_answer() -> None:
    body: Json = {"model": "m", "messages": [HI], "tools": [TOOL], "system": "S"}
    body["compaction"] = {"type": "summarize"}  # counted as sent
    counted = token_count_for("/v1/messages/count_tokens")(body)
    assert [turn["role"] for turn in counted.chat_request()["messages"]] == ["system", "user"]
    assert counted.answer(5) == {"input_tokens": 5}
    responses_count = token_count_for("/v1/responses/input_tokens")({"model": "m", "input": "Hi"})
    assert responses_count.answer(5) == {"object": "response.input_tokens", "input_tokens": 5}
