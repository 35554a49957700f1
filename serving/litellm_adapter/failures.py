"""What went wrong between litellm and a provider, as errors of ours.

    the request          context window, content policy, an unsupported field, 400, 413, 422: its own error
    our account          401, 402, 403, 404, an empty quota: 502, because no caller can mend it
    too much at once     429, 503, overloaded: the same, with the provider's Retry-After
    the way there        not reached 503, too late 504, broken off 502
    anything else        502, and the traceback on stderr

Only of a refused request does the caller read the provider's words: they tell what to change. Keys and
addresses are taken out of them, and a provider's headers are never passed on.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import httpx
import litellm

from catalog.ground.errors import (
    BadRequest,
    ContextTooLong,
    PayloadTooLarge,
    RateLimited,
    TokenMartError,
    Unavailable,
    Unprocessable,
    UpstreamFailed,
    UpstreamTimeout,
)
from serving.litellm_adapter.config import Served
from serving.litellm_adapter.egress import causes, refused

DEFAULT_WAIT_S = 2.0
LONGEST_WAIT_S = 3600.0
LONGEST_WORDS = 600
_PREFIX = re.compile(r"^(?:litellm\.)?\w+(?:Error|Exception|Timeout)\w*(?: \w+)?\s*(?::| - )\s*")
_LIKE_A_KEY = re.compile(r"\b(?:sk|pk|key|Bearer)[-_ ][A-Za-z0-9._*-]{6,}")
_ADDRESS = re.compile(r"https?://[^\s'\")\]]+")
_BYTES = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_TOO_LONG = re.compile(
    r"maximum context length|context[ _](?:length|window|limit)|(?:prompt|input) is too long", re.I
)
_SUFFIX = re.compile(r"\.? Handle with `litellm.*$", re.DOTALL)
_THEIRS = (litellm.exceptions.InternalServerError, litellm.exceptions.BadGatewayError)


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider said: its words and the fields of its error object."""

    words: str
    kind: str = ""
    code: str = ""
    param: str | None = None


def translate(error: Exception, served: Served, body: bytes = b"") -> TokenMartError:
    """Return our error for what a call to `served` raised; `body` is the request that led to it."""
    original = getattr(error, "original_exception", None)
    if isinstance(error, litellm.exceptions.MidStreamFallbackError) and original is not None:
        return translate(original, served, body)
    if isinstance(error, TokenMartError):
        return error
    refusal = refused(error)
    if refusal is not None:
        return _not_allowed(refusal.host, body)
    if isinstance(error, litellm.exceptions.ImageFetchError):
        return _not_allowed("", body)
    made = _of_the_way(error) or _of_the_answer(error, served)
    if made is None:
        log(error, served)
        made = _failed()
    return made


def log(error: BaseException, served: Served) -> None:
    """Write a traceback to stderr, without secrets."""
    text = "".join(traceback.format_exception(error))
    for secret in served.secrets:
        text = text.replace(secret, "***")
    print(text, file=sys.stderr, flush=True)


def broken_off() -> UpstreamFailed:
    """The error for an answer that ended before it was complete."""
    return UpstreamFailed(
        "The provider broke off before its answer was complete.",
        code="provider_broke_off",
        remedy="Try again.",
    )


def late() -> UpstreamTimeout:
    """The error for a provider that was silent for too long."""
    return UpstreamTimeout("The provider was silent for too long.", code="provider_timeout")


def _failed() -> UpstreamFailed:
    return UpstreamFailed("The provider failed.", code="provider_failed", remedy="Try again.")


def _not_allowed(host: str, body: bytes) -> TokenMartError:
    if not host or host.encode() in body.lower():
        return BadRequest(
            "An address in the request is not fetched: this adapter speaks to its providers only.",
            code="url_not_allowed",
            remedy="Send the content itself, as a data: URL.",
        )
    return UpstreamFailed(
        f"The host {host} is not in allowed_hosts.",
        code="egress_refused",
        remedy="Add it to the adapter's file if it is the provider's.",
    )


def _of_the_way(error: Exception) -> TokenMartError | None:
    """Return the error for a provider that was not reached, was late, or broke off."""
    chain = list(causes(error))
    if any(isinstance(e, httpx.ConnectError | httpx.ConnectTimeout) for e in chain):
        return Unavailable(
            "The provider cannot be reached.",
            code="provider_unreachable",
            retry_after_s=DEFAULT_WAIT_S,
        )
    timeouts = (TimeoutError, httpx.TimeoutException, litellm.exceptions.Timeout)
    if any(isinstance(e, timeouts) for e in chain):
        return late()
    if any(isinstance(e, httpx.TransportError) for e in chain):
        return broken_off()
    return None


def _of_the_answer(error: Exception, served: Served) -> TokenMartError | None:
    """Return the error for a provider that answered, and refused or failed."""
    status, told = getattr(error, "status_code", None), _told(error, served)
    # litellm knows a context that is too small by the provider's words, but not in every stream.
    too_long = status == 400 and (
        told.code == "context_length_exceeded" or _TOO_LONG.search(told.words)
    )
    if too_long or isinstance(error, litellm.exceptions.ContextWindowExceededError):
        return ContextTooLong(told.words, param=told.param or "messages")
    if isinstance(error, litellm.exceptions.ContentPolicyViolationError):
        return BadRequest(told.words, code="content_filter")
    if isinstance(error, litellm.exceptions.UnsupportedParamsError):
        return BadRequest(
            f"The provider of {served.name} does not take a field of this request: {told.words}",
            code="unsupported_parameter",
            param=told.param,
        )
    if told.code == "insufficient_quota" or told.kind == "insufficient_quota" or status == 402:
        return UpstreamFailed("The account with the provider is empty.", code="provider_quota")
    if status in (401, 403):
        return UpstreamFailed("The provider refused this adapter's key.", code="provider_auth")
    if status == 404:
        return UpstreamFailed(
            f"The provider does not know the model behind {served.name}.", code="provider_model"
        )
    if status == 429:
        return RateLimited(
            "The provider's rate limit is reached.", retry_after_s=_retry_after_s(error)
        )
    if status in (503, 529) or told.kind == "overloaded_error":
        return Unavailable(
            "The provider is overloaded.",
            code="provider_overloaded",
            retry_after_s=_retry_after_s(error),
        )
    kinds: dict[int, type[TokenMartError]] = {
        400: BadRequest,
        413: PayloadTooLarge,
        422: Unprocessable,
    }
    if status in kinds:
        return kinds[status](told.words, code=told.code or None, param=told.param)
    if isinstance(error, _THEIRS):
        print(f"{served.name}: the provider failed: {told.words}", file=sys.stderr, flush=True)
        return _failed()
    return None


def _told(error: Exception, served: Served) -> Told:
    text = str(error)
    found = getattr(error, "body", None) or _document(text)
    if isinstance(found, dict):
        found = found.get("error", found)
    if not isinstance(found, dict):
        return Told(_clean(_without_prefixes(text), served))
    code, param = str(found.get("code") or ""), found.get("param")
    return Told(
        _clean(str(found.get("message") or "The provider refused the request."), served),
        str(found.get("type") or ""),
        "" if code.isdigit() else code,
        param if isinstance(param, str) else None,
    )


def _document(text: str) -> Any:
    """Return the JSON object in litellm's sentence around it, if there is one."""
    shown, start = _BYTES.search(text), text.find("{")
    try:
        if shown is not None and shown.start() < start:
            # Of a streamed call it quotes the bytes, as Python writes them. Further in, a provider does.
            text = ast.literal_eval(shown[0]).decode(errors="replace")
            start = text.find("{")
        return json.JSONDecoder().raw_decode(text, start)[0] if start >= 0 else None
    except (ValueError, SyntaxError):
        return None


def _without_prefixes(text: str) -> str:
    """Return the words without the names of classes that litellm puts before them."""
    while found := _PREFIX.match(text):
        text = text[found.end() :]
    return _SUFFIX.sub("", text)


def _clean(words: str, served: Served) -> str:
    for secret in served.secrets:
        words = words.replace(secret, "***")
    words = _ADDRESS.sub("…", _LIKE_A_KEY.sub("***", words)).strip()
    return words[:LONGEST_WORDS] or "The provider refused the request."


def _retry_after_s(error: Exception) -> float:
    response = getattr(error, "response", None)
    for headers in (
        getattr(error, "litellm_response_headers", None),
        getattr(response, "headers", None),
    ):
        told: Any = (headers or {}).get("retry-after")
        try:
            return min(LONGEST_WAIT_S, max(1.0, float(told)))
        except (TypeError, ValueError):
            continue
    return DEFAULT_WAIT_S
