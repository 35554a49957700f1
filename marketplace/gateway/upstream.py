"""Clients of engines: HTTP, bytes in and bytes out, on plain connections and behind TLS.

Whom TLS trusts: the system's authorities. OpenSSL reads SSL_CERT_FILE or SSL_CERT_DIR in their place, which
is how an operator names an authority of their own; a certificate must be for the host in the engine's URL.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catalog.ground.errors import (
    BadRequest,
    NotFound,
    RateLimited,
    TokenMartError,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from marketplace.gateway.flight import Answer, Flight
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.request import ENGINE_RULE, not_json
from marketplace.gateway.wire import Pool, WireError
from marketplace.prices.usage import MOST_TOKENS

if TYPE_CHECKING:
    from marketplace.gateway.traces import Headers

log = logging.getLogger(__name__)

_LARGEST_ERROR = 64 * 1024
_LONGEST_WORDS = 4_000
_LONGEST_CODE = 100
_MOST_HEADS = 1_000


class Upstream:
    """Connection pools for all engines. Make it inside the event loop, close it at the end."""

    def __init__(self, connect_s: float, silence_s: float) -> None:
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._pools: dict[str, Pool] = {}
        self._heads: dict[tuple[EndpointRecord, str], bytes] = {}
        self._trust: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()

    async def post(
        self,
        endpoint: EndpointRecord,
        path: str,
        body: bytes,
        generation_id: str,
        flight: Flight | None = None,
        headers: Headers = (),
    ) -> Answer:
        """Send `body` and return the answer when it is complete; it is a 200.

        `headers` go with it. With a `flight` that pushes, the body of the answer goes there. Raises
        `Unavailable` when the engine cannot be reached, `UpstreamTimeout`, `UpstreamFailed`, the engine's
        own refusal of the request, or what the flight was cut off with.
        """
        flight = flight or Flight()
        try:
            asking = self._ask(endpoint, path, body, generation_id, flight, headers)
            del body  # what is sent has a copy of it; a long one need not be kept twice meanwhile
            answer = await asking
        except TimeoutError as error:
            raise timed_out() from error
        except WireError as error:
            raise broken() from error
        except (OSError, ValueError) as error:  # the latter for a URL that names no place
            log.warning("engine %s cannot be reached: %s", endpoint.id, error)
            raise unreachable() from error
        if answer.status != 200:
            raise refusal(answer)
        return answer

    def _ask(
        self,
        endpoint: EndpointRecord,
        path: str,
        body: bytes,
        generation_id: str,
        flight: Flight,
        more: Headers,
    ) -> Awaitable[Answer]:
        head = self._heads.get((endpoint, path))
        if head is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()  # engines come and go for as long as a worker lives
            head = self._heads[(endpoint, path)] = head_of(endpoint, path)
        pool = self._pools.get(endpoint.url)
        if pool is None:
            pool = self._pools[endpoint.url] = self._pool(endpoint.url)
        framing = b"x-request-id: %s\r\ncontent-length: %d\r\n\r\n" % (
            generation_id.encode(),
            len(body),
        )
        if more:
            head += b"".join([b"%b: %b\r\n" % header for header in more])
        return pool.request(b"".join((head, framing, body)), flight)

    def _pool(self, url: str) -> Pool:
        where = urlsplit(url)
        host = where.hostname or ""
        if where.scheme != "https":
            return Pool(host, where.port or 80, self._connect_s, self._silence_s)
        if self._trust is None:
            # Reading the authorities takes megabytes, so it is done when the first engine needs them.
            self._trust = ssl.create_default_context()
            self._trust.set_alpn_protocols(["http/1.1"])
        return Pool(host, where.port or 443, self._connect_s, self._silence_s, self._trust)

    def reached_at(self, endpoint: EndpointRecord) -> tuple[str, int] | None:
        """Return the address (in numbers) and the port to which a connection to an engine is open right now.

        None where no connection is kept, or where they lead to several: then a name stands for all of them.
        """
        pool = self._pools.get(endpoint.url)
        return pool.peer() if pool is not None else None

    async def count_tokens(
        self, endpoint: EndpointRecord, request: dict[str, Any], generation_id: str
    ) -> int:
        """Return how many tokens the engine makes of `request` (its `/tokenize`, as vLLM has it)."""
        keep = ("messages", "prompt", "tools", "add_generation_prompt", "chat_template_kwargs")
        asked = {key: request[key] for key in keep if key in request}
        asked["model"] = endpoint.model
        try:
            body = json.dumps(asked, ensure_ascii=False).encode()
        except RecursionError as error:
            raise not_json(error) from None
        answer = await self.post(endpoint, "/tokenize", body, generation_id)
        try:
            count = json.loads(answer.body)["count"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise broken() from error
        if type(count) is not int or not 0 <= count <= MOST_TOKENS:
            raise broken()
        return count


def head_of(endpoint: EndpointRecord, path: str) -> bytes:
    """Return the part of a request that is the same every time."""
    where = urlsplit(endpoint.url)
    lines = [
        f"POST {where.path}{path} HTTP/1.1",
        f"host: {where.netloc}",
        "content-type: application/json",
    ]
    if endpoint.api_key:
        lines.append(f"authorization: Bearer {endpoint.api_key}")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def broken() -> UpstreamFailed:
    """The error for an engine that broke off or answered nonsense."""
    return UpstreamFailed(
        "The engine broke off before its answer was complete; nothing was charged.",
        remedy="Try again.",
    )


def timed_out() -> UpstreamTimeout:
    """The error for an engine that was silent for too long."""
    return UpstreamTimeout(
        "The engine was silent for too long; nothing was charged.", retry_after_s=5
    )


def unreachable() -> Unavailable:
    """The error for an engine that does not answer at all."""
    return Unavailable(
        "No engine answers for this model right now; nothing was charged.",
        code="no_healthy_endpoint",
        retry_after_s=2,
    )


def refusal(answer: Answer) -> TokenMartError:
    """Return our error for an engine's answer that is not 200.

    A refusal of the request itself keeps the engine's words, because they tell the caller what to
    change; everything else is between the engine and us.
    """
    status = answer.status
    told = _told(answer.body[:_LARGEST_ERROR])
    if status in (400, 404, 413, 422):
        kind = NotFound if status == 404 else BadRequest
        return kind(
            _words(told.get("message")) or "The engine refused the request.",
            code=_words(told.get("code"))[:_LONGEST_CODE] or kind.default_code,
            param=_words(told.get("param")) or None,
            rule=ENGINE_RULE,
        )
    if status in (429, 503):
        wait_s = _seconds(answer.headers.get(b"retry-after", b"2").decode("latin-1"))
        kind_busy = RateLimited if status == 429 else Unavailable
        return kind_busy(
            "The model is busy right now; nothing was charged.",
            code="engine_overloaded",
            retry_after_s=wait_s,
        )
    if status == 504:
        return UpstreamTimeout("The engine took too long; nothing was charged.")
    return UpstreamFailed(
        f"The engine failed with status {status}; nothing was charged.",
        remedy="Try again.",
        details={"status": status},
    )


def _told(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _words(value: object) -> str:
    """Return an engine's text, cut to a length that may be passed on; '' for what is no text."""
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        return ""
    # JSON can spell halves of characters (lone surrogates), which no answer can carry.
    return value[:_LONGEST_WORDS].encode("utf-8", "replace").decode()


def _seconds(retry_after: str) -> float:
    try:
        return min(60.0, max(1.0, float(retry_after)))
    except ValueError:
        return 2.0
