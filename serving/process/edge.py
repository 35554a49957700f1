"""The edge of every engine process: who may call, bodies in, answers and refusals out.

Handlers raise; `Guard` turns what they raise into OpenAI's error object.
"""

from __future__ import annotations

import hmac
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from catalog.ground.errors import NotFound, PayloadTooLarge, TokenMartError, Unauthenticated
from catalog.ground.rendering import render_openai

Handler = Callable[[Request], Awaitable[Response]]
CLIENT_LEFT_STATUS = 499


class ClientLeftError(Exception):
    """Nobody is there to be answered."""


class Guard:
    """Wraps handlers: the key is checked first, whatever is raised becomes an answer.

    Without an `api_key` everybody may call; `server` is what a refused caller reads that this is.
    """

    def __init__(self, api_key: str | None, server: str) -> None:
        self._key = None if api_key is None else api_key.encode()
        self._server = server

    def __call__(self, handler: Handler) -> Handler:
        """Return the guarded handler."""

        async def handle(request: Request) -> Response:
            try:
                self._check_key(request)
                return await handler(request)
            except (ClientDisconnect, ClientLeftError):
                return Response(status_code=CLIENT_LEFT_STATUS)
            except Exception as error:
                return refusal(error)

        return handle

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key):
            raise Unauthenticated(f"This {self._server} wants its key: Authorization: Bearer ….")


async def body_of(request: Request, limit: int) -> bytes:
    """Return the body; `PayloadTooLarge` as soon as it has more than `limit` bytes."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise PayloadTooLarge(f"The body has more than {limit} bytes.")
        pieces.append(piece)
    return b"".join(pieces)


async def client_left(receive: Receive) -> None:
    """Return when the client has closed its connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def document(body: dict[str, Any], status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def refusal(error: Exception) -> Response:
    """Return the answer to a request that failed; what is not ours is logged and not told."""
    if not isinstance(error, TokenMartError):
        traceback.print_exception(error, file=sys.stderr)
    rendered = render_openai(error)
    return Response(rendered.body, rendered.status, rendered.headers)


def health(draining: bool, alive: bool = True) -> Response:
    """Return the health page: 503 while draining, and for what has failed."""
    if draining:
        return document({"status": "draining"}, 503)
    return document({"status": "ok" if alive else "failed"}, 200 if alive else 503)


def metrics(exposition: bytes) -> Response:
    """Return a page for Prometheus."""
    return Response(exposition, media_type="text/plain; version=0.0.4")


async def no_such_path(request: Request, error: Exception) -> Response:
    """Return the answer to what starlette itself refuses: a path or a method that is not served."""
    answer = refusal(
        NotFound(f"{request.method} {request.url.path} is not served here.", code="no_such_path")
    )
    answer.status_code = error.status_code if isinstance(error, HTTPException) else 404
    return answer
