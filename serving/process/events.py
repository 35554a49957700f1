"""An answer as server-sent events, in OpenAI's form."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from catalog.ground.errors import TokenMartError
from catalog.ground.rendering import openai_object
from serving.process.edge import refusal

DONE = b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """Return one event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


class Events(Response):
    """The base of a streamed answer; who streams overrides `__call__`.

    Headers are sent with the first event, so that a failure before it still has its own status; a failure
    after it is an event with an error object, and then no `[DONE]`.
    """

    def __init__(self) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self.started = False

    async def say(self, send: Send, events: bytes, *, last: bool = False) -> None:
        """Send some events, and the headers before the first; nothing may follow the `last`."""
        if not self.started:
            headers = self.raw_headers
            start = {"type": "http.response.start", "status": self.status_code, "headers": headers}
            await send(start)
            self.started = True
        await send({"type": "http.response.body", "body": events, "more_body": not last})

    async def fail(self, error: TokenMartError, scope: Scope, receive: Receive, send: Send) -> None:
        """End the answer with an error: its own status if that can still be said, else an event."""
        if self.started:
            await self.say(send, event(openai_object(error)), last=True)
        else:
            await refusal(error)(scope, receive, send)
