"""Bytes out, and noticing that nobody reads them any more.

A client that leaves is seen as `http.disconnect` on the receiving side, so something must always be
listening there: `Watch` does, and ends the generation, whose rows are then free before the next step.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator
from types import TracebackType

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from catalog.ground.errors import TokenMartError
from catalog.ground.rendering import openai_object, render_openai
from serving.onnx_engine.answers import Shape, usage
from serving.onnx_engine.engine import Engine, Generation
from serving.onnx_engine.requests import Ask
from serving.onnx_engine.sequence import Piece

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class ClientLeftError(Exception):
    """Nobody is there to be answered."""


class Watch:
    """While open, has the generation end when the client leaves; closes it in any case."""

    def __init__(self, engine: Engine, generation: Generation, receive: Receive) -> None:
        self._engine, self._generation = engine, generation
        self._listener = asyncio.create_task(self._listen(receive))

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.cancel()
        self._engine.close(self._generation)

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._generation.leave()


def refusal(error: Exception) -> Response:
    """Return the answer to a request that failed; what is not ours is logged and not told."""
    if not isinstance(error, TokenMartError):
        traceback.print_exception(error, file=sys.stderr)
    rendered = render_openai(error)
    return Response(rendered.body, rendered.status, rendered.headers)


async def whole(engine: Engine, generation: Generation, shape: Shape, receive: Receive) -> Response:
    """Wait for every choice to end; return the one answer."""
    pieces: list[Piece] = []
    with Watch(engine, generation, receive):
        async for batch in generation.batches():
            pieces += batch
    if generation.left:
        raise ClientLeftError
    return Response(_encode(shape.whole(pieces)), media_type="application/json")


class EventStream(Response):
    """Server-sent events of one generation.

    Headers are sent with the first piece, so that a failure before it still has its own status; a
    failure after it is an event with an error object, and then no `[DONE]`.
    """

    def __init__(self, engine: Engine, generation: Generation, shape: Shape, ask: Ask) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._engine, self._generation, self._shape = engine, generation, shape
        options = ask.stream_options
        self._running_usage = bool(options and options.continuous_usage_stats)
        self._last_usage = bool(options and options.include_usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; returns early when the client leaves."""
        with Watch(self._engine, self._generation, receive):
            started = False
            try:
                async for lines in self._lines():
                    if not started:
                        await self._start(send)
                        started = True
                    await send({"type": "http.response.body", "body": lines, "more_body": True})
            except TokenMartError as error:
                if started:
                    await send({"type": "http.response.body", "body": _failure(error)})
                else:
                    await refusal(error)(scope, receive, send)
                return
            if started and not self._generation.left:
                await send({"type": "http.response.body", "body": self._end()})

    async def _start(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )

    async def _lines(self) -> AsyncIterator[bytes]:
        async for batch in self._generation.batches():
            lines = [self._line(piece) for piece in batch if self._worth_saying(piece)]
            if lines:
                yield b"".join(lines)

    def _worth_saying(self, piece: Piece) -> bool:
        says = piece.text or piece.last or piece.logprob is not None
        return bool(says) or self._running_usage

    def _line(self, piece: Piece) -> bytes:
        chunk = self._shape.chunk(piece)
        if self._running_usage:
            chunk["usage"] = usage(self._generation)
        elif self._last_usage:
            chunk["usage"] = None
        return b"data: " + _encode(chunk) + b"\n\n"

    def _end(self) -> bytes:
        if not self._last_usage:
            return DONE
        return b"data: " + _encode(self._shape.usage_chunk()) + b"\n\n" + DONE


def _failure(error: TokenMartError) -> bytes:
    return b"data: " + _encode(openai_object(error)) + b"\n\n"
