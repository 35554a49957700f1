"""A translating server in front of an engine that answers by script, and the shapes that engines answer in.

The scripts follow what vLLM and OpenAI send: a role chunk first, pieces, a chunk with the finish reason,
and a usage chunk without choices.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from catalog.ground.errors import TokenMartError
from catalog.ground.ids import new_id
from serving.translation import TOKEN_COUNTS, TRANSLATIONS, token_count_for, translation_for

Json = dict[str, Any]
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 12,
    "total_tokens": 42,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


@dataclass
class Script:
    """One answer of the engine: its deltas, and the whole message that they add up to."""

    deltas: list[Json]
    message: Json
    finish: str = "stop"
    stop_reason: Any = None
    logprobs: list[list[Json]] = field(default_factory=list)
    breaks: TokenMartError | None = None

    def chunks(self) -> list[Json]:
        """Return the chunks of a stream, as vLLM sends them, without the usage chunk."""
        choices: list[Json] = [{"delta": {"role": "assistant", "content": ""}}]
        for place, delta in enumerate(self.deltas):
            told = self.logprobs[place] if place < len(self.logprobs) else None
            choices.append({"delta": delta, "logprobs": told and {"content": told}})
        last = {"finish_reason": self.finish, "stop_reason": self.stop_reason}
        choices.append({"delta": {"content": ""}} | last)
        blank = {"index": 0, "finish_reason": None, "logprobs": None}
        return [_envelope("chat.completion.chunk", [blank | choice]) for choice in choices]

    def usage_chunk(self) -> Json:
        """Return the last chunk."""
        return _envelope("chat.completion.chunk", []) | {"usage": USAGE}

    def whole(self) -> Json:
        """Return the answer without streaming."""
        told = [entry for part in self.logprobs for entry in part]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": None} | self.message,
            "logprobs": {"content": told} if told else None,
            "finish_reason": self.finish,
            "stop_reason": self.stop_reason,
        }
        return _envelope("chat.completion", [choice]) | {"usage": USAGE}


def _envelope(kind: str, choices: list[Json]) -> Json:
    return {
        "id": "chatcmpl-8f1",
        "object": kind,
        "created": 1_790_000_000,
        "model": "the-engines-own-name",
        "choices": choices,
    }


def logprob(token: str) -> Json:
    """Return a token's entry as engines send it."""
    given = list(token.encode())
    other = {"token": "x", "bytes": [120], "logprob": -3.5}
    return {"token": token, "bytes": given, "logprob": -0.25, "top_logprobs": [other]}


def _call(index: int, name: str, pieces: list[str]) -> list[Json]:
    head = {"index": index, "id": f"chatcmpl-tool-{index}", "type": "function"}
    deltas = [{"tool_calls": [head | {"function": {"name": name}}]}]
    return deltas + [
        {"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces
    ]


def _whole_call(index: int, name: str, arguments: str) -> Json:
    function = {"name": name, "arguments": arguments}
    return {"id": f"chatcmpl-tool-{index}", "type": "function", "function": function}


_WEATHER = ['{"city":', ' "Hang', 'zhou"}']
_TIME = ["{", "}"]
SCRIPTS: dict[str, Script] = {
    "text": Script(
        [{"content": "你好"}, {"content": ", wor"}, {"content": "ld"}], {"content": "你好, world"}
    ),
    "reasoning": Script(
        [{"reasoning_content": "Let me "}, {"reasoning_content": "see."}, {"content": "42"}],
        {"reasoning_content": "Let me see.", "content": "42"},
    ),
    "reasoning of newer vLLM": Script(
        [{"reasoning": "Let me "}, {"reasoning": "see."}, {"content": "42"}],
        {"reasoning": "Let me see.", "content": "42"},
    ),
    "tools": Script(
        [
            {"content": "I look "},
            {"content": "it up."},
            *_call(0, "get_weather", _WEATHER),
            *_call(1, "get_time", _TIME),
        ],
        {
            "content": "I look it up.",
            "tool_calls": [
                _whole_call(0, "get_weather", "".join(_WEATHER)),
                _whole_call(1, "get_time", "{}"),
            ],
        },
        finish="tool_calls",
    ),
    "refusal": Script(
        [{"refusal": "I will "}, {"refusal": "not."}], {"refusal": "I will not."}
    ),
    "filtered": Script([{"content": "It"}], {"content": "It"}, finish="content_filter"),
    "length": Script([{"content": "Once "}, {"content": "upon"}], {"content": "Once upon"}, finish="length"),
    "stop string": Script([{"content": "1, 2"}], {"content": "1, 2"}, stop_reason=", 3"),
    "json": Script(
        [{"content": '{"city": "H'}, {"content": 'z", "days": 3}'}],
        {"content": '{"city": "Hz", "days": 3}'},
    ),
    "logprobs": Script(
        [{"content": "A"}, {"content": ""}, {"content": "é"}],
        {"content": "Aé"},
        logprobs=[[logprob("A")], [logprob("é") | {"bytes": [0xC3]}], [logprob("é") | {"bytes": [0xA9]}]],
    ),
    "nothing": Script([], {"content": ""}),
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """What the gateway does around the translation, with a script in the place of the engine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = SCRIPTS["text"]
        self.refusal: TokenMartError | None = None
        self.asked: list[Json] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path, generation_id = self.path.partition("?")[0], new_id("gen")
        if path in TOKEN_COUNTS:
            counted = token_count_for(path)(body)
            self.server.asked.append(counted.chat_request())
            self._send(200, {}, json.dumps(counted.answer(17)).encode())
            return
        shape = translation_for(path)
        try:
            if self.server.refusal is not None:
                raise self.server.refusal
            asked = shape(body)
        except TokenMartError as error:
            rendered = shape.render_error(error, generation_id)
            self._send(rendered.status, rendered.headers, rendered.body)
            return
        chat, script = asked.chat_request(), self.server.script
        self.server.asked.append(chat)
        if not chat.get("stream"):
            whole = asked.answer(script.whole(), generation_id, 1_790_000_000)
            self._send(200, {"content-type": "application/json"}, json.dumps(whole).encode())
            return
        stream = asked.begin(generation_id, 1_790_000_000)
        stream += b"".join(asked.feed(chunk) for chunk in script.chunks())
        if script.breaks is not None:
            stream += asked.fail(script.breaks)
        else:
            stream += asked.feed(script.usage_chunk()) + asked.finish(USAGE)
        self._send(200, {"content-type": "text/event-stream"}, stream)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def scripts() -> dict[str, Script]:
    return SCRIPTS


@pytest.fixture(params=sorted(SCRIPTS))
def script(request: pytest.FixtureRequest) -> Script:
    """Every script in turn."""
    return SCRIPTS[request.param]


def events_of(stream: bytes) -> list[Json]:
    """Return the events of a stream; the name of each is its type."""
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


@pytest.fixture
def read_events() -> Any:
    return events_of


assert set(TRANSLATIONS) == {"/v1/responses", "/v1/messages"}
