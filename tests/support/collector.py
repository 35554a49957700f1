"""A collector of traces: a real OTLP/HTTP receiver that keeps what it gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Span:
    """One span as it came, with its attributes read."""

    plain: dict[str, Any]
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.plain["name"])

    @property
    def told(self) -> dict[str, Any]:
        return read_attributes(self.plain["attributes"])

    @property
    def from_to(self) -> tuple[int, int]:
        return int(self.plain["startTimeUnixNano"]), int(self.plain["endTimeUnixNano"])


def read_attributes(plain: list[dict[str, Any]]) -> dict[str, Any]:
    read = {"intValue": int, "stringValue": str, "doubleValue": float, "boolValue": bool}
    found = {}
    for item in plain:
        ((kind, value),) = item["value"].items()
        found[item["key"]] = read[kind](value)
    return found


@dataclass
class Collector:
    """`answers` are the statuses of the next requests; 200 when there are none."""

    port: int = 0
    texts: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, headers: dict[str, str], text: str) -> int:
        status = self.answers.pop(0) if self.answers else 200
        if path != "/v1/traces" or headers["content-type"] != "application/json":
            return 404
        self.texts.append(text)
        self.headers.append(headers)
        if status == 200:
            for group in json.loads(text)["resourceSpans"]:
                resource = read_attributes(group["resource"]["attributes"])
                for scope in group["scopeSpans"]:
                    self.spans += [Span(plain, resource) for plain in scope["spans"]]
        return status

    def of(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.plain["traceId"] == trace_id]


@contextmanager
def collector() -> Iterator[Collector]:
    """Run one."""
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(made.take(self.path, headers, body.decode()))
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
