"""Read what the gateway must know of a request; everything else passes through untouched."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from catalog.ground.errors import BadRequest

MAX_CHOICES = 128
MOST_OUTPUT_TOKENS = 10_000_000
ENGINE_RULE = "engine.request"
"""The rule of an error in which an engine has refused a request in its own words."""


NAMED_BY = ("x-tm-generation", "x-request-id", "request-id")
"""Headers with a generation's id: ours, and where OpenAI's and Anthropic's SDKs look for it."""
_NAMED_BY = [name.encode() for name in NAMED_BY]


class ClientGone(Exception):
    """The client closed its connection."""


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Envelope(msgspec.Struct):
    """The fields that decide routing and price. `max_completion_tokens` is the newer name.

    `models`, `route` and `provider` are the gateway's own (OpenRouter's shape) and go no further;
    `provider` is read from the fields (`shapes`).
    """

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = 1
    models: list[str] | None = None
    route: str | None = None
    prompt_cache_key: str | None = None

    @property
    def asked_max_tokens(self) -> int | None:
        """The caller's own bound on output tokens per choice, None when there is none."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens if self.max_tokens is not None else self.max_output_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether the caller asked for the usage chunk of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage


Fields = dict[str, msgspec.Raw]
_KNOWN = Envelope.__struct_fields__
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_KEPT_BACK = ("models", "route", "provider", "n_predict", "n_cmpl")
"""The gateway's own fields; and llama.cpp's names for `max_tokens` and `n`, which it reads before those: what
they ask for is in no hold."""
_MEDIA = re.compile(
    rb'"(?:(?:image|video|audio)_(?:url|embeds)|input_(?:image|video|audio|file)'
    rb'|type"\s*:\s*"(?:image|video|audio|document|file))"'
)
_ESCAPED_LETTER = re.compile(rb"\\u00([46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff])")
"""A letter or `_` as an escape, which no encoder writes: a name may be spelled with it."""
_fields = msgspec.json.Decoder(Fields)
_envelope = msgspec.json.Decoder(Envelope)
_anything = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


def parse(body: bytes) -> tuple[Envelope, Fields]:
    """Return the envelope of a request body and all its top-level fields, undecoded.

    The body is read once, whatever its length. `BadRequest` names the field that is wrong.
    """
    try:
        fields = _fields.decode(body)
        known = {name: fields[name] for name in _KNOWN if name in fields}
        envelope = _envelope.decode(_encode(known))
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$.")
        raise BadRequest(
            f"The request is not valid: {words}.",
            code="invalid_type",
            param=path.rstrip("`") or None,
            remedy="See the OpenAI API reference for this field.",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from None
    for name in _BOUNDS:
        _within(name, getattr(envelope, name), MOST_OUTPUT_TOKENS)
    _within("n", envelope.n, MAX_CHOICES)
    return envelope, fields


def decoded(raw: bytes | msgspec.Raw) -> Any:
    """Return a JSON value of the request. `BadRequest` where `parse`, which reads no more than it must,
    has let through what is no value: bytes that are not UTF-8, numbers out of range, depths beyond reason.
    """
    try:
        return _anything.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise not_json(error) from None


def count_media(body: bytes) -> int:
    """Return how many pictures, recordings and files a request has at most, in any shape."""
    # They are parts of a list; most requests have no list but that of their messages. Looking for a single
    # byte takes a hundredth of what a pattern takes.
    if body.find(b"[", body.find(b"[") + 1) < 0:
        return 0
    # Not by reading it: what only the engine can read (1e400, say) is not refused here.
    return len(_MEDIA.findall(_ESCAPED_LETTER.sub(_letter, body)))


def _letter(escaped: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escaped[1].decode())


def not_json(error: Exception) -> BadRequest:
    """Return the error for a body that cannot be read, or is too deep to be written again."""
    return BadRequest(
        f"The body is not JSON: {error}.", code="invalid_json", remedy="Send a JSON object."
    )


def _within(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise BadRequest(
            f"{name} must be a whole number from 1 to {most}.", code="invalid_value", param=name
        )


def rewrite(fields: Fields, changes: dict[str, Any]) -> bytes:
    """Return the body with some top-level fields set; every other one is as the caller wrote it."""
    document: dict[str, Any] = fields | changes
    for name in _KEPT_BACK:
        document.pop(name, None)
    return _encode(document)


def named(generation_id: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that name an answer's generation."""
    value = generation_id.encode()
    return [(name, value) for name in _NAMED_BY]


def bearer(headers: dict[bytes, bytes]) -> str | None:
    """Return the key of `Authorization: Bearer …` (or of `x-api-key`), None when there is none."""
    value = headers.get(b"authorization", b"")
    if value[:7].lower() == b"bearer ":
        return value[7:].decode("latin-1").strip() or None
    value = headers.get(b"x-api-key", b"")
    return value.decode("latin-1").strip() or None
