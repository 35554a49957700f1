"""Read what the gateway must know of a request; everything else passes through untouched."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from catalog.ground.errors import BadRequest, PayloadTooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_CHOICES = 128


class ClientGone(Exception):
    """The client closed its connection."""


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Envelope(msgspec.Struct):
    """The fields that decide routing and price. `max_completion_tokens` is the newer name."""

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1

    @property
    def asked_max_tokens(self) -> int | None:
        """The caller's own bound on output tokens per choice, None when there is none."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether the caller asked for the usage chunk of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage


_decoder = msgspec.json.Decoder(Envelope)


def parse(body: bytes) -> Envelope:
    """Return the envelope of a request body; `BadRequest` names the field that is wrong."""
    try:
        envelope = _decoder.decode(body)
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$.")
        raise BadRequest(
            f"The request is not valid: {words}.",
            code="invalid_type",
            param=path.rstrip("`") or None,
            remedy="See the OpenAI API reference for this field.",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"The body is not JSON: {error}.", code="invalid_json", remedy="Send a JSON object."
        ) from None
    for name, value, most in (
        ("max_tokens", envelope.max_tokens, 10_000_000),
        ("max_completion_tokens", envelope.max_completion_tokens, 10_000_000),
        ("n", envelope.n, MAX_CHOICES),
    ):
        if value is not None and not 1 <= value <= most:
            raise BadRequest(
                f"{name} must be a whole number from 1 to {most}.", code="invalid_value", param=name
            )
    return envelope


def rewrite(body: bytes, changes: dict[str, Any]) -> bytes:
    """Return the body with some top-level fields set; the rest is as the caller wrote it.

    The fields go in front, and a field that is already there is removed by decoding: only then.
    """
    document = json.loads(body)
    document.update(changes)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return the whole body; `PayloadTooLarge` over `limit` bytes, `ClientGone` when it broke off."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise PayloadTooLarge(
                f"The body is larger than {limit:,} bytes.",
                rule="limits.body",
                remedy="Shorten the prompt, or send files as links.",
            )
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def bearer(scope: Scope) -> str | None:
    """Return the key of `Authorization: Bearer …` (or of `x-api-key`), None when there is none."""
    found = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].decode("latin-1").strip())
        if name == b"x-api-key":
            found = value.decode("latin-1").strip()
    return found
