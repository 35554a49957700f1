"""What is said: OpenAI's objects for chat and text completions, whole and in chunks.

`usage` counts what the model read and wrote: `prompt_tokens` are the ids of the rendered prompt (of
each prompt once, however many choices), `completion_tokens` all ids produced, the end token or the
token that completed a stop string included, as vLLM counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from serving.onnx_engine.engine import Generation
from serving.onnx_engine.sampling import TokenLogprob
from serving.onnx_engine.sequence import Piece
from serving.onnx_engine.text import BROKEN, Decodes

Json = dict[str, Any]


def usage(generation: Generation) -> Json:
    """Return OpenAI's usage object."""
    read, written = generation.prompt_tokens, generation.completion_tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


class Shape(ABC):
    """How one endpoint words the answer of one generation."""

    kind: str
    whole_object: str
    chunk_object: str

    def __init__(self, generation: Generation, tokenizer: Decodes) -> None:
        self._generation, self._tokenizer = generation, tokenizer
        self._opened: set[int] = set()

    @abstractmethod
    def chunk_choice(self, piece: Piece, first: bool) -> Json:
        """Return the choice of a chunk; `first` when it is the first of its choice."""

    @abstractmethod
    def whole_choice(self, pieces: list[Piece]) -> Json:
        """Return a finished choice from all its pieces."""

    def chunk(self, piece: Piece) -> Json:
        """Return one chunk of a stream."""
        first = piece.choice not in self._opened
        self._opened.add(piece.choice)
        return self._head(self.chunk_object) | {"choices": [self.chunk_choice(piece, first)]}

    def usage_chunk(self) -> Json:
        """Return the last chunk of a stream: no choice, the usage."""
        return self._head(self.chunk_object) | {"choices": [], "usage": usage(self._generation)}

    def whole(self, pieces: list[Piece]) -> Json:
        """Return the answer to a request that was not streamed."""
        places = range(len(self._generation.sequences))
        choices = [
            self.whole_choice([piece for piece in pieces if piece.choice == place])
            for place in places
        ]
        head = self._head(self.whole_object)
        return head | {"choices": choices, "usage": usage(self._generation)}

    def _head(self, kind: str) -> Json:
        return {
            "id": self._generation.id,
            "object": kind,
            "created": self._generation.created_s,
            "model": self._generation.model,
        }

    def _token(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)


class ChatShape(Shape):
    kind = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def chunk_choice(self, piece: Piece, first: bool) -> Json:
        """Return a choice with its delta; the role comes with the first."""
        role: Json = {"role": "assistant"} if first else {}
        choice: Json = {
            "index": piece.choice,
            "delta": role | {"content": piece.text},
            "finish_reason": piece.finish_reason,
        }
        if piece.logprob is not None:
            choice["logprobs"] = {"content": [self._entry(piece.logprob)]}
        return choice

    def whole_choice(self, pieces: list[Piece]) -> Json:
        """Return a choice with its message."""
        entries = [self._entry(piece.logprob) for piece in pieces if piece.logprob is not None]
        return {
            "index": pieces[-1].choice,
            "message": {"role": "assistant", "content": "".join(piece.text for piece in pieces)},
            "logprobs": {"content": entries} if entries else None,
            "finish_reason": pieces[-1].finish_reason,
        }

    def _entry(self, found: TokenLogprob) -> Json:
        top = [self._named(token, logprob) for token, logprob in found.top]
        return self._named(found.token, found.logprob) | {"top_logprobs": top}

    def _named(self, token: int, logprob: float) -> Json:
        text = self._token(token)
        # A part of a character has no text whose bytes could be told.
        written = None if BROKEN in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": written}


class TextShape(Shape):
    kind = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def chunk_choice(self, piece: Piece, first: bool) -> Json:
        """Return a choice with its new text."""
        return {
            "index": piece.choice,
            "text": piece.text,
            "logprobs": self._table([piece]),
            "finish_reason": piece.finish_reason,
        }

    def whole_choice(self, pieces: list[Piece]) -> Json:
        """Return a choice with its text."""
        return {
            "index": pieces[-1].choice,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self._table(pieces),
            "finish_reason": pieces[-1].finish_reason,
        }

    def _table(self, pieces: list[Piece]) -> Json | None:
        found = [piece.logprob for piece in pieces if piece.logprob is not None]
        if not found:
            return None
        return {
            "tokens": [self._token(item.token) for item in found],
            "token_logprobs": [item.logprob for item in found],
            "top_logprobs": [
                {self._token(token): logprob for token, logprob in item.top} for item in found
            ],
        }
