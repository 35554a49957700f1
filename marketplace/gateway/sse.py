"""Server-sent events as bytes: cut whole events out of what arrives, look for usage, forward the rest.

The only things that the gateway reads in a stream are the `usage` object, an `error` event and the
closing `[DONE]`; the text of the model passes through as it came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

DONE = b"data: [DONE]"
_USAGE = b'"usage":{'
_SPACED_USAGE = b'"usage": {'
_FLAT = re.compile(rb"(?:[^{}]|\{[^{}]*\})*")
_NO_CHOICES = (b'"choices":[]', b'"choices": []')


@dataclass(slots=True)
class StreamReader:
    """Feed it pieces; it hands back what may be forwarded at once.

    `usage` is the newest event that carries usage, unparsed: usage counts up, so only the last one
    matters. The usage chunk (no choices) and `[DONE]` are kept back, because they may only leave when
    the settlement is durable. `keep_usage` leaves usage inside ordinary chunks.
    """

    keep_usage: bool = False
    usage: bytes | None = None
    usage_chunk: bytes | None = None
    failed: bytes | None = None
    done: bool = False
    events: int = 0
    _rest: bytes = field(default=b"")

    def feed(self, piece: bytes) -> bytes:
        """Return the complete events in what has arrived that the client may see now."""
        data = self._rest + piece if self._rest else piece
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n")
        if end < 0:
            self._rest = data
            return b""
        self._rest = data[end + 2 :]
        forward = [self._event(event) for event in data[:end].split(b"\n\n")]
        return b"".join([event for event in forward if event])

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data:"):
            return event + b"\n\n" if event else b""
        if event.startswith(DONE):
            self.done = True
            return b""
        if event.startswith((b'data: {"error"', b'data:{"error"')):
            self.failed = event
            return b""
        self.events += 1
        if _USAGE not in event and _SPACED_USAGE not in event:
            return event + b"\n\n"
        self.usage = event
        if _NO_CHOICES[0] in event or _NO_CHOICES[1] in event:
            self.usage_chunk = event
            return b""
        return (event if self.keep_usage else without_usage(event)) + b"\n\n"


def without_usage(event: bytes) -> bytes:
    """Return a chunk without its trailing `usage` member, or as it is when usage stands elsewhere."""
    start = event.rfind(b',"usage":{')
    if start < 0 or not event.endswith(b"}}"):
        return event
    # What follows must be the usage object alone, details of one level inside it.
    if _FLAT.fullmatch(event, start + 10, len(event) - 2) is None:
        return event
    return event[:start] + b"}"
