"""A closed-loop load generator: so many connections, each with one request in flight, keep-alive.

    python -m benchmarks.gateway.load URL --connections 16 --seconds 2 --key K --model M [--stream]

Runs until `--requests` were made or `--seconds` are over; what is in flight then is waited for. Prints one
JSON object: requests, errors (anything but a whole answer with status 200), seconds, latencies (p50, p99),
time to the first byte of the body (p50, p99), events of streams, and the processor time that it took itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

_EVENT = b"data: {"
_FAILED = b'data: {"error"'
_CARRY = len(_FAILED) - 1
_ENDLESS = 1 << 40


@dataclass
class Tally:
    """What all connections have seen. Times in seconds."""

    left: int
    until_s: float
    stream: bool
    errors: int = 0
    events: int = 0
    events_fewest: int | None = None
    first_byte_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    first_error: str = ""

    @property
    def open(self) -> bool:
        """Whether another request is wanted."""
        return self.left > 0 and time.perf_counter() < self.until_s

    def failed(self, why: str) -> None:
        """Count an error and keep the first one's words."""
        self.errors += 1
        self.first_error = self.first_error or why


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
        if not self._tally.open:
            self._transport.close()
            return
        self._tally.left -= 1
        self._started = time.perf_counter()
        self._first = 0.0
        self._busy = True
        self._body = b""
        self._events = 0
        self._event_failed = False
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        if not self._tally.stream or self._parser.get_status_code() != 200:
            self._body += body
            return
        # An event's beginning may lie across two pieces: the end of the last one is looked at again.
        seen = self._body + body
        self._events += seen.count(_EVENT) - self._body.count(_EVENT)
        self._event_failed = self._event_failed or _FAILED in seen
        self._body = seen[-_CARRY:]

    def on_message_complete(self) -> None:
        ended = time.perf_counter()
        self._busy = False
        tally = self._tally
        if problem := self._problem():
            tally.failed(f"{problem}: {self._body[:300].decode(errors='replace')}")
        if tally.stream:
            tally.events += self._events
            fewest = tally.events_fewest
            tally.events_fewest = self._events if fewest is None else min(fewest, self._events)
        tally.first_byte_s.append((self._first or ended) - self._started)
        tally.total_s.append(ended - self._started)
        if self._parser.should_keep_alive():
            self._parser = httptools.HttpResponseParser(self)
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self._transport.close()

    def _problem(self) -> str:
        status = self._parser.get_status_code()
        if status != 200:
            return f"status {status}"
        if self._event_failed:
            return "an error inside the stream"
        if self._tally.stream:
            return "" if self._body.rstrip().endswith(b"[DONE]") else "a stream without its end"
        return "" if b'"choices"' in self._body else "an answer without choices"

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._tally.failed(f"connection lost: {exc}")
        if not self._done.done():
            self._done.set_result(None)


async def run(url: str, request: bytes, connections: int, tally: Tally) -> None:
    """Make the tally's requests over so many connections; connections that close are replaced."""
    where = urlsplit(url)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    loop = asyncio.get_running_loop()

    async def one() -> None:
        while tally.open:
            done: asyncio.Future[None] = loop.create_future()
            await loop.create_connection(
                lambda done=done: Caller(request, tally, done),  # type: ignore[misc]
                host,
                port,
            )
            await done

    await asyncio.gather(*(one() for _ in range(connections)))


def request_bytes(
    url: str,
    key: str,
    model: str,
    *,
    stream: bool,
    prompt_bytes: int,
    max_tokens: int,
    headers: tuple[str, ...] = (),
) -> bytes:
    """Return the whole HTTP request, ready to be written. `headers` are `name: value` lines."""
    where = urlsplit(url)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": ("hello world " * (prompt_bytes // 12 + 1))}],
        "max_tokens": max_tokens,
        "stream": stream,
    }
    data = json.dumps(body).encode()
    path = where.path or "/v1/chat/completions"
    head = [
        f"POST {path} HTTP/1.1",
        f"host: {where.netloc}",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        f"content-length: {len(data)}",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + data


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--requests", type=int, help="2000 when --seconds is not given either")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--header", action="append", default=[], help="name: value (repeat)")
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
        headers=tuple(o.header),
    )
    started, used_s = time.perf_counter(), _own_cpu_s()
    bounds = (o.requests or (_ENDLESS if o.seconds else 2000), started + (o.seconds or _ENDLESS))
    tally = Tally(*bounds, stream=o.stream)
    uvloop.run(run(o.url, request, o.connections, tally))
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "requests": len(tally.total_s),
                "errors": tally.errors,
                "first_error": tally.first_error,
                "seconds": seconds,
                "events": tally.events,
                "events_fewest": tally.events_fewest,
                "p50_ms": percentile(tally.total_s, 0.5) * 1e3,
                "p99_ms": percentile(tally.total_s, 0.99) * 1e3,
                "first_byte_p50_ms": percentile(tally.first_byte_s, 0.5) * 1e3,
                "first_byte_p99_ms": percentile(tally.first_byte_s, 0.99) * 1e3,
                "own_cpu_s": _own_cpu_s() - used_s,
            }
        )
    )


if __name__ == "__main__":
    main()
