"""An upstream that costs almost nothing: vLLM-shaped answers from prepared bytes.

    python -m benchmarks.gateway.mock --port 0 [--tokens 16] [--chunks 64] [--chunk-rate 100]

`POST …/completions` answers JSON, or with `"stream": true` an event stream of `--chunks` chunks (fewer when
`max_tokens` asks for fewer), paced at `--chunk-rate` per second (0: as fast as it goes). As vLLM does it, a
stream tells its usage only when `stream_options` asks: at the end, or in every chunk.
`GET /stats` tells requests, chunks and aborted streams. Prints one line when it is ready: `{"url": …}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from typing import Any, cast

import httptools
import uvloop

_BOUND = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')
_STREAM = re.compile(rb'"stream": ?true')
_USAGE = re.compile(rb'"include_usage": ?true')
_EVERY = re.compile(rb'"continuous_usage_stats": ?true')


_NAME = b"chatcmpl-000000000000"
"""What stands in the prepared bytes for an answer's own name, which is as long."""


def _chunk(**fields: Any) -> bytes:
    head = {"id": _NAME.decode(), "object": "chat.completion.chunk", "created": 1, "model": "mock"}
    return b"data: " + json.dumps(head | fields, separators=(",", ":")).encode() + b"\n\n"


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


class Script:
    """The prepared bytes of one configuration; the prompt always has 10 tokens, every answer its own name."""

    def __init__(self, tokens: int, chunks: int) -> None:
        text = "token " * tokens
        answer = {
            "id": _NAME.decode(),
            "object": "chat.completion",
            "created": 1,
            "model": "mock",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": _usage(10, tokens),
        }
        body = json.dumps(answer).encode()
        self.answer = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % len(body)
        ) + body
        self.start = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        self._longest = chunks
        delta: dict[str, Any] = {"index": 0, "delta": {"content": "token "}, "finish_reason": None}
        self._plain = [_framed(_chunk(choices=[delta]))] * chunks
        self._counted = [
            _framed(_chunk(choices=[delta], usage=_usage(10, number + 1)))
            for number in range(chunks)
        ]

    def stream(self, body: bytes) -> tuple[list[bytes], bytes]:
        """Return the chunks that the request asks for, and what closes the stream."""
        bound = _BOUND.search(body)
        length = min(self._longest, int(bound[1])) if bound else self._longest
        usage = _usage(10, length)
        told: dict[str, Any] = {"usage": usage} if _EVERY.search(body) else {}
        final = {"index": 0, "delta": {}, "finish_reason": "stop"}
        end = _framed(_chunk(choices=[final], **told))
        if _USAGE.search(body):
            end += _framed(_chunk(choices=[], usage=usage))
        end += _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        return (self._counted if told else self._plain)[:length], end


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Mock(asyncio.Protocol):
    """One connection; requests are answered in order, keep-alive."""

    def __init__(self, script: Script, interval_s: float, stats: dict[str, int]) -> None:
        self._script = script
        self._interval_s = interval_s
        self._stats = stats
        self._stream: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream is not None and not self._stream.done():
            self._stream.cancel()
            self._stats["aborted"] += 1

    def on_message_begin(self) -> None:
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url == b"/stats":
            body = json.dumps(self._stats).encode()
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
            self._transport.write(head + body)
            return
        self._stats["requests"] += 1
        name = b"chatcmpl-%012d" % self._stats["requests"]
        if _STREAM.search(self._body):
            self._stream = asyncio.ensure_future(
                self._send_stream(name, *self._script.stream(self._body))
            )
        else:
            self._transport.write(self._script.answer.replace(_NAME, name))

    async def _send_stream(self, name: bytes, chunks: list[bytes], end: bytes) -> None:
        write, now = self._transport.write, asyncio.get_running_loop().time
        started = now()
        write(self._script.start)
        for number, chunk in enumerate(chunks, 1):
            write(chunk.replace(_NAME, name))
            self._stats["chunks"] += 1
            if self._interval_s:
                # By the clock, so that a late chunk does not delay all that follow.
                await asyncio.sleep(max(0.0, started + number * self._interval_s - now()))
        write(end.replace(_NAME, name))


async def serve(port: int, script: Script, chunk_rate: float) -> None:
    """Serve until the process is ended."""
    stats = {"requests": 0, "chunks": 0, "aborted": 0}
    interval_s = 1 / chunk_rate if chunk_rate else 0.0
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Mock(script, interval_s, stats), "127.0.0.1", port, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--chunk-rate", type=float, default=100.0)
    options = parser.parse_args()
    uvloop.run(serve(options.port, Script(options.tokens, options.chunks), options.chunk_rate))


if __name__ == "__main__":
    main()
