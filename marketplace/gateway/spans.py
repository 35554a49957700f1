"""A seen request as OpenTelemetry spans, in OTLP's JSON encoding (opentelemetry-proto, trace/v1).

    request (SERVER)
      ├─ queue (INTERNAL)      where the call waited for its turn
      ├─ hold (INTERNAL)
      ├─ chat <model> (CLIENT) one for each engine that was asked; its id is what the engine was told
      └─ settle (INTERNAL)

Names are those of OpenTelemetry's HTTP and GenAI semantic conventions; ours begin with `tokenmart.`. Keys
appear by id, and nothing that was asked or answered appears at all.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from marketplace.gateway.seen import Attempt, Seen
from marketplace.gateway.traces import span_id

Span = dict[str, Any]
Value = str | int | float | bool
_INTERNAL, _SERVER, _CLIENT = 1, 2, 3
_ERROR = 2
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


def spans_of(seen: Seen) -> list[Span]:
    """Return the spans of one request, the request's own first."""
    made = [_request(seen)]
    if seen.waited_us:
        begin_us = seen.hold_from_us - seen.waited_us
        made.append(_inner(seen, "queue", begin_us, seen.hold_from_us))
    if seen.hold_from_us:
        made.append(_inner(seen, "hold", seen.hold_from_us, seen.held_at_us or seen.ended_at_us))
    last = len(seen.attempts) - 1
    made += [_engine(seen, attempt, number == last) for number, attempt in enumerate(seen.attempts)]
    if seen.settled_at_us:
        begin_us = seen.answered_at_us or seen.settled_at_us
        made.append(_inner(seen, "settle", begin_us, seen.settled_at_us))
    return made


def _request(seen: Seen) -> Span:
    told: dict[str, Value] = {
        "http.request.method": "POST",
        "http.route": seen.path,
        "http.response.status_code": seen.status,
        "gen_ai.operation.name": _operation(seen),
        "gen_ai.request.model": seen.listing,
        "tokenmart.generation_id": seen.generation,
        "tokenmart.org_id": seen.org,
        "tokenmart.key_id": seen.key,
        "tokenmart.outcome": seen.outcome,
        "error.type": seen.error,
    }
    if seen.settled_at_us:
        told |= _usage(seen) | {"tokenmart.cost_u": seen.cost_u}
    span = _span(seen, f"POST {seen.path}", _SERVER, seen.started_at_us, seen.ended_at_us, told)
    span["spanId"] = seen.span_id
    if seen.parent_id:
        span["parentSpanId"] = seen.parent_id
    else:
        del span["parentSpanId"]
    # A caller's own mistake (4xx) is no error of this server; a stream that broke off is.
    if seen.status >= 500 or (seen.error and seen.status == 200):
        span["status"] = {"code": _ERROR}
    return span


def _engine(seen: Seen, attempt: Attempt, last: bool) -> Span:
    where = urlsplit(attempt.url)
    told: dict[str, Value] = {
        "gen_ai.operation.name": _operation(seen),
        "gen_ai.provider.name": attempt.provider,
        "gen_ai.request.model": attempt.model,
        "gen_ai.request.max_tokens": seen.max_tokens,
        "gen_ai.request.stream": seen.streamed,
        "server.address": where.hostname or "",
        "server.port": where.port or (443 if where.scheme == "https" else 80),
        "tokenmart.endpoint_id": attempt.endpoint,
        "error.type": attempt.failure,
    }
    if last:
        told["tokenmart.route"] = seen.why
        if seen.settled_at_us:
            told |= _usage(seen)
        if seen.first_token_us:
            first_us = seen.started_at_us + seen.first_token_us - attempt.asked_at_us
            told["gen_ai.response.time_to_first_chunk"] = first_us / 1e6
    name = f"{_operation(seen)} {attempt.model}"
    span = _span(seen, name, _CLIENT, attempt.asked_at_us, attempt.ended_at_us, told)
    span["spanId"] = attempt.span_id or span_id()
    if attempt.failure:
        span["status"] = {"code": _ERROR}
    return span


def _operation(seen: Seen) -> str:
    return _OPERATIONS.get(seen.path, seen.path.removeprefix("/v1/").replace("/", "_"))


def _usage(seen: Seen) -> dict[str, Value]:
    return {
        "gen_ai.usage.input_tokens": seen.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": seen.cached_tokens,
        "gen_ai.usage.output_tokens": seen.output_tokens,
        "tokenmart.usage_source": seen.usage_source,
    }


def _inner(seen: Seen, name: str, begin_us: int, end_us: int) -> Span:
    return _span(seen, name, _INTERNAL, begin_us, end_us, {})


def _span(
    seen: Seen, name: str, kind: int, begin_us: int, end_us: int, told: dict[str, Value]
) -> Span:
    return {
        "traceId": seen.trace_id,
        "spanId": span_id(),
        "parentSpanId": seen.span_id,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(begin_us * 1000),
        "endTimeUnixNano": str(max(begin_us, end_us) * 1000),
        "attributes": attributes(told),
        "status": {},
    }


def attributes(told: dict[str, Value]) -> list[dict[str, Any]]:
    """Return attributes as OTLP has them; empty texts are left out."""
    return [{"key": key, "value": _value(value)} for key, value in told.items() if value != ""]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}
