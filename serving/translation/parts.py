"""The one state machine: what an engine says, whole or in pieces, becomes parts in an order.

    reasoning ─► text ─► tool call ─► tool call …      each part opens, grows and closes once,
                                                        and the next opens when it has closed

A whole answer is taken as one large piece, so that both ways of asking lead to the same parts. Where
pieces of several tool calls arrive mixed, the first one is told as it grows and the others wait until it
is a complete JSON object, because a block that is closed cannot be opened again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from serving.translation.chat import Call, Choice, Function, Said, Token, unreadable
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
    logprobs: list[Token] = field(default_factory=list)
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
        """Return the arguments of a tool call, None when they are not a JSON object that can be read."""
        try:
            found = msgspec.json.decode(self.text.encode())
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


class Listener(Protocol):
    """Somebody who is told while the answer grows."""

    def opened(self, part: Part) -> None:
        """Note the start of a part: its name and ids are final, and there is no text yet."""

    def grew(self, part: Part, piece: str, logprobs: list[Token]) -> None:
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
        self._waiting_logprobs: list[Token] = []

    def take(self, choice: Choice) -> None:
        """Add a choice of a chunk (`delta`) or of a whole answer (`message`)."""
        said = choice.delta or choice.message or Said()
        reasoning = said.reasoning_content or said.reasoning
        if reasoning and self._reasoning:
            self._write("reasoning", reasoning, [])
        logprobs = self._logprobs_of(choice, said)
        if said.content:
            self._write("text", said.content, logprobs)
        if said.refusal:
            self._write("refusal", said.refusal, [])
        for place, call in enumerate(said.tool_calls or ()):
            self._call(call, place)
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
            self.stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None

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

    def _write(self, kind: Kind, piece: str, logprobs: list[Token]) -> None:
        last = self.all[-1] if self.all else None
        part = last if last is not None and last.kind == kind else self._new(kind)
        part.pieces.append(piece)
        part.logprobs += logprobs
        self._advance()

    def _call(self, call: Call, place: int) -> None:
        function = call.function or Function()
        index = place if call.index is None else call.index
        call_id, name = call.id or "", function.name or ""
        part = self._by_index.get(index)
        if part is None or (name and call_id and part.call_id not in ("", call_id)):
            # The second case: engines that number every call 0 and tell them apart by their ids.
            part = self._by_index[index] = self._new("tool")
        if not part.open:
            # A name may come in pieces, and some engines repeat id and name with every piece.
            repeated = call_id and (call_id, name) == (part.call_id, part.name)
            part.call_id = part.call_id or call_id
            part.name += "" if repeated else name
        if function.arguments:
            if not part.closed:
                part.pieces.append(function.arguments)
            elif function.arguments.strip():
                raise unreadable("a tool call went on after its end")
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

    def _logprobs_of(self, choice: Choice, said: Said) -> list[Token]:
        """Return the log-probabilities of the text in a choice; those of other tokens are left out."""
        found = (choice.logprobs.content if choice.logprobs else None) or []
        if choice.delta is None:
            return _those_of(said.content or "", found)
        if said.reasoning_content or said.reasoning or said.tool_calls:
            self._waiting_logprobs = []
            return []
        # A token that ends inside a character has no text yet: it goes out with the next one.
        self._waiting_logprobs += found
        if not said.content:
            return []
        found, self._waiting_logprobs = self._waiting_logprobs, []
        return found


def _complete(part: Part) -> bool:
    if part.kind != "tool":
        return True
    if part.examined == len(part.pieces):
        return False
    part.examined = len(part.pieces)
    # The first look is cheap, for engines that send long calls in many mixed pieces.
    return part.pieces[-1].rstrip().endswith("}") and part.arguments() is not None


def _those_of(text: str, logprobs: list[Token]) -> list[Token]:
    """Return the tokens that make up `text` among all tokens of an answer."""
    wanted = text.encode("utf-8", "replace")
    start = b"".join(bytes(token.raw) for token in logprobs).rfind(wanted)
    if not wanted or start < 0:
        return logprobs if wanted else []
    end, at, found = start + len(wanted), 0, []
    for token in logprobs:
        if at < end and at + len(token.raw) > start:
            found.append(token)
        at += len(token.raw)
    return found
