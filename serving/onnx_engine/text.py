"""From tokens to text: whole characters only, and stop strings that never leak.

A token of a byte-level vocabulary may be a part of a character (one Chinese character is three bytes,
one emoji four). `Detokenizer` holds such parts back until the character is whole. `StopMatcher` holds
back any tail that could be the beginning of a stop string.
"""

from __future__ import annotations

from typing import Protocol

BROKEN = "\ufffd"
HELD_TOKENS_MAX = 8
"""A character has at most four bytes: so many tokens without a whole one are no character at all."""


class Decodes(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Return the text of the ids."""
        ...


class Detokenizer:
    """Turns the tokens of one sequence into text, piece by piece.

    Tokens are decoded together with the ones before them, because some vocabularies drop or add a
    space at the beginning of what they decode; the text that was there before is cut off again.
    """

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Add a token; return the characters that it completes, often one word, sometimes none."""
        self._held.append(token)
        text = self._new_text()
        if text.endswith(BROKEN) and len(self._held) < HELD_TOKENS_MAX:
            return ""
        if text:  # A special token shows nothing and must not become the context of what follows.
            self._context = self._held
        self._held = []
        return text

    def flush(self) -> str:
        """Return what is whole in the tokens held back: at the end a part of a character is dropped."""
        return self._new_text().rstrip(BROKEN) if self._held else ""

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._context) if self._context else ""
        return self._tokenizer.decode(self._context + self._held)[len(before) :]


class StopMatcher:
    """Cuts a text at the first stop string, matched over the borders of its pieces."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Add text; return what may be shown, and whether a stop string has been reached."""
        if not self._stops or not piece:
            return piece, False
        text = self._held + piece
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """Return what was held back: the text has ended, so it was no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest tail of `text` that is a true beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
