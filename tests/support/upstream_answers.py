"""What the scripted engine says: "Hello, world" in each shape, 11 tokens in and 5 out.

Where the request has tools, it calls the first with `{"city": "Hangzhou"}` instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
WORDS = ("Hel", "lo, ", "world")
TEXT = "".join(WORDS)
CALL = '{"city": "Hangzhou"}'
INPUT, OUTPUT = 11, 5
CACHED = 4


def chat_usage(made: int = OUTPUT) -> Json:
    """Return the usage object of chat completions after so many tokens of output."""
    return {
        "prompt_tokens": INPUT,
        "completion_tokens": made,
        "total_tokens": INPUT + made,
        "prompt_tokens_details": {"cached_tokens": CACHED},
    }


def data(document: Json | str) -> bytes:
    """Return an event without a name."""
    words = document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))
    return f"data: {words}\n\n".encode()


def named(document: Json) -> bytes:
    """Return an event whose name is its type."""
    return f"event: {document['type']}\n".encode() + data(document)


def _tool(asked: Json) -> str:
    """Return the name of the first function that may be called."""
    for tool in asked.get("tools") or []:
        name = tool.get("function", tool).get("name")
        if name:
            return str(name)
    return ""


def chat(asked: Json) -> Json:
    name = _tool(asked)
    message: Json = {"role": "assistant", "content": None if name else TEXT}
    if name:
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": CALL}}
        message["tool_calls"] = [call]
    choice = {"message": message, "finish_reason": "tool_calls" if name else "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": n} | choice for n in range(asked.get("n") or 1)],
        "usage": chat_usage(),
        "system_fingerprint": "fp",
    }


def chat_events(asked: Json) -> list[bytes]:
    told = asked.get("stream_options") or {}
    name = _tool(asked)
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    if name:
        head = {"index": 0, "id": "call_1", "type": "function"}
        deltas.append({"tool_calls": [head | {"function": {"name": name, "arguments": ""}}]})
        parts = [{"arguments": part} for part in (CALL[:8], CALL[8:])]
        deltas += [{"tool_calls": [{"index": 0, "function": part}]} for part in parts]
    else:
        deltas += [{"content": word} for word in WORDS]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    head["model"] = asked["model"]
    events = []
    for made, delta in enumerate(deltas):
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        usage = {"usage": chat_usage(made)} if told.get("continuous_usage_stats") else {}
        events.append(data(head | {"choices": [choice]} | usage))
    finish = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if name else "stop"}
    events.append(data(head | {"choices": [finish]}))
    if told.get("include_usage"):
        events.append(data(head | {"choices": [], "usage": chat_usage()}))
    return [*events, data("[DONE]")]


def completion(asked: Json) -> Json:
    prompts = asked["prompt"] if isinstance(asked["prompt"], list) else [asked["prompt"]]
    count = len(prompts) * (asked.get("n") or 1)
    choices = [{"index": n, "text": TEXT, "finish_reason": "stop"} for n in range(count)]
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": asked["model"],
        "choices": choices,
        "usage": chat_usage(OUTPUT * count) | {"total_tokens": INPUT + OUTPUT * count},
    }


def completion_events(asked: Json) -> list[bytes]:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": asked["model"]}
    events = [data(head | {"choices": [{"index": 0, "text": word}]}) for word in WORDS]
    if asked.get("stream_options"):
        events.append(data(head | {"choices": [], "usage": chat_usage()}))
    return [*events, data("[DONE]")]


def embeddings(asked: Json) -> Json:
    inputs = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    vector = {"object": "embedding", "embedding": [0.25, -0.5]}
    return {
        "object": "list",
        "data": [vector | {"index": n} for n in range(len(inputs))],
        "model": asked["model"],
        "usage": {"prompt_tokens": INPUT, "total_tokens": INPUT},
    }


def moderations(asked: Json) -> Json:
    result = {"flagged": True, "categories": {"violence": True}, "category_scores": {"violence": 1}}
    return {"id": "modr-1", "model": asked["model"], "results": [result]}


def response_usage() -> Json:
    return {
        "input_tokens": INPUT,
        "input_tokens_details": {"cached_tokens": CACHED},
        "output_tokens": OUTPUT,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": INPUT + OUTPUT,
    }


def response(asked: Json) -> Json:
    name = _tool(asked)
    item: Json
    if name:
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name}
        item |= {"arguments": CALL, "status": "completed"}
    else:
        text = {"type": "output_text", "text": TEXT, "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}
        item["status"] = "completed"
    return {
        "id": "resp_of_the_engine",
        "object": "response",
        "created_at": 1,
        "model": asked["model"],
        "status": "completed",
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": asked.get("tools") or [],
        "usage": response_usage(),
    }


def response_events(asked: Json) -> list[bytes]:
    whole = response(asked)
    (item,) = whole["output"]
    begun = whole | {"status": "in_progress", "output": [], "usage": None}
    events: list[Json] = [{"type": "response.created", "response": begun}]
    place = {"output_index": 0, "item_id": item["id"]}
    if item["type"] == "function_call":
        added = item | {"arguments": "", "status": "in_progress"}
        events.append({"type": "response.output_item.added", "output_index": 0, "item": added})
        kind = "response.function_call_arguments"
        events += [place | {"type": f"{kind}.delta", "delta": p} for p in (CALL[:8], CALL[8:])]
        events.append(place | {"type": f"{kind}.done", "arguments": CALL})
    else:
        added = item | {"content": [], "status": "in_progress"}
        events.append({"type": "response.output_item.added", "output_index": 0, "item": added})
        place["content_index"] = 0
        part = {"type": "output_text", "text": "", "annotations": []}
        events.append(place | {"type": "response.content_part.added", "part": part})
        kind = "response.output_text"
        events += [place | {"type": f"{kind}.delta", "delta": w, "logprobs": []} for w in WORDS]
        events.append(place | {"type": f"{kind}.done", "text": TEXT, "logprobs": []})
        whole_part = part | {"text": TEXT}
        events.append(place | {"type": "response.content_part.done", "part": whole_part})
    events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": "response.completed", "response": whole})
    return [named(event | {"sequence_number": n}) for n, event in enumerate(events)]


def message_usage(made: int = OUTPUT) -> Json:
    return {
        "input_tokens": INPUT - CACHED,
        "cache_read_input_tokens": CACHED,
        "cache_creation_input_tokens": 0,
        "output_tokens": made,
    }


def message(asked: Json) -> Json:
    name = _tool(asked)
    block: Json = {"type": "text", "text": TEXT}
    if name:
        block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": json.loads(CALL)}
    return {
        "id": "msg_of_the_engine",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": [block],
        "stop_reason": "tool_use" if name else "end_turn",
        "stop_sequence": None,
        "usage": message_usage(),
    }


def message_events(asked: Json) -> list[bytes]:
    whole = message(asked)
    (block,) = whole["content"]
    begun = whole | {"content": [], "stop_reason": None, "usage": message_usage(1)}
    events: list[Json] = [{"type": "message_start", "message": begun}]
    if block["type"] == "tool_use":
        start = block | {"input": {}}
        parts = [{"type": "input_json_delta", "partial_json": p} for p in (CALL[:8], CALL[8:])]
    else:
        start = {"type": "text", "text": ""}
        parts = [{"type": "text_delta", "text": word} for word in WORDS]
    events.append({"type": "content_block_start", "index": 0, "content_block": start})
    events.append({"type": "ping"})
    events += [{"type": "content_block_delta", "index": 0, "delta": part} for part in parts]
    events.append({"type": "content_block_stop", "index": 0})
    why = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": why, "usage": {"output_tokens": OUTPUT}})
    events.append({"type": "message_stop"})
    return [named(event) for event in events]


def _never(asked: Json) -> list[bytes]:
    raise AssertionError("this path does not stream")


ANSWERS: dict[str, tuple[Callable[[Json], Json], Callable[[Json], list[bytes]]]] = {
    "/v1/chat/completions": (chat, chat_events),
    "/v1/completions": (completion, completion_events),
    "/v1/embeddings": (embeddings, _never),
    "/v1/moderations": (moderations, _never),
    "/v1/responses": (response, response_events),
    "/v1/messages": (message, message_events),
}
