"""Bytes out, and noticing that nobody reads them any more.

A client that leaves is seen as `http.disconnect` on the receiving side, so something must always be
listening there: `Watch` does, and ends the generation, whose rows are then free before the next step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from catalog.ground.errors import TokenMartError
from serving.onnx_engine.answers import Shape, usage
from serving.onnx_engine.engine import Engine, Generation
from serving.onnx_engine.requests import Ask
from serving.onnx_engine.sequence import Piece
from serving.process.edge import ClientLeftError, client_left, document
from serving.process.events import DONE, Events, event


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
        await client_left(receive)
        self._generation.leave()


async def whole(engine: Engine, generation: Generation, shape: Shape, receive: Receive) -> Response:
    """Wait for every choice to end; return the one answer."""
    pieces: list[Piece] = []
    with Watch(engine, generation, receive):
        async for batch in generation.batches():
            pieces += batch
    if generation.left:
        raise ClientLeftError
    return document(shape.whole(pieces))


class EventStream(Events):
    """Server-sent events of one generation."""

    def __init__(self, engine: Engine, generation: Generation, shape: Shape, ask: Ask) -> None:
        super().__init__()
        self._engine, self._generation, self._shape = engine, generation, shape
        options = ask.stream_options
        self._running_usage = bool(options and options.continuous_usage_stats)
        self._last_usage = bool(options and options.include_usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; returns early when the client leaves."""
        with Watch(self._engine, self._generation, receive):
            try:
                async for lines in self._lines():
                    await self.say(send, lines)
            except TokenMartError as error:
                await self.fail(error, scope, receive, send)
                return
            if self.started and not self._generation.left:
                await self.say(send, self._end(), last=True)

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
        return event(chunk)

    def _end(self) -> bytes:
        if not self._last_usage:
            return DONE
        return event(self._shape.usage_chunk()) + DONE
