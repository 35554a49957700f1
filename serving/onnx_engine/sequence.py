"""One sequence: a prompt on its way to an answer, from the waiting line through a row to its end.

    waiting ── admitted ──► prefilling ── whole prompt read ──► decoding ──► finished
       └──────────── cancelled or out of time, at any point ──────────────────┘

Made by the event loop, then touched by the model thread alone, with one exception: `cancelled` is set
by the event loop and read before every step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from catalog.ground.errors import TokenMartError
from serving.onnx_engine.sampling import Logits, Sampler, Sampling, TokenLogprob, forbid, logprobs
from serving.onnx_engine.text import Decodes, Detokenizer, StopMatcher


@dataclass(frozen=True, slots=True)
class Limits:
    """When a sequence ends. `stop_token_ids` holds the end tokens too, unless they are to be ignored.

    `logprobs` None: not asked; else how many alternatives to each token.
    """

    max_tokens: int
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step gave to one choice. `completion_tokens` counts from the beginning."""

    choice: int
    text: str
    completion_tokens: int
    finish_reason: str | None = None
    logprob: TokenLogprob | None = None
    error: TokenMartError | None = None

    @property
    def last(self) -> bool:
        """Whether no further piece of this choice follows."""
        return self.finish_reason is not None or self.error is not None


@dataclass(slots=True, eq=False)
class Sequence:
    """`length` is the number of tokens in the cache, `token` the one to be fed next.

    `choice` is the place in the answer, `draw` tells apart the choices of one prompt under one seed.
    """

    choice: int
    draw: int
    prompt: list[int]
    limits: Limits
    sampling: Sampling
    tokenizer: Decodes
    deliver: Callable[[Piece], None]
    deadline_s: float
    submitted_s: float = field(default_factory=time.monotonic)
    first_token_s: float = 0.0
    cancelled: bool = False
    length: int = 0
    token: int = 0
    completion_tokens: int = 0
    _sampler: Sampler = field(init=False)
    _text: Detokenizer = field(init=False)
    _stops: StopMatcher = field(init=False)

    def __post_init__(self) -> None:
        self._sampler = Sampler(self.sampling, self.draw, self.prompt)
        self._text = Detokenizer(self.tokenizer)
        self._stops = StopMatcher(self.limits.stop)

    @property
    def takes_argmax(self) -> bool:
        """Whether the next token is the plain argmax, so that a batch can find it in one go."""
        must_go_on = self.completion_tokens < self.limits.min_tokens
        plain = self.sampling.greedy and not self.sampling.shifts
        return plain and not must_go_on and self.limits.logprobs is None

    def take(self, logits: Logits) -> Piece:
        """Choose the next token from logits [vocab] and add it."""
        if self.completion_tokens < self.limits.min_tokens and self.limits.stop_token_ids:
            logits = forbid(logits, sorted(self.limits.stop_token_ids))
        token = self._sampler.choose(logits)
        asked = self.limits.logprobs
        return self.add(token, None if asked is None else logprobs(logits, token, asked))

    def add(self, token: int, logprob: TokenLogprob | None = None) -> Piece:
        """Count a token, turn it into text, and see whether the sequence ends with it."""
        self.token = token
        self.completion_tokens += 1
        if token in self.limits.stop_token_ids:
            return self._end("stop", self._text.flush(), logprob)
        shown, stopped = self._show(self._text.push(token))
        if stopped:
            return Piece(self.choice, shown, self.completion_tokens, "stop", logprob)
        if self.completion_tokens >= self.limits.max_tokens:
            return self._end("length", self._text.flush(), logprob, shown)
        return Piece(self.choice, shown, self.completion_tokens, None, logprob)

    def _show(self, text: str) -> tuple[str, bool]:
        if self.completion_tokens <= self.limits.min_tokens:
            return text, False
        return self._stops.push(text)

    def _end(self, reason: str, rest: str, logprob: TokenLogprob | None, shown: str = "") -> Piece:
        tail, stopped = self._stops.push(rest)
        text = shown + tail + ("" if stopped else self._stops.flush())
        reason = "stop" if stopped else reason
        return Piece(self.choice, text, self.completion_tokens, reason, logprob)
