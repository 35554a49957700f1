"""The one state machine: what an engine says, whole or in pieces, becomes parts in an order.

    reasoning ─► text ─► tool call ─► tool call …      each part opens, grows and closes once,
                                                        and the next opens when it has closed

A whole answer is taken as one large piece, so that both ways of asking lead to the same parts. Where
pieces of several tool calls arrive mixed, the first one is told as it grows and the others wait until it
is a complete JSON object, because a block that is closed cannot be opened again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from catalog.ground.errors import UpstreamFailed
from serving.translation.fields import Json

Kind = Literal["reasoning", "text", "refusal", "tool"]
CUT_SHORT = ("length", "content_filter")


@dataclass(slots=True)
class Part:
    """One item or block of the answer. `cut`: the engine had to stop in the middle of it."""

    kind: Kind
    place: int
    name: str = ""
    call_id: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    open: bool = False
    closed: bool = False
    cut: bool = False
    shown: int = 0
    shown_logprobs: int = 0
    examined: int = 0

    @property
    def text(self) -> str:
        """Return all that was said in this part; of a tool call, its arguments."""
        return "".join(self.pieces)

    def arguments(self) -> Json | None:
        """Return the arguments of a tool call, None when they are not a JSON object."""
        try:
            found = msgspec.json.decode(self.text.encode())
        except (msgspec.DecodeError, UnicodeError):
            return None
        return found if isinstance(found, dict) else None


class Listener(Protocol):
    """Somebody who is told while the answer grows."""

    def opened(self, part: Part) -> None:
        """Note the start of a part: its name and ids are final, and there is no text yet."""

    def grew(self, part: Part, piece: str, logprobs: list[Json]) -> None:
        """Note the next piece of the open part."""

    def closed(self, part: Part) -> None:
        """Note the end of a part."""


class Parts:
    """The parts of one answer. `take` every choice that comes, then `end`."""

    def __init__(
        self, id_body: str, listener: Listener | None = None, *, reasoning: bool = True
    ) -> None:
        """`id_body` makes the ids of tool calls unique; without `reasoning` the engine's is left out."""
        self.all: list[Part] = []
        self.finish_reason: str | None = None
        self.stop: str | None = None
        self._id_body = id_body
        self._listener = listener
        self._reasoning = reasoning
        self._front = 0
        self._by_index: dict[int, Part] = {}
        self._call_ids: set[str] = set()
        self._waiting_logprobs: list[Json] = []

    def take(self, choice: Json) -> None:
        """Add a choice of a chunk (`delta`) or of a whole answer (`message`)."""
        said = choice.get("delta") or choice.get("message") or {}
        reasoning = _text(said, "reasoning_content") or _text(said, "reasoning")
        if reasoning and self._reasoning:
            self._write("reasoning", reasoning, [])
        text = _text(said, "content")
        logprobs = self._logprobs_of(choice, text, elsewhere=bool(reasoning))
        if text:
            self._write("text", text, logprobs)
        if refusal := _text(said, "refusal"):
            self._write("refusal", refusal, [])
        for place, call in enumerate(said.get("tool_calls") or ()):
            self._call(call, place)
        if choice.get("finish_reason"):
            self.finish_reason = choice["finish_reason"]
            stop = choice.get(
                "stop_reason"
            )  # vLLM's: the stop string that was met, or a token's id
            self.stop = stop if isinstance(stop, str) else None

    def end(self) -> None:
        """Close what is open. An answer without anything in it is one empty text."""
        if not self.all:
            self._new("text")
        for part in self.all[self._front :]:
            part.cut = part is self.all[-1] and self.finish_reason in CUT_SHORT
            if part.kind == "tool" and not part.cut and not part.text.strip():
                part.pieces.append("{}")
            self._show(part)
            self._close(part)
        self._front = len(self.all)

    def _new(self, kind: Kind) -> Part:
        part = Part(kind, len(self.all))
        self.all.append(part)
        return part

    def _write(self, kind: Kind, piece: str, logprobs: list[Json]) -> None:
        last = self.all[-1] if self.all else None
        part = last if last is not None and last.kind == kind else self._new(kind)
        part.pieces.append(piece)
        part.logprobs += logprobs
        self._advance()

    def _call(self, call: Json, place: int) -> None:
        function = call.get("function") or {}
        index = call["index"] if isinstance(call.get("index"), int) else place
        call_id, name = _text(call, "id") or "", _text(function, "name") or ""
        part = self._by_index.get(index)
        if part is None or (name and call_id and part.call_id not in ("", call_id)):
            # The second case: engines that number every call 0 and tell them apart by their ids.
            part = self._by_index[index] = self._new("tool")
        if not part.open:
            # A name may come in pieces, and some engines repeat id and name with every piece.
            repeated = call_id and (call_id, name) == (part.call_id, part.name)
            part.call_id = part.call_id or call_id
            part.name += "" if repeated else name
        if arguments := _text(function, "arguments"):
            if part.closed:
                if arguments.strip():
                    raise _nonsense("a tool call went on after its end")
                return
            part.pieces.append(arguments)
        self._advance()

    def _advance(self) -> None:
        while True:
            front = self.all[self._front]
            if front.kind == "tool" and not front.pieces:
                return  # more of its name may come
            self._show(front)
            if self._front + 1 == len(self.all) or not _complete(front):
                return
            self._close(front)
            self._front += 1

    def _show(self, part: Part) -> None:
        if not part.open:
            part.open = True
            if part.kind == "tool":
                part.call_id = self._unique(part)
            if self._listener is not None:
                self._listener.opened(part)
        if self._listener is not None and part.shown < len(part.pieces):
            piece = "".join(part.pieces[part.shown :])
            self._listener.grew(part, piece, part.logprobs[part.shown_logprobs :])
        part.shown, part.shown_logprobs = len(part.pieces), len(part.logprobs)

    def _close(self, part: Part) -> None:
        part.closed = True
        if self._listener is not None:
            self._listener.closed(part)

    def _unique(self, part: Part) -> str:
        call_id = part.call_id
        if not call_id or call_id in self._call_ids:
            call_id = f"call_{self._id_body}_{part.place}"
        self._call_ids.add(call_id)
        return call_id

    def _logprobs_of(self, choice: Json, text: str | None, *, elsewhere: bool) -> list[Json]:
        """Return the log-probabilities of the text in a choice; those of other tokens are left out."""
        found = (choice.get("logprobs") or {}).get("content") or []
        if "message" in choice:
            return _those_of(text or "", found)
        if elsewhere or (choice.get("delta") or {}).get("tool_calls"):
            self._waiting_logprobs = []
            return []
        # A token that ends inside a character has no text yet: it goes out with the next one.
        self._waiting_logprobs += found
        if not text:
            return []
        found, self._waiting_logprobs = self._waiting_logprobs, []
        return found


def choice_of(document: Json) -> Json | None:
    """Return the first choice of an answer or a chunk, None when there is none."""
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and not choice.get("index"):
            return choice
    return None


def only_choice(chat: Json) -> Json:
    """Return the choice of a whole answer; `UpstreamFailed` when the engine gave none."""
    choice = choice_of(chat)
    if choice is None or not isinstance(choice.get("message"), dict):
        raise _nonsense("it has no message")
    return choice


def _complete(part: Part) -> bool:
    if part.kind != "tool":
        return True
    if part.examined == len(part.pieces):
        return False
    part.examined = len(part.pieces)
    return part.arguments() is not None


def _those_of(text: str, logprobs: list[Json]) -> list[Json]:
    """Return the tokens that make up `text` among all tokens of an answer."""
    tokens = [_bytes_of(entry) for entry in logprobs]
    start = b"".join(tokens).rfind(text.encode("utf-8", "surrogatepass"))
    if not text or start < 0:
        return logprobs if text else []
    end, at, found = start + len(text.encode("utf-8", "surrogatepass")), 0, []
    for token, entry in zip(tokens, logprobs, strict=True):
        if at < end and at + len(token) > start:
            found.append(entry)
        at += len(token)
    return found


def _bytes_of(entry: Json) -> bytes:
    given = entry.get("bytes")
    if given is not None:
        return bytes(given)
    return str(entry.get("token", "")).encode("utf-8", "surrogatepass")


def _text(holder: Any, name: str) -> str | None:
    value = holder.get(name) if isinstance(holder, dict) else None
    if value is not None and not isinstance(value, str):
        raise _nonsense(f"its {name} is not a text")
    return value


def _nonsense(what: str) -> UpstreamFailed:
    return UpstreamFailed(f"The engine's answer cannot be read: {what}.", remedy="Try again.")
