"""A model provider on the loopback address: a real HTTP server that speaks OpenAI's or Anthropic's shape.

It answers by script (`Script`), writes down what it was asked, and notices when its caller hangs up. The
shapes follow the two companies' API references; the counts that it reports are nobody's tokenizer's, so
that a bill shows where its numbers come from.
"""

from __future__ import annotations

import base64
import json
import select
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
WORDS = ("Pure", " cotton", " T-shirt", ",", " women", "'s", " summer", " wear")
PROMPT_TOKENS = 21
CACHED_TOKENS = 16
COMPLETION_TOKENS = 13
OPENAI_USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": COMPLETION_TOKENS,
    "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
    "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
}
ANTHROPIC_INPUT = {
    "input_tokens": PROMPT_TOKENS - CACHED_TOKENS,
    "cache_read_input_tokens": CACHED_TOKENS,
    "cache_creation_input_tokens": 0,
}
ARGUMENTS = {"city": "成都"}


@dataclass
class Script:
    """How the provider behaves until it is told otherwise."""

    words: tuple[str, ...] = WORDS
    tool: str | None = None
    finish: str | None = None
    usage: bool = True
    pause_s: float = 0.0
    endless: bool = False
    silent: bool = False
    cut_after: int | None = None
    """Close the connection after so many events, in the middle of the answer."""
    stop_after: int | None = None
    """End the answer in good order after so many events, without saying that it is complete."""
    refuses: tuple[int, Json, dict[str, str]] | None = None


@dataclass
class Request:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: Json


@dataclass
class Provider:
    """A running provider. `aborted` is set when a caller hung up before the end of an answer."""

    url: str
    script: Script = field(default_factory=Script)
    seen: list[Request] = field(default_factory=list)
    aborted: threading.Event = field(default_factory=threading.Event)

    def behave(self, **changes: Any) -> None:
        """Begin anew with this script."""
        self.script = Script(**changes)
        self.seen.clear()
        self.aborted.clear()

    def refuse(self, status: int, body: Json, **headers: str) -> None:
        """Refuse everything from now on."""
        self.behave(refuses=(status, body, {k.replace("_", "-"): v for k, v in headers.items()}))


@contextmanager
def provider() -> Iterator[Provider]:
    """Start a provider on a free port; it ends with the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.block_on_close = False
    running = Provider(f"http://127.0.0.1:{server.server_port}")
    server.provider = running  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        running.script.endless = running.script.silent = False
        server.shutdown()
        server.server_close()
        thread.join()


class _Hungup(Exception):
    """The caller is gone, or the script says to break off."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def do_POST(self) -> None:
        self.provider: Provider = self.server.provider  # type: ignore[attr-defined]
        self.script = self.provider.script
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.provider.seen.append(Request(self.path, headers, body))
        try:
            self._answer(body)
        except _Hungup:
            self.close_connection = True
        except ConnectionError:
            self.provider.aborted.set()
            self.close_connection = True

    def _answer(self, body: Json) -> None:
        script = self.script
        while script.silent:
            self._watch()
            time.sleep(0.01)
        if script.refuses is not None:
            status, document, headers = script.refuses
            self._whole(document, status, headers)
        elif self.path == "/v1/embeddings":
            self._whole(_embeddings(body))
        elif self.path == "/v1/moderations":
            self._whole(_moderation(body))
        elif self.path in _SHAPES:
            shape = _SHAPES[self.path](body, script)
            if body.get("stream"):
                self._stream(shape)
            else:
                self._whole(shape.whole())
        else:
            self._whole({"error": {"message": "no such path"}}, 404)

    def _whole(
        self, document: Json, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        data = json.dumps(document, ensure_ascii=False).encode()
        self.send_response(status)
        more = {"x-provider-secret": "internal-7781"} | (headers or {})
        for name, value in (more | {"content-type": "application/json"}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, shape: _Shape) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for count, event in enumerate(shape.events()):
            if count == self.script.cut_after:
                raise _Hungup
            if count == self.script.stop_after:
                break
            self._watch()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            if self.script.pause_s:
                time.sleep(self.script.pause_s)
        self.wfile.write(b"0\r\n\r\n")

    def _watch(self) -> None:
        if select.select([self.connection], [], [], 0)[0]:
            self.provider.aborted.set()
            raise _Hungup


class _Shape:
    """One request and the answer to it, whole or as events."""

    def __init__(self, body: Json, script: Script) -> None:
        self.body, self.script = body, script
        self.tool = script.tool if body.get("tools") else None

    def whole(self) -> Json:
        raise NotImplementedError

    def events(self) -> Iterator[bytes]:
        raise NotImplementedError

    def pieces(self) -> Iterator[str]:
        yield from self.script.words
        while self.script.endless:
            yield " more"


class _Chat(_Shape):
    kind = "chat.completion"

    def whole(self) -> Json:
        message: Json = {"role": "assistant", "content": "".join(self.script.words)}
        if self.tool:
            message = {"role": "assistant", "content": None, "tool_calls": [self._call()]}
        return self._document(self.kind, {"message": message}, self._finish()) | self._usage()

    def events(self) -> Iterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""})
        if self.tool:
            call = self._call()
            arguments = call["function"].pop("arguments")
            begun = call["function"] | {"arguments": ""}
            yield self._chunk({"tool_calls": [{"index": 0} | call | {"function": begun}]})
            for part in (arguments[:5], arguments[5:]):
                yield self._chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        else:
            for word in self.pieces():
                yield self._chunk({"content": word})
        yield self._chunk({}, self._finish())
        options = self.body.get("stream_options") or {}
        if options.get("include_usage") and self.script.usage:
            last = self._document(self.kind + ".chunk", {}, None) | {"choices": []} | self._usage()
            yield _data(last)
        yield b"data: [DONE]\n\n"

    def _call(self) -> Json:
        function = {"name": self.tool, "arguments": json.dumps(ARGUMENTS, ensure_ascii=False)}
        return {"id": "call_7", "type": "function", "function": function}

    def _finish(self) -> str:
        return self.script.finish or ("tool_calls" if self.tool else "stop")

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        return _data(self._document(self.kind + ".chunk", {"delta": delta}, finish))

    def _usage(self) -> Json:
        return {"usage": OPENAI_USAGE} if self.script.usage else {}

    def _document(self, kind: str, content: Json, finish: str | None) -> Json:
        choice = {"index": 0, "logprobs": None, "finish_reason": finish} | content
        return {
            "id": "chatcmpl-provider-1",
            "object": kind,
            "created": 1_790_000_000,
            "model": "provider-model-2026-09",
            "choices": [choice],
        }


class _Text(_Chat):
    kind = "text_completion"

    def whole(self) -> Json:
        text = {"text": "".join(self.script.words)}
        return self._document(self.kind, text, self._finish()) | self._usage()

    def events(self) -> Iterator[bytes]:
        for word in self.pieces():
            yield _data(self._document(self.kind, {"text": word}, None))
        yield _data(self._document(self.kind, {"text": ""}, self._finish()))
        options = self.body.get("stream_options") or {}
        if options.get("include_usage") and self.script.usage:
            yield _data(self._document(self.kind, {}, None) | {"choices": []} | self._usage())
        yield b"data: [DONE]\n\n"


class _Messages(_Shape):
    """Anthropic's Messages."""

    def whole(self) -> Json:
        content: Json = {"type": "text", "text": "".join(self.script.words)}
        if self.tool:
            content = {"type": "tool_use", "id": "toolu_7", "name": self.tool, "input": ARGUMENTS}
        usage = self._used(ANTHROPIC_INPUT | {"output_tokens": COMPLETION_TOKENS})
        return self._message([content], self._finish()) | {"usage": usage}

    def events(self) -> Iterator[bytes]:
        start = self._message([], None) | {"usage": self._used(ANTHROPIC_INPUT)}
        yield _named("message_start", {"message": start})
        if self.tool:
            block: Json = {"type": "tool_use", "id": "toolu_7", "name": self.tool, "input": {}}
            text = json.dumps(ARGUMENTS, ensure_ascii=False)
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in (text[:5], text[5:])]
        else:
            block = {"type": "text", "text": ""}
            deltas = []
        yield _named("content_block_start", {"index": 0, "content_block": block})
        for delta in deltas or ({"type": "text_delta", "text": word} for word in self.pieces()):
            yield _named("content_block_delta", {"index": 0, "delta": delta})
        yield _named("content_block_stop", {"index": 0})
        end = {"stop_reason": self._finish(), "stop_sequence": None}
        used = self._used({"output_tokens": COMPLETION_TOKENS})
        yield _named("message_delta", {"delta": end, "usage": used})
        yield _named("message_stop", {})

    def _used(self, usage: Json) -> Json:
        return usage if self.script.usage else {}

    def _finish(self) -> str:
        return self.script.finish or ("tool_use" if self.tool else "end_turn")

    def _message(self, content: list[Json], stop: str | None) -> Json:
        return {
            "id": "msg_provider_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-provider-2026",
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
        }


_SHAPES: dict[str, type[_Shape]] = {
    "/v1/chat/completions": _Chat,
    "/v1/completions": _Text,
    "/v1/messages": _Messages,
}


def _embeddings(body: Json) -> Json:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vectors: list[Any] = [[0.5, -0.25, float(place)] for place in range(len(texts))]
    if body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack("<3f", *v)).decode() for v in vectors]
    return {
        "object": "list",
        "model": "provider-embedding",
        "data": [
            {"object": "embedding", "index": place, "embedding": vector}
            for place, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS},
    }


def _moderation(body: Json) -> Json:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    names = ("harassment", "hate", "violence")
    results = [
        {
            "flagged": "kill" in text,
            "categories": {name: name == "violence" and "kill" in text for name in names},
            "category_scores": dict.fromkeys(names, 0.9 if "kill" in text else 0.01),
        }
        for text in texts
    ]
    return {"id": "modr-1", "model": "provider-moderation", "results": results}


def _data(document: Json) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def _named(event: str, more: Json) -> bytes:
    return b"event: " + event.encode() + b"\n" + _data({"type": event} | more)
