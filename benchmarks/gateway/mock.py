"""An upstream that costs almost nothing: vLLM-shaped answers from prepared bytes.

    python -m benchmarks.gateway.mock --port 0 [--tokens 16] [--chunks 64] [--chunk-rate 100]

`POST …/completions` answers JSON, or with `"stream": true` an event stream of `--chunks` chunks, paced at
`--chunk-rate` per second (0: as fast as it goes). `GET /stats` tells requests, chunks and aborted streams.
Prints one line when it is ready: `{"url": …}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any, cast

import httptools
import uvloop


def _chunk(**fields: Any) -> bytes:
    head = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": "mock"}
    return b"data: " + json.dumps(head | fields, separators=(",", ":")).encode() + b"\n\n"


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


class Script:
    """The prepared bytes of one configuration; the prompt always has 10 tokens."""

    def __init__(self, tokens: int, chunks: int) -> None:
        text = "token " * tokens
        answer = {
            "id": "chatcmpl-mock",
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
        delta: dict[str, Any] = {"index": 0, "delta": {"content": "token "}, "finish_reason": None}
        self.chunks = [
            _framed(_chunk(choices=[delta], usage=_usage(10, number + 1)))
            for number in range(chunks)
        ]
        final = {"index": 0, "delta": {}, "finish_reason": "stop"}
        self.end = (
            _framed(_chunk(choices=[final], usage=_usage(10, chunks)))
            + _framed(_chunk(choices=[], usage=_usage(10, chunks)))
            + _framed(b"data: [DONE]\n\n")
            + b"0\r\n\r\n"
        )


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
        if b'"stream":true' in self._body or b'"stream": true' in self._body:
            self._stream = asyncio.ensure_future(self._send_stream())
        else:
            self._transport.write(self._script.answer)

    async def _send_stream(self) -> None:
        script, write = self._script, self._transport.write
        write(script.start)
        for chunk in script.chunks:
            write(chunk)
            self._stats["chunks"] += 1
            if self._interval_s:
                await asyncio.sleep(self._interval_s)
        write(script.end)


async def serve(port: int, script: Script, chunk_rate: float) -> None:
    """Serve until the process is ended."""
    stats = {"requests": 0, "chunks": 0, "aborted": 0}
    interval_s = 1 / chunk_rate if chunk_rate else 0.0
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Mock(script, interval_s, stats), "127.0.0.1", port)
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
