"""Send spans to a collector: OTLP/HTTP with the JSON encoding (OTLP specification 1.9, "OTLP/HTTP").

Every collector takes JSON on the port of OTLP/HTTP (4318), and it needs nothing that the base environment
lacks. Spans wait in a bounded queue; what does not fit, and what the collector refuses or is not there to
take, is dropped and counted. Calls never wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from marketplace.gateway.spans import Span, attributes

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

MOST_WAITING = 20_000
"""Spans; about 1 kB each."""
_AT_ONCE = 1_000
_EVERY_S = 1.0
_PATIENCE_S = 10.0
_TRIES = 5
_LONGEST_WAIT_S = 30.0
_AGAIN = frozenset({429, 502, 503, 504})
"""What the specification calls retryable."""
_SCOPE = {"name": "tokenmart.gateway"}
_encode = msgspec.json.Encoder().encode


class Exporter:
    """Make it inside the event loop, `close` it at the end.

    `url` is the whole address of the collector's traces, `headers` are sent with every request,
    `resource` says who we are (OpenTelemetry's resource attributes).
    """

    def __init__(self, url: str, headers: dict[str, str], resource: dict[str, str]) -> None:
        self._url = url
        self._headers = {"content-type": "application/json", **headers}
        self._resource = {"attributes": attributes(dict(resource))}
        self._waiting: deque[Span] = deque()
        self._working: asyncio.Task[None] | None = None
        self._failing = False
        self._closing = asyncio.Event()
        self.sent = self.dropped = 0

    def start(self) -> None:
        """Begin to send."""
        self._working = asyncio.ensure_future(self._work())

    def add(self, spans: Iterable[Span]) -> None:
        """Queue spans."""
        for span in spans:
            if len(self._waiting) >= MOST_WAITING:
                self.dropped += 1
            else:
                self._waiting.append(span)

    @property
    def waiting(self) -> int:
        """How many spans are queued."""
        return len(self._waiting)

    async def close(self) -> None:
        """Send what is queued, once, and end."""
        self._closing.set()
        if self._working is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._working, _PATIENCE_S)

    async def _work(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            closing = False
            while not closing:
                await self._sleep(_EVERY_S)
                closing = self._closing.is_set()
                while self._waiting:
                    count = min(len(self._waiting), _AT_ONCE)
                    await self._send(session, [self._waiting.popleft() for _ in range(count)])

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def _send(self, session: aiohttp.ClientSession, spans: list[Span]) -> None:
        """Send one batch; try again while the collector asks for it, but not for ever."""
        scope = {"scope": _SCOPE, "spans": spans}
        body = _encode({"resourceSpans": [{"resource": self._resource, "scopeSpans": [scope]}]})
        for number in range(_TRIES):
            refused, words, wait_s = await self._post(session, body)
            if refused == 0:
                self._is_well()
                self.sent += len(spans)
                return
            if refused > 0:  # some of them, or all: for good
                refused = min(refused, len(spans))
                self.sent += len(spans) - refused
                self.dropped += refused
                self._is_ill(words)
                return
            self._is_ill(words)
            if self._closing.is_set():
                break
            await self._sleep(min(_LONGEST_WAIT_S, max(wait_s, 2.0**number)))
        self.dropped += len(spans)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> tuple[int, str, float]:
        """Return (spans refused for good, or -1 for "again"; why; how long to wait in seconds)."""
        import aiohttp

        try:
            async with session.post(self._url, data=body, allow_redirects=False) as answer:
                if answer.status in _AGAIN:
                    wait = answer.headers.get("retry-after", "")
                    wait_s = float(wait) if wait.isdigit() else 0.0
                    return -1, f"status {answer.status}", wait_s
                if not 200 <= answer.status < 300:
                    return MOST_WAITING, f"status {answer.status}", 0.0
                return *_partial(await answer.read()), 0.0
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return -1, type(error).__name__, 0.0

    def _is_ill(self, words: str) -> None:
        if not self._failing:
            self._failing = True
            log.warning("the collector of traces does not take them (%s)", words)

    def _is_well(self) -> None:
        if self._failing:
            self._failing = False
            log.warning("the collector of traces takes them again")


def collector_of(
    url: str, environment: Mapping[str, str]
) -> tuple[str, dict[str, str], dict[str, str]] | None:
    """Return (address, headers, resource) for an `Exporter`, None where no traces are wanted.

    `url` is our own setting; else OpenTelemetry's variables say (its specification, "OTLP Exporter
    Configuration" and "Environment Variable Specification").
    """
    told = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    whole = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    if not url and environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    base = url or ("" if whole else told)
    address = f"{base.rstrip('/')}/v1/traces" if base else whole
    if not address:
        return None
    given = environment.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
    headers = _pairs(given or environment.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
    resource = {"service.name": "tokenmart", "service.instance.id": socket.gethostname()}
    resource |= _pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if name := environment.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = name
    return address, headers, resource


def _pairs(text: str) -> dict[str, str]:
    """Read `name=value,…` with percent-encoded values (W3C Baggage, as these variables have it)."""
    pairs = (item.partition("=") for item in text.split(",") if "=" in item)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def _partial(body: bytes) -> tuple[int, str]:
    """Return how many spans of an accepted batch were refused, and why."""
    try:
        told: Any = msgspec.json.decode(body).get("partialSuccess") or {}
        return int(told.get("rejectedSpans") or 0), str(told.get("errorMessage") or "")
    except (msgspec.MsgspecError, AttributeError, TypeError, ValueError):
        return 0, ""
