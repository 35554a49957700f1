"""The one place where an error becomes an HTTP answer.

Under `/v1` a caller gets OpenAI's error object, or Anthropic's where its Messages API is spoken, and
elsewhere problem+json (RFC 9457). All are plain data here, so that the gateway's hot path, FastAPI and an
engine render alike without sharing a framework.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from catalog.ground.errors import InternalError, TokenMartError


@dataclass(frozen=True, slots=True)
class RenderedError:
    """An answer ready to be sent: `body` is UTF-8 JSON, header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def known(error: Exception) -> TokenMartError:
    """Return `error` when it is ours; otherwise an `InternalError` that gives nothing away."""
    if isinstance(error, TokenMartError):
        return error
    return InternalError("Something went wrong on our side; nothing was charged.")


def openai_object(error: TokenMartError) -> dict[str, Any]:
    """Return OpenAI's error object, with our `rule`, `remedy` and `details` beside its four fields."""
    body: dict[str, Any] = {
        "message": str(error),
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    if error.rule:
        body["rule"] = error.rule
    if error.remedy:
        body["remedy"] = error.remedy
    return {"error": body | error.details}


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    412: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def anthropic_object(error: TokenMartError, request_id: str | None = None) -> dict[str, Any]:
    """Return Anthropic's error object; `details.error_code` is our stable code, where its SDK looks."""
    details: dict[str, Any] = {"error_code": error.code}
    more = {"param": error.param, "rule": error.rule, "remedy": error.remedy}
    details |= {key: value for key, value in more.items() if value} | error.details
    told = {
        "type": _ANTHROPIC_TYPES.get(error.status, "api_error"),
        "message": str(error),
        "details": details,
    }
    return {"type": "error", "error": told, "request_id": request_id}


def problem_object(error: TokenMartError) -> dict[str, Any]:
    """Return the problem+json members of RFC 9457, section 3.1, and our extensions."""
    body: dict[str, Any] = {
        "type": f"urn:tokenmart:error:{error.code}",
        "title": error.code.replace("_", " "),
        "status": error.status,
        "detail": error.message,
    }
    extensions = {"param": error.param, "rule": error.rule, "remedy": error.remedy}
    return body | {key: value for key, value in extensions.items() if value} | error.details


def _headers(error: TokenMartError, content_type: str) -> dict[str, str]:
    headers = error.headers | {"content-type": content_type}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="tokenmart"'
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, math.ceil(error.retry_after_s * 1000)))
    return headers


def _encode(body: dict[str, Any]) -> bytes:
    # A caller's JSON can spell lone surrogates, and what an error quotes of it must not fail here.
    return json.dumps(body, ensure_ascii=False).encode(errors="replace")


def render_openai(error: Exception) -> RenderedError:
    """Render for callers of the OpenAI-compatible door."""
    ours = known(error)
    return RenderedError(
        ours.status, _headers(ours, "application/json"), _encode(openai_object(ours))
    )


def render_anthropic(error: Exception, request_id: str | None = None) -> RenderedError:
    """Render for callers of Anthropic's Messages API; `request_id` goes into body and header."""
    ours = known(error)
    headers = _headers(ours, "application/json")
    if request_id is not None:
        headers["request-id"] = request_id
    return RenderedError(ours.status, headers, _encode(anthropic_object(ours, request_id)))


def render_problem(error: Exception) -> RenderedError:
    """Render for every other caller."""
    ours = known(error)
    return RenderedError(
        ours.status, _headers(ours, "application/problem+json"), _encode(problem_object(ours))
    )
