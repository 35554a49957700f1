"""What a client speaks and what an engine speaks: one place for the difference.

    path                 engine gets                          tokens of output
    chat/completions     the same                             yes
    completions          the same                             yes
    embeddings           the same                             none
    moderations          the same                             none
    responses, messages  the same where it speaks the shape,  yes
                         else chat/completions, translated

A `Talk` is one request in its shape, a `Streaming` one streamed answer on its way to the client.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import msgspec

from catalog.ground.clock import SECOND_US
from catalog.ground.errors import BadRequest, TokenMartError, UpstreamFailed
from catalog.ground.rendering import RenderedError, render_anthropic, render_openai
from marketplace.gateway.counting import texts_of
from marketplace.gateway.money import Call
from marketplace.gateway.native import NativeStream, with_cost
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.request import (
    MAX_CHOICES,
    Envelope,
    Fields,
    count_media,
    decoded,
    not_json,
    parse,
    rewrite,
)
from marketplace.gateway.sse import DONE, Events, StreamReader
from marketplace.gateway.usage import NOTHING, Found, usage_of
from serving.routing import Wish, affinity_key, listings_asked_for, parse_wish
from serving.translation import NO_THREADS, TRANSLATIONS, Translation

CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_NO_OUTPUT = frozenset({"/v1/embeddings", "/v1/moderations"})
_SPEAKS = {"/v1/responses": "responses", "/v1/messages": "messages"}
_LIMITS = {"/v1/responses": ("max_output_tokens",), "/v1/messages": ("max_tokens",)}
_BOTH = ("max_tokens", "max_completion_tokens")
"""Which of them an engine reads is its own affair: both must say the bound that the hold covers."""
_OLD = ("max_tokens",)
_STREAM_OPTIONS = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')
_NULL = b"null"
_ERRORS = (b'{"error":{', b'{"error": {')
"""How a body begins that is an error in spite of its status, 200."""
_NAMES_OF_CHUNK = ("id", "object", "created", "model", "system_fingerprint")
_NONE: frozenset[str] = frozenset()
_UNDERSTOOD = frozenset(
    {"model", "messages", "prompt", "input", "stream", "stream_options"}
    | {"max_tokens", "max_completion_tokens", "models", "route", "provider", "prompt_cache_key"}
)
"""Fields that the shape itself has, and those that are ours: no engine says that it supports them."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Streaming(Protocol):
    """A streamed answer. `feed` what arrives and send on what it returns, at once."""

    @property
    def done(self) -> bool:
        """Whether the engine has said that the answer is complete."""

    @property
    def failed(self) -> bool:
        """Whether the engine has said that it failed."""

    def feed(self, piece: bytes) -> bytes: ...

    def usage(self) -> Found: ...

    def produced(self) -> bytes:
        """Return the events that came, where no usage did."""

    def last(self, cost_u: int | None, counted: dict[str, Any] | None) -> bytes:
        """Return what may leave only after the settlement, with the cost in a comment.

        `counted` is the usage that was counted here, where the engine told none.
        """


class Talk:
    """One request in the shape of its path. Raises `BadRequest` for what is wrong with it."""

    __slots__ = (
        "_native",
        "_native_stream",
        "_translation",
        "_untranslatable",
        "affinity",
        "body",
        "envelope",
        "fields",
        "has_output",
        "path",
        "wanted",
        "wish",
    )

    def __init__(self, path: str, body: bytes) -> None:
        self.path = path
        self.body = body
        self.envelope, self.fields = parse(body)
        self.has_output = path not in _NO_OUTPUT
        self._native: tuple[Envelope, Fields] | None = None
        self._native_stream: NativeStream | None = None
        self._translation: Translation | None = None
        self._untranslatable: BadRequest | None = None
        if path in TRANSLATIONS:
            self._translate()
        self.wish: Wish | None = None
        provider = self.fields.get("provider")
        if provider is not None and bytes(provider) != _NULL:
            self.wish = parse_wish(bytes(provider))
        self.affinity: int | None = None
        self.wanted = _NONE

    def _translate(self) -> None:
        """Read the request once for an engine that speaks its shape, and once for all others.

        What the translation cannot express is only refused where no engine speaks the shape (`able`).
        """
        self._native = self.envelope, self.fields
        document = decoded(self.body)
        try:
            translation = TRANSLATIONS[self.path](document)
            chat = _encode(translation.chat_request())
        except BadRequest as error:
            if error.code == NO_THREADS:
                raise  # engines are not told the beta's header: they would answer the last turn alone
            self._untranslatable = error
            return
        except RecursionError as error:
            raise not_json(error) from None
        ours = {k: v for k, v in self.fields.items() if k in ("models", "route", "provider")}
        self.envelope, self.fields = parse(_encode({**_decode(chat), **ours}) if ours else chat)
        self._translation = translation

    def route_by(self, org_id: str, endpoints: tuple[EndpointRecord, ...]) -> None:
        """Work out what the router needs; for a single endpoint that is nothing."""
        if len(endpoints) > 1:
            written = self.envelope if self._native is None else self._native[0]
            hint = written.prompt_cache_key or ""
            self.affinity = affinity_key(org_id, self.body, hint)
        if self.wish is not None or any(e.supports is not None for e in endpoints):
            named = {name for name, raw in self.fields.items() if bytes(raw) != _NULL}
            self.wanted = frozenset(named - _UNDERSTOOD)

    @property
    def choices(self) -> int:
        """How many answers there will be: `n` for each prompt of a completion, of `best_of` that are made."""
        count = self.envelope.n or 1
        if self.path != _COMPLETIONS:
            return count
        if "best_of" in self.fields:
            most = decoded(self.fields["best_of"])
            if most is not None:
                if type(most) is not int or not 1 <= most <= MAX_CHOICES:
                    raise BadRequest(
                        f"best_of must be a whole number from 1 to {MAX_CHOICES}.",
                        code="invalid_value",
                        param="best_of",
                    )
                count = max(count, most)
        prompts = bytes(self.fields.get("prompt", b""))
        if prompts.startswith(b"["):
            given = decoded(prompts)
            # A list of numbers is one prompt: its tokens.
            count *= len(given) if given and not isinstance(given[0], int) else 1
        return count

    @property
    def media(self) -> int:
        """How many pictures, recordings and files it has at most: their bytes do not bound their tokens."""
        return count_media(self.body)

    @property
    def brings_more(self) -> bool:
        """Whether its engine adds input that is not in it: what it keeps, or what its own tools find."""
        return self._untranslatable is not None

    def speaks(self, endpoint: EndpointRecord) -> bool:
        """Return whether the engine answers in the client's shape by itself."""
        return self._native is None or _SPEAKS[self.path] in endpoint.speaks

    def able(self, endpoints: tuple[EndpointRecord, ...]) -> tuple[EndpointRecord, ...]:
        """Return those that can be asked this; `BadRequest` says what keeps it from all of them.

        That is all of them, unless chat completions cannot express it: then it is those that speak its shape.
        """
        if self._untranslatable is None:
            return endpoints
        able = tuple(endpoint for endpoint in endpoints if self.speaks(endpoint))
        if not able:
            raise self._untranslatable
        return able

    def request_for(self, endpoint: EndpointRecord, call: Call) -> tuple[str, bytes]:
        """Return the path and the body that the engine gets; it is one of those that are `able`."""
        changes: dict[str, Any] = {"model": endpoint.model}
        if self._native is not None and self.speaks(endpoint):
            for name in _LIMITS[self.path]:
                changes[name] = call.max_tokens
            return self.path, rewrite(self._native[1], changes)
        path = CHAT if self._translation is not None else self.path
        if self.has_output:
            for name in _BOTH if path == CHAT else _OLD:
                changes[name] = call.max_tokens
            if call.streamed:
                changes["stream_options"] = _STREAM_OPTIONS
        return path, rewrite(self.fields, changes)

    def countable(self) -> dict[str, Any]:
        """Return the request as an engine's `/tokenize` takes it; of an answered one, so this never fails."""
        try:
            document: dict[str, Any] = decoded(_encode(self.fields))
        except BadRequest:
            return {"prompt": self.body.decode(errors="replace")}  # counted as it was written
        if self._untranslatable is not None:
            # No tokenizer knows the shape: its text is what can be counted.
            said = [document.get(name) for name in ("system", "instructions", "messages", "input")]
            return {"prompt": "\n".join(texts_of({"content": said}))}
        if "input" in document and not {"messages", "prompt"} & document.keys():
            document["prompt"] = document["input"]
        return document

    def streaming(self, endpoint: EndpointRecord) -> Streaming:
        """Return what reads the engine's stream."""
        if self._native is None:
            return _Passing(self.envelope.wants_usage)
        self._native_stream = NativeStream(self.path) if self.speaks(endpoint) else None
        if self._native_stream is not None:
            return self._native_stream
        assert self._translation is not None  # or it would not be among those that are able
        return _Translating(self._translation)

    def answer(self, body: bytes, call: Call) -> bytes:
        """Return the document for the client. `UpstreamFailed` when the engine's is no answer."""
        if body.startswith(_ERRORS):
            raise UpstreamFailed("The engine answered with an error; nothing was charged.")
        if self._translation is None or self.speaks(call.endpoint):
            return body
        try:
            chat = _decode(body)
            created_s = call.started_at_us // SECOND_US
            return _encode(self._translation.answer(chat, call.id, created_s))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UpstreamFailed("The engine's answer is not JSON; nothing was charged.") from error

    def begins(self, streaming: Streaming, call: Call) -> None:
        """Tell a stream of named events whose answer it is."""
        if isinstance(streaming, _Translating | NativeStream):
            streaming.begin(call.id, call.started_at_us // SECOND_US)

    def stream_error(self, error: TokenMartError) -> bytes:
        """Return the event that tells of a failure in the middle of a stream."""
        if self._native_stream is not None:
            return self._native_stream.fail(error)
        if self._translation is not None:
            return self._translation.fail(error)
        return b"data: " + render_openai(error).body + b"\n\n"


def render(path: str, error: Exception, generation_id: str | None = None) -> RenderedError:
    """Return an error in the shape of the path."""
    if path.startswith("/v1/messages"):
        return render_anthropic(error, generation_id)
    return render_openai(error)


class _Passing:
    """Chat and completion chunks as they come, less the usage that nobody asked for."""

    __slots__ = ("_reader", "_wants_usage")

    def __init__(self, wants_usage: bool) -> None:
        self._reader = StreamReader()
        self._wants_usage = wants_usage

    @property
    def done(self) -> bool:
        return self._reader.done

    @property
    def failed(self) -> bool:
        return self._reader.failed is not None

    def feed(self, piece: bytes) -> bytes:
        return self._reader.feed(piece)

    def usage(self) -> Found:
        return NOTHING if self._reader.usage is None else usage_of(self._reader.usage)

    def produced(self) -> bytes:
        return b"\n\n".join(self._reader.made)

    def last(self, cost_u: int | None, counted: dict[str, Any] | None) -> bytes:
        usage = self._usage_chunk(counted) + b"\n\n" if self._wants_usage else b""
        cost = b"" if cost_u is None else b": cost_u=%d\n\n" % cost_u
        return usage + cost + DONE + b"\n\n"

    def _usage_chunk(self, counted: dict[str, Any] | None) -> bytes:
        """Return the chunk that tells usage: the engine's, or one like its others with what is known."""
        reader = self._reader
        if reader.usage_chunk is not None:
            return reader.usage_chunk
        like: dict[str, Any] = {}
        with contextlib.suppress(
            UpstreamFailed
        ):  # it has been paid for, whatever its chunks are like
            newest = reader.usage or (reader.made[-1] if reader.made else b"data:{}")
            like = {k: v for k, v in _chunk(newest).items() if k in _NAMES_OF_CHUNK}
        return b"data: " + _encode(like | {"choices": [], "usage": counted or self.usage()[0]})


class _Translating:
    """Chat chunks in, the events of another shape out."""

    __slots__ = ("_begun", "_events", "_last", "_reader", "_translation", "_who")

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._reader = StreamReader()
        self._events = Events()
        self._who = ("", 0)
        self._begun = False
        self._last: bytes | None = None

    def begin(self, generation_id: str, created_s: int) -> None:
        self._who = (generation_id, created_s)

    @property
    def done(self) -> bool:
        return self._reader.done

    @property
    def failed(self) -> bool:
        return self._reader.failed is not None

    def feed(self, piece: bytes) -> bytes:
        forward = self._reader.feed(piece)
        if not forward:
            return b""  # nothing has begun: if this is how it failed, another engine may be asked
        told = [] if self._begun else [self._translation.begin(*self._who)]
        self._begun = True
        events = self._events.cut(forward)
        told += [self._translation.feed(_chunk(e)) for e in events if e.startswith(b"data:")]
        return b"".join(told)

    def usage(self) -> Found:
        return NOTHING if self._reader.usage is None else usage_of(self._reader.usage)

    def produced(self) -> bytes:
        return b"\n\n".join(self._reader.made)

    def last(self, cost_u: int | None, counted: dict[str, Any] | None) -> bytes:
        if self._last is None:
            usage, _ = self.usage()
            begun = b"" if self._begun else self._translation.begin(*self._who)
            self._last = begun + self._translation.finish(usage or counted)
        return self._last if cost_u is None else with_cost(self._last, cost_u)


def _chunk(event: bytes) -> dict[str, Any]:
    try:
        chunk = _decode(event[5:].strip())
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UpstreamFailed("The engine's event is not JSON; nothing was charged.") from error
    if not isinstance(chunk, dict):
        raise UpstreamFailed("The engine's event is no chunk; nothing was charged.")
    return chunk


def names_asked_for(envelope: Envelope) -> tuple[str, ...]:
    """Return the listings to try, in order; one, unless the request asks for fallbacks."""
    if envelope.model and envelope.models is None and envelope.route is None:
        return (envelope.model,)
    if envelope.model == "":
        raise BadRequest("model is empty.", param="model", code="invalid_value")
    return listings_asked_for(envelope.model, envelope.models, envelope.route)
