"""Calls by chance for two gateways: a request, and what its engine makes of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from support.express_chapters import (
    bitten,
    pieces_by_chance,
    request_by_chance,
    usage_by_chance,
    written,
)
from support.fuzz_bodies import good
from support.fuzz_streams import events
from support.upstream import Reply, refuses
from support.upstream_answers import chat, chat_events

_PATH = "/v1/chat/completions"
_ONE_PIECE = 10_000
_STATUSES = (400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 529)


@dataclass
class Case:
    """`MODEL` in the body stands for the listing."""

    body: bytes
    reply: Reply
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        """Whether the engine may be to blame for what comes of it."""
        return bool(self.reply.fails) or self.reply.status != 200


def make(chance: random.Random) -> Case:
    """Return a case."""
    body = _ordinary(chance) if chance.random() < 0.7 else request_by_chance(chance, "MODEL", 0.4)
    return Case(body, _reply(b'"stream":true' in body.replace(b" ", b""), chance), _headers(chance))


_FIELDS: dict[str, tuple[Any, ...]] = {
    "max_tokens": (1, 12, 200, 200, 4_000, None),
    "max_completion_tokens": (3, 200),
    "temperature": (0, 0.7, 1.0),
    "top_p": (1,),
    "stop": ("a", ["\n", "词"]),
    "seed": (7,),
    "user": ("u", "\U0001f600", ""),
    "n": (1, 1, None),
    "stream": (True, True, False, None),
    "stream_options": ({"include_usage": True}, {"include_usage": False}, None),
    "response_format": ({"type": "json_object"},),
    "tools": ([{"type": "function", "function": {"name": "f", "parameters": {}}}],),
    "prompt_cache_key": ("k",),
    "metadata": ({"a": "b"}, {}),
}


def _ordinary(chance: random.Random) -> bytes:
    """Return the body of a call such as people make them."""
    document = good(_PATH, "MODEL", '你好 "mark" \\ \u2028', chance)
    for name in chance.sample(sorted(_FIELDS), chance.choice((0, 1, 2, 4, 8))):
        document[name] = chance.choice(_FIELDS[name])
    if document.get("max_tokens", 100) in (1, 2, 3, 4):
        document["max_tokens"] = 100
    return written(document, chance)


def _headers(chance: random.Random) -> dict[str, str]:
    known = {
        "accept": "text/event-stream",
        "user-agent": "OpenAI/Python 2.0",
        "x-stainless-lang": "python",
        "cookie": "a=b; c=d",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "x-request-id": "mine",
        "accept-language": "zh-CN",
    }
    names = chance.sample(sorted(known), chance.choice((0, 0, 1, 2)))
    return {name: known[name] for name in names}


def _reply(streamed: bool, chance: random.Random) -> Reply:
    way = chance.random()
    if way < 0.08:
        return refuses(chance.choice(_STATUSES), "no", code=chance.choice(("x", None)))
    if way < 0.12:
        return Reply({}, fails=chance.choice(("reset", "close")), after=chance.choice((0, 1)))
    if way < 0.16:
        streamed = not streamed  # an engine that does not listen
    if streamed:
        return _streamed(chance)
    document: Any = chat({"model": "m"}) | {"usage": usage_by_chance(chance)}
    if chance.random() < 0.1:
        document = chance.choice(({}, [], "text", 7, None, {"error": {"message": "no"}}))
    return Reply(document, headers=_extra(chance))


def _streamed(chance: random.Random) -> Reply:
    way = chance.random()
    if way < 0.4:
        told = chat_events({"model": "m", "stream_options": {"include_usage": True}})
    elif way < 0.7:
        end = chance.choice((b"\n\n", b"\r\n\r\n"))
        told = [event + end for event in events(_PATH, "mark", chance)]
    else:
        told = [piece for piece in pieces_by_chance(chance) if piece][:200]
    if chance.random() < 0.2:
        place = chance.randrange(len(told)) if told else 0
        told[place : place + 1] = [bitten(b"".join(told[place : place + 1]), chance) or b":\n\n"]
    whole = b"".join(told)
    if b"error" in whole:
        # What stands behind an error in the same piece is still sent on: there is to be one piece.
        return Reply(events=[whole[:_ONE_PIECE]])
    cut = chance.random() < 0.1
    # What is still on its way when a connection is reset may arrive or not; what is closed behind it does.
    return Reply(events=told or [b"\n"], fails="close" if cut else "", after=chance.randint(1, 4))


def _extra(chance: random.Random) -> dict[str, str]:
    known = {"x-engine": "1", "retry-after": "3", "content-type": "application/json; charset=utf-8"}
    names = chance.sample(sorted(known), chance.choice((0, 0, 0, 1, 3)))
    return {name: known[name] for name in names}
