"""From a row of logits to a token: bias, penalties, temperature, min_p, top_k, top_p, seed; and logprobs.

Each sequence draws one uniform number a token from a counter-based generator of its own, so a seed
gives the same text whatever else is in the batch. Meaning and order are vLLM's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
_SEED_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 keep every token; no `seed`: by chance.

    `bias` is added to logits; those of tokens read or written are divided by `repetition` (multiplied when
    negative); `presence` and `frequency` are taken from those of tokens written, the second each time.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def shifts(self) -> bool:
        """Whether logits change before a token is chosen."""
        penalties = self.presence or self.frequency or self.repetition != 1
        return bool(penalties or self.bias)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < 1e-5


class Sampler:
    """Chooses the tokens of one sequence; `draw` tells the n choices of a prompt apart."""

    def __init__(self, sampling: Sampling, draw: int, prompt: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._written: Counter[int] = Counter()
        self._seen = np.unique(np.array(prompt if sampling.repetition != 1 else (), np.int64))
        # Kept as arrays: a bias may name the whole vocabulary, and a prompt be long.
        self._biased = np.fromiter(sampling.bias.keys(), np.int64)
        self._biases = np.fromiter(sampling.bias.values(), np.float32)
        seed = sampling.seed
        entropy = None if seed is None else [seed & _SEED_MASK, draw]
        self._random = (
            None
            if sampling.greedy
            else np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        )

    def choose(self, logits: Logits) -> int:
        """Return a token id for logits [vocab]; the smallest id wins a draw of equals."""
        if not self._sampling.shifts:
            return self._draw(logits)
        token = self._draw(self._shifted(logits))
        self._written[token] += 1
        if self._sampling.repetition != 1 and token not in self._seen:
            self._seen = np.append(self._seen, token)
        return token

    def _shifted(self, logits: Logits) -> Logits:
        sampling, shifted = self._sampling, logits.copy()
        shifted[self._biased] += self._biases
        if sampling.repetition != 1:
            found = shifted[self._seen]
            weaker, stronger = found / sampling.repetition, found * sampling.repetition
            shifted[self._seen] = np.where(found > 0, weaker, stronger)
        times = np.fromiter(self._written.values(), np.float32)
        shifted[list(self._written)] -= sampling.presence + sampling.frequency * times
        return shifted

    def _draw(self, logits: Logits) -> int:
        if self._random is None:
            return int(logits.argmax())
        candidates, weights = self._candidates(logits)
        edges = np.cumsum(weights)
        place = int(np.searchsorted(edges, self._random.random() * edges[-1], side="right"))
        place = min(place, len(edges) - 1)
        return place if candidates is None else int(candidates[place])

    def _candidates(
        self, logits: Logits
    ) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.float64]]:
        scaled = logits.astype(np.float64) / self._sampling.temperature
        weights = np.exp(scaled - scaled.max())
        if self._sampling.min_p:
            weights[weights < self._sampling.min_p] = 0
        top_k, top_p = self._sampling.top_k, self._sampling.top_p
        if not 0 < top_k < len(weights) and top_p >= 1:
            return None, weights
        # Stable, so that equals stand in the order of their ids on every machine.
        order = np.argsort(-weights, kind="stable")
        if 0 < top_k < len(weights):
            order = order[:top_k]
        weights = weights[order]
        if top_p < 1:
            before = np.cumsum(weights) - weights
            keep = max(1, int((before < top_p * weights.sum()).sum()))
            order, weights = order[:keep], weights[:keep]
        return order, weights


def forbid(logits: Logits, tokens: Sequence[int]) -> Logits:
    """Return a copy of logits [vocab] in which `tokens` cannot be chosen."""
    copy = logits.copy()
    copy[list(tokens)] = -np.inf
    return copy


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log-probability of a token, and the most likely `(token, logprob)` in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprobs(logits: Logits, token: int, top: int) -> TokenLogprob:
    """Return the log-probabilities of the model itself: before penalties and temperature."""
    wide = logits.astype(np.float64)
    peak = wide.max()
    wide -= peak + np.log(np.exp(wide - peak).sum())
    best = np.argsort(-wide, kind="stable")[:top]
    return TokenLogprob(
        token, float(wide[token]), tuple((int(item), float(wide[item])) for item in best)
    )
