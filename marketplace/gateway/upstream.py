"""Clients of engines: plain HTTP, bytes in and bytes out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from catalog.ground.errors import (
    BadRequest,
    NotFound,
    RateLimited,
    TokenMartError,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from marketplace.gateway.directory import EndpointRecord

_LARGEST_ERROR = 64 * 1024


class Upstream:
    """One connection pool for all engines. Open it inside the event loop, close it at the end."""

    def __init__(self, connect_s: float, silence_s: float) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=silence_s)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def post(
        self, endpoint: EndpointRecord, path: str, body: bytes, generation_id: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send `body` and yield the answer once its headers are there and say 200.

        Leaving the block before the body has ended closes the connection, which is how an engine
        learns that nobody listens any more. Raises `Unavailable`, `UpstreamTimeout`,
        `UpstreamFailed`, or the engine's own refusal of the request.
        """
        headers = {"content-type": "application/json", "x-request-id": generation_id}
        if endpoint.api_key:
            headers["authorization"] = f"Bearer {endpoint.api_key}"
        try:
            async with self._session.post(
                endpoint.url + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await refusal(response)
                yield response
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(
                "No engine answers for this model right now; nothing was charged.",
                code="no_healthy_endpoint",
                retry_after_s=2,
            ) from error
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise UpstreamTimeout(
                "The engine was silent for too long; nothing was charged.", retry_after_s=5
            ) from error
        except aiohttp.ClientError as error:
            raise broken() from error

    async def count_tokens(
        self, endpoint: EndpointRecord, request: dict[str, Any], generation_id: str
    ) -> int:
        """Return how many tokens the engine makes of `request` (its `/tokenize`, as vLLM has it)."""
        keep = ("messages", "prompt", "tools", "add_generation_prompt", "chat_template_kwargs")
        asked = {key: request[key] for key in keep if key in request}
        asked["model"] = endpoint.model
        body = json.dumps(asked, ensure_ascii=False).encode()
        async with self.post(endpoint, "/tokenize", body, generation_id) as response:
            try:
                return int(json.loads(await response.read())["count"])
            except (ValueError, KeyError, TypeError) as error:
                raise broken() from error


def broken() -> UpstreamFailed:
    """The error for an engine that broke off or answered nonsense."""
    return UpstreamFailed(
        "The engine broke off before its answer was complete; nothing was charged.",
        remedy="Try again.",
    )


async def refusal(response: aiohttp.ClientResponse) -> TokenMartError:
    """Return our error for an engine's answer that is not 200.

    A refusal of the request itself keeps the engine's words, because they tell the caller what to
    change; everything else is between the engine and us.
    """
    status = response.status
    told = _told(await response.content.read(_LARGEST_ERROR))
    if status in (400, 404, 413, 422):
        kind = NotFound if status == 404 else BadRequest
        return kind(
            str(told.get("message") or "The engine refused the request."),
            code=str(told.get("code") or kind.default_code),
            param=told.get("param") if isinstance(told.get("param"), str) else None,
        )
    if status in (429, 503):
        wait_s = _seconds(response.headers.get("retry-after"))
        kind_busy = RateLimited if status == 429 else Unavailable
        return kind_busy(
            "The model is busy right now; nothing was charged.",
            code="engine_overloaded",
            retry_after_s=wait_s,
        )
    if status == 504:
        return UpstreamTimeout("The engine took too long; nothing was charged.")
    return UpstreamFailed(
        f"The engine failed with status {status}; nothing was charged.", remedy="Try again."
    )


def _told(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {"message": str(error)}


def _seconds(retry_after: str | None) -> float:
    try:
        return min(60.0, max(1.0, float(retry_after or 2)))
    except ValueError:
        return 2.0
