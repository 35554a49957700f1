"""Streams of engines that speak Responses or Messages themselves: passed through, read for usage.

What ends such a stream (`response.completed`, `message_delta` and `message_stop`, …) is kept back until the
settlement is durable, as `[DONE]` is of chat chunks. It leaves as it came, with the cost in a comment, and
with what was counted where the engine said nothing of usage.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from catalog.ground.errors import TokenMartError, UpstreamFailed
from catalog.ground.rendering import anthropic_object
from marketplace.gateway.sse import Events
from marketplace.gateway.usage import NOTHING, Found
from serving.translation import messages_output, responses_output
from serving.translation.events import event as named_event
from serving.translation.usage import read_counts

_ENDS = {
    "/v1/responses": (b"response.completed", b"response.incomplete"),
    "/v1/messages": (b"message_stop",),
}
_FAILS = {"/v1/responses": (b"response.failed", b"error"), "/v1/messages": (b"error",)}
_TELLS_ALL = {
    "/v1/responses": _ENDS["/v1/responses"],
    "/v1/messages": (b"message_delta",),
}
"""Whose usage is the call's. `message_start` tells the input, and of the output only its beginning."""
_USAGE = b'"usage"'
_DATA = re.compile(rb"^data:(.*)$", re.MULTILINE)
_NAME = re.compile(rb"^event:(.*)$", re.MULTILINE)
_MOST_KEPT = 64 * 1024 * 1024
"""Bytes of a stream that are kept until it ends: what was made, and what may leave only at the end."""


class NativeStream:
    """One stream of named events. Usage may come in parts: what comes later adds to it or replaces it."""

    __slots__ = (
        "_count",
        "_ends",
        "_events",
        "_fails",
        "_generation_id",
        "_kept",
        "_made",
        "_path",
        "_size",
        "_tells_all",
        "_told_all",
        "_usage",
        "done",
        "failed",
    )

    def __init__(self, path: str) -> None:
        self._path = path
        self._generation_id = ""
        self._count = 0
        self._ends, self._fails = _ENDS[path], _FAILS[path]
        self._tells_all = _TELLS_ALL[path]
        self._told_all = False
        self._events = Events()
        self._kept: list[bytes] = []
        self._size = 0
        self._made: list[bytes] = []
        self._usage: dict[str, Any] = {}
        self.done = False
        self.failed = False

    def begin(self, generation_id: str, created_s: int) -> None:
        """Take note whose answer it is."""
        self._generation_id = generation_id

    def feed(self, piece: bytes) -> bytes:
        """Return the events that may be sent on now."""
        told = []
        for event in self._events.cut(piece):
            self._size += len(event)
            if self._size > _MOST_KEPT:
                raise UpstreamFailed("The engine sent more than any answer; nothing was charged.")
            name = _name(event)
            if name in self._fails:
                self.failed = True
                break
            if event.find(_USAGE) >= 0:  # `find`: see `sse`
                self._read(event)
                self._told_all = self._told_all or name in self._tells_all
            else:
                self._made.append(event)
            if name in self._ends:
                self.done = True
            if self._kept or name in self._tells_all or self.done:
                self._kept.append(event)
            else:
                told.append(event + b"\n\n")
        self._count += len(told)
        return b"".join(told)

    def _read(self, event: bytes) -> None:
        found = _DATA.search(event)
        if found is None:
            return
        try:
            data = msgspec.json.decode(found[1])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UpstreamFailed("The engine's event is not JSON; nothing was charged.") from error
        if not isinstance(data, dict):
            return
        for holder in (data, data.get("response"), data.get("message")):
            usage = holder.get("usage") if isinstance(holder, dict) else None
            if isinstance(usage, dict):
                self._usage.update({k: v for k, v in usage.items() if v is not None})

    def usage(self) -> Found:
        """Return what was used, once the engine has told all of it."""
        if not self._told_all or not self._usage:
            return NOTHING
        return self._usage, json.dumps(self._usage, separators=(",", ":"))

    def produced(self) -> bytes:
        """Return the events that came, for a stream that ended before its usage."""
        return b"\n\n".join(self._made)

    def last(self, cost_u: int | None, counted: dict[str, Any] | None) -> bytes:
        """Return what ends the stream, with its cost, and with what was `counted` for want of usage."""
        last = []
        for event in self._kept:
            name = _name(event)
            if counted is not None and name in self._tells_all:
                event = self._with_usage(event, counted)
            event += b"\n\n"
            if cost_u is not None and name in self._ends:
                event, cost_u = with_cost(event, cost_u), None
            last.append(event)
        return b"".join(last)

    def _with_usage(self, event: bytes, counted: dict[str, Any]) -> bytes:
        found = _DATA.search(event)
        try:
            data = msgspec.json.decode(found[1]) if found is not None else None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            data = None
        if found is None or not isinstance(data, dict):
            return event
        counts = read_counts(counted)
        if self._path == "/v1/messages":
            data["usage"] = messages_output.usage_object(counts)
        elif isinstance(data.get("response"), dict):
            data["response"]["usage"] = responses_output.usage_object(counts)
        return event[: found.start(1)] + b" " + msgspec.json.encode(data) + event[found.end(1) :]

    def fail(self, error: TokenMartError) -> bytes:
        """Return the event of a stream that breaks off."""
        if self._path == "/v1/messages":
            return named_event(anthropic_object(error, self._generation_id))
        ours = {"type": "error", "code": error.code, "message": str(error), "param": error.param}
        return named_event(ours | {"sequence_number": self._count})


def with_cost(events: bytes, cost_u: int) -> bytes:
    """Return whole events with the cost as a comment in the last one, as its first line.

    A comment with an empty line of its own would end nothing, and some clients (OpenAI's SDK, behind an
    event that had an `id`) read that as an event without data.
    """
    at = events.rfind(b"\n\n", 0, -2)
    at = 0 if at < 0 else at + 2
    return b"%b: cost_u=%d\n%b" % (events[:at], cost_u, events[at:])


def _name(event: bytes) -> bytes:
    if event.startswith(b"event:"):
        return event[6:].partition(b"\n")[0].strip()
    found = _NAME.search(event)
    return found[1].strip() if found is not None else b""
