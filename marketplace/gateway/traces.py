"""W3C trace context (Level 1): which trace a call belongs to, and what its engine is told of it.

A worker does no more about traces than this; the office makes spans of what it hears (`spans`) and
sends them (`otlp`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(rb"[\x20-\x7e]{1,512}")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_HALF = 1 << 64

Headers = tuple[tuple[bytes, bytes], ...]


class Trace:
    """One call in its trace. `asked` are the spans of its engines, in the order in which they were asked.

    One that is not `sampled` only passes on what the caller sent.
    """

    __slots__ = ("_given", "_state", "asked", "parent_id", "sampled", "span_id", "trace_id")

    def __init__(
        self, trace_id: str, parent_id: str, state: bytes, given: bytes, *, sampled: bool
    ) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.sampled = sampled
        self.span_id = span_id() if sampled else ""
        self.asked: list[str] = []
        self._state = state
        self._given = given

    def ask(self) -> Headers:
        """Return the headers for the next engine."""
        parent = self._given
        if self.sampled:
            self.asked.append(span_id())
            parent = f"00-{self.trace_id}-{self.asked[-1]}-01".encode()
        if self._state:
            return ((b"traceparent", parent), (b"tracestate", self._state))
        return ((b"traceparent", parent),)


def begin(headers: Mapping[bytes, bytes], ratio: float) -> Trace | None:
    """Return the trace of a request, None when it has none and gets none.

    A caller's `traceparent` is continued; one that is malformed counts as none. `ratio` is the share of
    all traces that are recorded, chosen by the trace's id, so that every service with the same ratio
    records the same ones; what a caller does not record we do not record either.
    """
    given = headers.get(b"traceparent", b"")
    match = _PARENT.fullmatch(given)
    if match is None or not _valid(match):
        if random.random() >= ratio:
            return None
        return Trace(f"{random.getrandbits(128) or 1:032x}", "", b"", b"", sampled=True)
    state = headers.get(b"tracestate", b"")
    if not _STATE.fullmatch(state):
        state = b""
    sampled = bool(int(match[4], 16) & 1) and int(match[2][16:], 16) < ratio * _HALF
    return Trace(match[2].decode(), match[3].decode(), state, given, sampled=sampled)


def _valid(match: re.Match[bytes]) -> bool:
    """Return whether a version, ids and a rest are those of a `traceparent`."""
    version, trace, span, _, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest):
        return False
    return trace != _NO_TRACE and span != _NO_SPAN


def span_id() -> str:
    """Return a new span's id."""
    return f"{random.getrandbits(64) or 1:016x}"
