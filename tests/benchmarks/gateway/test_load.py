"""The load generator believes only whole answers, and the upstream answers as vLLM does."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gateway.__main__ import upstream
from benchmarks.gateway.errors import Refused
from benchmarks.gateway.scenarios import FIRST, MAIN, STREAMS, load, sample
from benchmarks.gateway.targets import PATH, Place, Target


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with upstream(tmp_path_factory.mktemp("bench"), offline=True) as found:
        yield found


@contextmanager
def answering(status: int, kind: str, body: bytes) -> Iterator[Target]:
    """A server that always answers this."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield Target("stub", f"http://127.0.0.1:{server.server_port}{PATH}", 0, "", "")
        finally:
            server.shutdown()
            serving.join()


def events(place: Place, **asked: Any) -> list[Any]:
    """Ask the upstream for a stream and return its events."""
    data = json.dumps({"model": "mock", "stream": True, **asked}).encode()
    with urllib.request.urlopen(urllib.request.Request(place.upstream + PATH, data)) as answer:
        lines = answer.read().decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_the_upstream_sends_as_many_chunks_as_it_is_asked_for(place: Place) -> None:
    found = events(place, max_tokens=3)
    assert [bool(each["choices"][0]["delta"]) for each in found] == [True, True, True, False]


def test_the_upstream_tells_usage_only_to_those_who_ask(place: Place) -> None:
    assert not any("usage" in each for each in events(place, max_tokens=2))
    asked = {"include_usage": True}
    told = events(place, max_tokens=2, stream_options=asked)
    assert ["usage" in each for each in told] == [False, False, False, True]
    asked["continuous_usage_stats"] = True
    told = events(place, max_tokens=2, stream_options=asked)
    assert [each["usage"]["completion_tokens"] for each in told] == [1, 2, 2, 2]


def test_requests_and_chunks_are_counted(place: Place) -> None:
    direct = Target("direct", place.upstream + PATH, 0, "", "")
    assert load(direct, MAIN, 0.1)["requests"] >= MAIN.connections
    seen = load(direct, FIRST, 0.1)
    # Chunks, and the event that gives the reason for the end.
    assert seen["events"] == seen["requests"] * (FIRST.max_tokens + 1)
    found = sample(place, direct, STREAMS, 0.1)
    assert found.units % STREAMS.max_tokens == 0
    assert found.units >= STREAMS.connections * STREAMS.max_tokens
    assert found.cpu_us == 0
    assert found.upstream_busy > 0


@pytest.mark.parametrize(
    ("status", "kind", "body", "why"),
    [
        (500, "application/json", b'{"error": "broken"}', "status 500"),
        (200, "application/json", b"{}", "without choices"),
        (200, "text/event-stream", b'data: {"choices": []}\n\n', "without its end"),
        (200, "text/event-stream", b'data: {"error": {}}\n\ndata: [DONE]\n\n', "inside the stream"),
        (
            200,
            "text/event-stream",
            b'data: {"id": 1}\n\ndata: [DONE]\n\n',
            "where the upstream sent",
        ),
    ],
)
def test_one_wrong_answer_refuses_the_run(status: int, kind: str, body: bytes, why: str) -> None:
    scenario = FIRST if kind == "text/event-stream" else MAIN
    with answering(status, kind, body) as target, pytest.raises(Refused, match=why):
        load(target, scenario, 0.05)


def test_an_answer_that_the_upstream_never_gave_refuses_the_run(place: Place) -> None:
    with answering(200, "application/json", b'{"choices": []}') as target:
        with pytest.raises(Refused, match="out of a cache"):
            sample(place, target, MAIN, 0.05)


def test_nothing_is_left_running(tmp_path: Path) -> None:
    with upstream(tmp_path, offline=True) as found:
        pid = found.upstream_pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
