"""Server-sent events as bytes: cut whole events out of what arrives, look for usage, forward the rest.

The only things that the gateway reads in a stream of chat or completion chunks are the `usage` object, an
`error` event and the closing `[DONE]`; the text of the model passes through as it came.

Here stands `find` for `in`, because this runs for every token: `bytes` first tries whether what stands
before `in` is a number, which takes longer than the search (CPython 3.11).
"""

from __future__ import annotations

import re

import msgspec

from catalog.ground.errors import UpstreamFailed

DONE = b"data: [DONE]"
_DONES = (DONE, b"data:[DONE]")
_DATA_LINE = re.compile(rb"^data:(.*)$", re.MULTILINE)
_ERROR_NAME = re.compile(rb"^event: ?error$", re.MULTILINE)
_USAGE = b'"usage":{'
_SPACED_USAGE = b'"usage": {'
_LAST_USAGE = b',"usage":{'
_DATA = b"data: "
_ERROR = b'"error"'
_FLAT = re.compile(rb"(?:[^{}]|\{[^{}]*\})*")
_NO_CHOICES = b'"choices":[]'
_SPACED_NO_CHOICES = b'"choices": []'
_LARGEST_EVENT = 16 * 1024 * 1024
_MOST_MADE = 64 * 1024 * 1024


class _Telling(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"null")


_telling = msgspec.json.Decoder(_Telling)


class Events:
    """Cuts whole events out of pieces. Each byte is looked at once, however small the pieces are."""

    __slots__ = ("_edge", "_held", "_size")

    def __init__(self) -> None:
        self._edge = b""
        self._held: list[bytes] = []
        self._size = 0

    def cut(self, piece: bytes) -> list[bytes]:
        """Return the events that are complete now, without the empty line that ends each.

        Raises `UpstreamFailed` for an event that does not end.
        """
        if (
            piece.endswith(b"}\n\n")
            and piece.find(b"\n") == len(piece) - 2
            and not self._edge
            and not self._held
        ):
            return [piece[:-2]]  # one event of one line: what most engines send for a token
        data = self._edge + piece if self._edge else piece
        if data.find(b"\r") >= 0:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n")
        if end < 0:
            # Half of an end is two bytes at most: a newline, and a CR whose LF is still to come.
            self._held.append(data[:-2])
            self._edge = data[-2:]
            self._size += len(data) - len(self._edge)
            if self._size > _LARGEST_EVENT:
                raise UpstreamFailed(
                    "The engine sent an event without an end; nothing was charged."
                )
            return []
        self._edge = data[end + 2 :]
        data = data[:end]
        if self._held:
            data = b"".join((*self._held, data))
            self._held.clear()
            self._size = 0
        return data.split(b"\n\n")


class StreamReader:
    """Feed it pieces; it hands back what may be forwarded at once.

    `usage` is the newest event that carries usage, unparsed: usage counts up, so only the last one
    matters. The usage chunk (no choices) and `[DONE]` are kept back, because they may only leave when
    the settlement is durable. While no usage has been seen, `made` keeps the events, so that they can be
    counted.

    Chat and completion chunks are data and nothing else: what an engine sends beside it in an event (its
    name, an id) is left out, so that nothing hides from this reader or from who reads after it.
    """

    __slots__ = (
        "_events",
        "_made_size",
        "done",
        "events",
        "failed",
        "made",
        "usage",
        "usage_chunk",
    )

    def __init__(self) -> None:
        self._events = Events()
        self.usage: bytes | None = None
        self.usage_chunk: bytes | None = None
        self.failed: bytes | None = None
        self.made: list[bytes] = []
        self._made_size = 0
        self.done = False
        self.events = 0

    def feed(self, piece: bytes) -> bytes:
        """Return the complete events in what has arrived that the client may see now."""
        events = self._events.cut(piece)
        if len(events) == 1:
            return self._event(events[0])
        return b"".join([self._event(event) for event in events])

    def _event(self, event: bytes) -> bytes:
        # What every token of an engine that counts along looks like: usage last, and nothing inside it.
        at = event.rfind(_LAST_USAGE)
        if (
            at > 0
            and event.find(b"}", at) == len(event) - 2
            and event.endswith(b"}}")
            and event.startswith(_DATA)
            and event.find(_ERROR) < 0
        ):
            return self._counted(event, event[:at] + b"}\n\n")
        return self._any(event)

    def _counted(self, event: bytes, forward: bytes) -> bytes:
        self.events += 1
        if self.usage is None:
            self.made.clear()
        self.usage = event
        if event.find(_NO_CHOICES) >= 0 or event.find(_SPACED_NO_CHOICES) >= 0:
            self.usage_chunk = event
            return b""
        return forward

    def _any(self, event: bytes) -> bytes:
        if not event.startswith(b"data:") or event.find(b"\n") >= 0:
            lines = _DATA_LINE.findall(event)
            if not lines:
                event = event.strip(b"\n")
                return event + b"\n\n" if event else b""
            if _ERROR_NAME.search(event) is not None:
                self.failed = event
                return b""
            event = b"data:" + b"".join(lines)  # JSON has no use for the line ends between them
        if event.startswith(_DONES):
            self.done = True
            return b""
        if event.find(_ERROR) >= 0 and _is_error(event):
            self.failed = event
            return b""
        if event.find(_USAGE) >= 0 or event.find(_SPACED_USAGE) >= 0:
            return self._counted(event, without_usage(event) + b"\n\n")
        self.events += 1
        if self.usage is None:
            self._keep(event)
        return event + b"\n\n"

    def _keep(self, event: bytes) -> None:
        self._made_size += len(event)
        if self._made_size > _MOST_MADE:
            raise UpstreamFailed(
                "The engine sent more than any answer, and no usage; nothing was charged."
            )
        self.made.append(event)


def _is_error(event: bytes) -> bool:
    """Return whether a chunk tells an error, in the place of its choices or beside them."""
    try:
        return bytes(_telling.decode(memoryview(event)[5:]).error) != b"null"
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return True  # what cannot be read is no answer either


def without_usage(event: bytes) -> bytes:
    """Return a chunk without its trailing `usage` member, or as it is when usage stands elsewhere."""
    start = event.rfind(b',"usage":{')
    if start < 0 or not event.endswith(b"}}"):
        return event
    # What follows must be the usage object alone, details of one level inside it.
    if _FLAT.fullmatch(event, start + 10, len(event) - 2) is None:
        return event
    return event[:start] + b"}"
