"""A closed-loop load generator: so many connections, each with one request in flight, keep-alive.

    python -m benchmarks.gateway.load URL --connections 16 --requests 2000 --key K --model M [--stream]

Prints one JSON object: requests, errors (anything but 200), seconds, latencies (p50, p99), time to the
first byte (p50, p99), events (of streams). Its own cost is known from the same run against the upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop


@dataclass
class Tally:
    """What all connections have seen. Times in seconds."""

    left: int
    errors: int = 0
    events: int = 0
    first_byte_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    first_error: str = ""


class Caller(asyncio.Protocol):
    """One connection that asks until the tally is used up."""

    def __init__(self, request: bytes, tally: Tally, done: asyncio.Future[None]) -> None:
        self._request = request
        self._tally = tally
        self._done = done
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._ask()

    def _ask(self) -> None:
        if self._tally.left <= 0:
            self._transport.close()
            return
        self._tally.left -= 1
        self._started = time.perf_counter()
        self._first = 0.0
        self._busy = True
        self._body = b""
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        self._tally.events += body.count(b"data: {")
        if self._parser.get_status_code() != 200:
            self._body += body

    def on_message_complete(self) -> None:
        ended = time.perf_counter()
        self._busy = False
        tally = self._tally
        if self._parser.get_status_code() != 200:
            tally.errors += 1
            tally.first_error = tally.first_error or self._body[:300].decode(errors="replace")
        tally.first_byte_s.append((self._first or ended) - self._started)
        tally.total_s.append(ended - self._started)
        if self._parser.should_keep_alive():
            self._parser = httptools.HttpResponseParser(self)
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._tally.errors += 1
            self._tally.first_error = self._tally.first_error or f"connection lost: {exc}"
        if not self._done.done():
            self._done.set_result(None)


async def run(url: str, request: bytes, connections: int, requests: int) -> Tally:
    """Make `requests` requests over `connections` connections; connections that close are replaced."""
    where = urlsplit(url)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    tally = Tally(left=requests)
    loop = asyncio.get_running_loop()

    async def one() -> None:
        while tally.left > 0:
            done: asyncio.Future[None] = loop.create_future()
            await loop.create_connection(
                lambda done=done: Caller(request, tally, done),  # type: ignore[misc]
                host,
                port,
            )
            await done

    await asyncio.gather(*(one() for _ in range(connections)))
    return tally


def request_bytes(
    url: str, key: str, model: str, *, stream: bool, prompt_bytes: int, max_tokens: int
) -> bytes:
    """Return the whole HTTP request, ready to be written."""
    where = urlsplit(url)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": ("hello world " * (prompt_bytes // 12 + 1))}],
        "max_tokens": max_tokens,
        "stream": stream,
    }
    data = json.dumps(body).encode()
    path = where.path or "/v1/chat/completions"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--prompt-bytes", type=int, default=120)
    parser.add_argument("--max-tokens", type=int, default=64)
    o = parser.parse_args()
    request = request_bytes(
        o.url,
        o.key,
        o.model,
        stream=o.stream,
        prompt_bytes=o.prompt_bytes,
        max_tokens=o.max_tokens,
    )
    started = time.perf_counter()
    tally = uvloop.run(run(o.url, request, o.connections, o.requests))
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "requests": len(tally.total_s),
                "errors": tally.errors,
                "first_error": tally.first_error,
                "seconds": seconds,
                "events": tally.events,
                "p50_ms": percentile(tally.total_s, 0.5) * 1e3,
                "p99_ms": percentile(tally.total_s, 0.99) * 1e3,
                "first_byte_p50_ms": percentile(tally.first_byte_s, 0.5) * 1e3,
                "first_byte_p99_ms": percentile(tally.first_byte_s, 0.99) * 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
