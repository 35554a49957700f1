"""What engines may send: good answers and event streams, and every way that this fuzz knows to spoil one.

An `Act` is one thing that the engine does on the connection: bytes to send, seconds to wait, or an end.
"""

from __future__ import annotations

import gzip
import json
import random
from typing import Any, Literal

Act = bytes | float | Literal["close", "reset"]
_ODD_USAGE: tuple[Any, ...] = (
    None,
    {},
    [],
    "many",
    -5,
    {"prompt_tokens": -7, "completion_tokens": -1, "total_tokens": -8},
    {"prompt_tokens": 10**9, "completion_tokens": 10**9, "total_tokens": 2 * 10**9},
    {"prompt_tokens": 10**18, "completion_tokens": 2**63, "total_tokens": 1},
    {"prompt_tokens": 10**40, "completion_tokens": 10**40},
    {"prompt_tokens": 1.5, "completion_tokens": 1e300},
    {"prompt_tokens": "7", "completion_tokens": True},
    {"prompt_tokens": None, "completion_tokens": None},
    {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 10**12},
    {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 99}},
    {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "completion_tokens_details": {"reasoning_tokens": 99},
    },
    {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": [1]},
    {"prompt_tokens": 3, "completion_tokens": 2, "note": "\x00\ud800}{\u2028"},
    {"prompt_tokens": 3, "completion_tokens": 2, "note": "x" * 100_000},
    {"prompt_tokens": 3, "completion_tokens": 2, "a": {"b": {"c": {"d": [{}]}}}},
    {"completion_tokens": 4},
)
_STATUSES = (
    *(b"201 Created", b"204 No Content", b"206 Part", b"301 Moved", b"304 Not Modified", b"307 T"),
    *(b"400 Bad", b"401 No", b"403 No", b"404 No", b"413 Large", b"422 Odd", b"429 Slow"),
    *(b"500 Oops", b"502 Bad", b"503 Busy", b"504 Late", b"599 What", b"999 What"),
)
_ERRORS: tuple[bytes, ...] = (
    b"",
    b"null",
    b'{"error":"words"}',
    b'{"error":{"message":"\\ud800 \\u0000","code":7,"param":[]}}',
    b'{"error":{"message":{"a":1},"code":null,"param":"messages"}}',
    b'{"error":{"message":"' + b"x" * 100_000 + b'"}}',
    b'{"error":[1]}',
    b"[" * 50_000,
    b"\xff\xfe",
    b"<html>502</html>",
)


def counted(chance: random.Random) -> bytes:
    """Return the body of `/tokenize`, mostly a good one."""
    if chance.random() < 0.7:
        return b'{"count":%d}' % chance.randint(1, 100)
    return chance.choice(
        (
            b'{"count":-5}',
            b'{"count":1e400}',
            b'{"count":Infinity}',
            b'{"count":NaN}',
            b'{"count":"many"}',
            b'{"count":%d}' % 10**30,
            b'{"count":[]}',
            b"[]",
            b"[" * 50_000,
            b"",
            b"\xff",
        )
    )


def answer(path: str, mark: str, chance: random.Random, *, usage: Any) -> bytes:
    """Return a whole answer as JSON. `usage` Ellipsis: a good one."""
    text = f"{mark} 你好"
    said: dict[str, Any] = {"id": "x", "created": 1, "model": "m"}
    if path.endswith("/chat/completions"):
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if chance.random() < 0.2:
            call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            message |= {"tool_calls": [call], "content": None}
        said["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    elif path.endswith("/completions"):
        said["choices"] = [{"index": 0, "text": text, "finish_reason": "stop"}]
    elif path.endswith("/embeddings"):
        said["data"] = [{"object": "embedding", "index": 0, "embedding": [0.5], "note": text}]
    else:
        said["results"] = [{"flagged": False, "note": text}]
    said["usage"] = _usage(1) if usage is ... else usage
    if usage is None:
        del said["usage"]
    return json.dumps(said).encode()


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}


def events(path: str, mark: str, chance: random.Random, *, usage: Any = ...) -> list[bytes]:
    """Return the events of a good stream, without the empty lines; `usage` as in `answer`."""
    chat = path.endswith("/chat/completions")
    many, told = chance.randint(0, 6), chance.random() < 0.3
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    ]
    for number in range(many):
        piece = f"{mark} " if not number else "词"
        held = {"delta": {"content": piece}} if chat else {"text": piece}
        chunks.append({"choices": [{"index": 0, **held, "finish_reason": None}]})
        if told:
            chunks[-1]["usage"] = _usage(number + 1)
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage is not None:
        chunks.append({"choices": [], "usage": _usage(many) if usage is ... else usage})
    made = [b"data: " + json.dumps({"id": "x", **chunk}).encode() for chunk in chunks]
    return [*made, b"data: [DONE]"]


def native_events(path: str, mark: str, chance: random.Random, *, usage: Any = ...) -> list[bytes]:
    """Return a good stream of an engine that speaks Responses or Messages itself; as `events`."""
    used = {"input_tokens": 5, "output_tokens": 2} if usage is ... else usage
    text = f"{mark} 词"
    told: list[dict[str, Any]]
    if path == "/v1/responses":
        told = [
            {"type": "response.created", "response": {"id": "r", "usage": None}},
            {"type": "response.output_text.delta", "delta": text},
            {"type": "response.completed", "response": {"id": "r", "usage": used}},
        ]
    else:
        told = [
            {"type": "message_start", "message": {"id": "m", "usage": used}},
            {"type": "content_block_delta", "index": 0, "delta": {"text": text}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": used},
            {"type": "message_stop"},
        ]
    told[1:1] = [{"type": "ping"}] * chance.randint(0, 2)
    return [f"event: {one['type']}\ndata: {json.dumps(one)}".encode() for one in told]


def _said_by(path: str) -> Any:
    return native_events if path in ("/v1/responses", "/v1/messages") else events


def spoiled_events(path: str, mark: str, chance: random.Random) -> bytes:
    """Return the bytes of a stream in which one or several things are wrong."""
    usage = chance.choice((..., None, *_ODD_USAGE)) if chance.random() < 0.5 else ...
    told = _said_by(path)(path, mark, chance, usage=usage)
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        _spoil(told, chance)
    ending = chance.choice(
        (b"\n\n",) * 6 + (b"\r\n\r\n", b"\r\r", b"\n", b"\n\n\n", b"\r\n\n", b"")
    )
    return ending.join(told) + (ending if chance.random() < 0.9 else b"")


def _spoil(told: list[bytes], chance: random.Random) -> None:
    place = chance.randrange(len(told) + 1)
    usage = json.dumps(chance.choice(_ODD_USAGE)).encode()
    done = b"data: [DONE]"
    added = (
        done,
        b"data:[DONE]",
        b"data: [DONE] ",
        b"data: [DONE]\ndata: more",
        b'data: {"error":{"message":"no","code":500}}',
        b'data: {"error":null}',
        b'event: error\ndata: {"message":"no"}',
        b"data: {",
        b"data: null",
        b"data: [1]",
        b'data: "text"',
        b"data:",
        b"data",
        b": a comment",
        b"event: message",
        b"id: 7\nretry: 10\ndata: {}",
        b"\xef\xbb\xbfdata: {}",
        b"\xff\xfe\x00",
        b"data: " + b"[" * 5_000,
        b"data: " + b'{"a":' * 30_000,
        b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 300_000 + b'"}}]}',
        b'data: {"choices":{},"usage":' + usage + b"}",
        b'data: {"choices":[{"index":"0","delta":7}],"usage":' + usage + b"}",
        b'data: {"choices":[{"index":0,"delta":{"usage":' + usage + b"}}]}",
        b'data: {"usage":' + usage + b',"choices":[]}',
        b'data: {"choices":[],"usage":' + usage + b"}\nid: 3",
        b'event: x\ndata: {"choices":[],"usage":' + usage + b"}",
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":-1,"function":{"arguments":"{"}}]}}]}',
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f",'
        b'"arguments":"}{"}}]}}]}',
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}',
        b'data: {"choices":[{"index":0,"delta":{"content":"a\\u0000b\\u2028"}}]}',
        b'data: {"choices":[{"index":0,"finish_reason":{"a":1}}]}',
        b"event: message_stop\ndata: {}",
        b"event: response.completed",
        b"event: response.completed\ndata: {",
        b'data: {"type":"response.completed","response":{"usage":'
        + usage
        + b"}}\nevent: response.completed",
        b'event: message_delta\ndata: {"usage":' + usage + b"}",
        b'event: response.incomplete\ndata: {"response":{"usage":' + usage + b"}}",
        b'event: response.failed\ndata: {"response":{"error":{"message":"no"}}}',
    )
    way = chance.randrange(7)
    if way <= 3:
        told.insert(place, chance.choice(added))
    elif way == 4 and told:
        del told[chance.randrange(len(told))]
    elif way == 5:
        chance.shuffle(told)
    elif told:
        event = bytearray(told[place % len(told)])
        if event:
            event[chance.randrange(len(event))] = chance.randrange(256)
        told[place % len(told)] = bytes(event)


def script(path: str, mark: str, streamed: bool, chance: random.Random) -> list[Act]:
    """Return what a malformed engine does with one request."""
    head = b"HTTP/1.1 200 OK"
    kind = b"text/event-stream" if streamed else b"application/json"
    if chance.random() < 0.2:
        head = b"HTTP/1.1 " + chance.choice(_STATUSES)
        body = chance.choice(_ERRORS)
    elif streamed:
        body = spoiled_events(path, mark, chance)
    else:
        usage = chance.choice(_ODD_USAGE) if chance.random() < 0.6 else ...
        body = answer(path, mark, chance, usage=usage)
        if chance.random() < 0.4:
            body = _spoiled_answer(body, chance)
    if chance.random() < 0.1:
        kind = chance.choice((b"text/html", b"", b"application/octet-stream", b"text/event-stream"))
    head += b"\r\ncontent-type: " + kind + b"\r\n" + _extra_headers(chance)
    if chance.random() < 0.05:
        body, head = gzip.compress(body, mtime=0), head + b"content-encoding: gzip\r\n"
    acts = _cut(_framed(head, body, chance), chance)
    if chance.random() < 0.15:
        where = chance.randint(0, len(acts))
        ends: list[Act] = ["close", "reset", "close", "reset", 30.0]
        end = chance.choice(ends)
        acts[where:] = [end]
    return acts


def _spoiled_answer(body: bytes, chance: random.Random) -> bytes:
    way = chance.randrange(5)
    if way == 0:
        return body[: chance.randrange(len(body))]
    if way == 1:
        changed = bytearray(body)
        for _ in range(3):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    if way == 2:
        return chance.choice(
            (b"", b"null", b"[]", b'{"usage":{}}', b'{"choices":[]}', b"[" * 50_000, b"\xff")
        )
    if way == 3:
        return b'{"choices":[{"index":0,"message":{"content":7}}],"usage":{"prompt_tokens":1}}'
    return b"\n" * 1000 + body + b" trailing"


def _extra_headers(chance: random.Random) -> bytes:
    if chance.random() < 0.8:
        return b""
    return chance.choice(
        (
            b"x-long: " + b"y" * 60_000 + b"\r\n",
            b"".join(b"x-%d: 1\r\n" % n for n in range(2_000)),
            b"x-nul: a\x00b\r\n",
            b"x-high: \xff\xfe\r\n",
            b"no colon\r\n",
            b"x-folded: a\r\n b\r\n",
            b" x-space: 1\r\n",
            b"location: http://127.0.0.1:1/\r\n",
            b"retry-after: nan\r\n",
            b"retry-after: -1e9\r\n",
            b"set-cookie: a=b\r\n" * 50,
            b"connection: close\r\n",
            b"connection: upgrade\r\nupgrade: websocket\r\n",
            b"x-tm-cost-u: 0\r\nx-tm-generation: mine\r\n",
        )
    )


def _framed(head: bytes, body: bytes, chance: random.Random) -> bytes:
    before = b""
    if chance.random() < 0.12:
        before = chance.choice(
            (
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 3,
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
                b"HTTP/1.1 102 Processing\r\n\r\n" * 200,
                b"\r\n\r\n",
                b"garbage before\r\n",
                b"HTTP/0.9 200 OK\r\n\r\n",
            )
        )
    if chance.random() < 0.06:
        head = head.replace(
            b"HTTP/1.1", chance.choice((b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b"ICY")), 1
        )
    return before + _length(head, body, chance) + _after(chance)


def _length(head: bytes, body: bytes, chance: random.Random) -> bytes:
    plain = b"content-length: %d\r\n"
    whole = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    chunked = b"transfer-encoding: chunked\r\n"
    way = chance.randrange(22)
    if way < 6:
        return head + plain % len(body) + b"\r\n" + body
    if way < 13:
        return head + chunked + b"\r\n" + _chunks(body, chance) + b"0\r\n\r\n"
    odd = (
        head + b"\r\n" + body,  # until the connection closes
        head + plain % (len(body) + 9) + b"\r\n" + body,
        head + plain % max(0, len(body) - 9) + b"\r\n" + body,
        head + b"content-length: -1\r\n\r\n" + body,
        head + plain % len(body) + plain % (len(body) + 1) + b"\r\n" + body,
        head + plain % len(body) + chunked + b"\r\n" + whole + b"0\r\n\r\n",
        head + chunked + b"\r\n" + whole,  # never ends
        head + chunked + b"\r\nzz\r\n" + body + b"\r\n0\r\n\r\n",
        head + chunked + b"\r\n" + whole + b"0;ext=1\r\ntrailer: 1\r\n\r\n",
        head + chunked + b"\r\nffffffffffffffffff\r\n" + body,
        head + b"transfer-encoding: gzip, chunked\r\n\r\n" + whole + b"0\r\n\r\n",
        head + b"transfer-encoding: identity\r\n\r\n" + body,
    )
    return chance.choice(odd)


def _chunks(body: bytes, chance: random.Random) -> bytes:
    size = max(chance.choice((1, 7, 100, 4_000, len(body) or 1)), len(body) // 40 + 1)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces])


def _after(chance: random.Random) -> bytes:
    if chance.random() < 0.93:
        return b""
    return chance.choice(
        (
            b"\r\n",
            b"garbage",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf",
            b"0\r\n\r\n",
        )
    )


def _cut(whole: bytes, chance: random.Random) -> list[Act]:
    """Cut into what is sent at once; mostly one piece, sometimes every byte for itself."""
    way = chance.randrange(10)
    if way < 6 or len(whole) < 2:
        return [whole]
    if way == 6 and len(whole) < 3_000:
        return [whole[n : n + 1] for n in range(len(whole))]
    places = sorted(chance.sample(range(1, len(whole)), min(len(whole) - 1, chance.randint(1, 8))))
    pieces: list[Act] = [
        whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)
    ]
    if way == 9:
        pieces.insert(chance.randint(0, len(pieces)), 0.02)
    return pieces
