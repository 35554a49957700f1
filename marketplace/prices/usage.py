"""An engine's usage object as disjoint buckets, whichever of the common shapes it comes in.

    OpenAI chat       cached tokens inside prompt_tokens, reasoning inside completion_tokens
    OpenAI responses  the same inside input_tokens and output_tokens
    Anthropic         cache_read_input_tokens and cache_creation_input_tokens beside input_tokens

A token is counted in exactly one bucket, so no price can charge it twice or lose it. What cannot be
(a negative count, a part larger than its whole) is never charged for: it is cut to what can be, and
named in `marks` so that the event can be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_TOKENS = 10**9
"""More tokens than any call can have: a count above it is nonsense."""

_PLAIN = {"prompt_tokens", "completion_tokens", "total_tokens"}
_CACHE_WRITE = ("cache_write_tokens", "cache_creation_tokens", "created_cache_tokens")


class Buckets(NamedTuple):
    """Disjoint counts: tokens, then pictures and milliseconds of audio, video or compute."""

    input_uncached: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    images: int = 0
    duration_ms: int = 0

    @property
    def input_tokens(self) -> int:
        """All tokens that went in."""
        return self.input_uncached + self.cache_read + self.cache_write

    @property
    def total(self) -> int:
        """All tokens of the call."""
        return self.input_tokens + self.output + self.reasoning


class Usage(NamedTuple):
    """What was used, and which fields of the engine's report had to be cut or ignored."""

    buckets: Buckets
    marks: tuple[str, ...]


def normalise_usage(raw: Mapping[str, Any]) -> Buckets:
    """Return the disjoint buckets of a usage object; see `read_usage` for what was odd about it."""
    return read_usage(raw).buckets


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Return the buckets and the marks; never raises, and Σ input buckets = the tokens reported as input.

    A mark is `field:fault` with the faults missing, not_a_number, negative, too_large, above_whole
    (a part was cut to its whole), beside (reasoning was reported outside the output) and differs (the
    total is neither sum).
    """
    if len(raw) == len(_PLAIN) and raw.keys() == _PLAIN:
        # What most engines say of most calls: three whole numbers that agree.
        given, answer = raw["prompt_tokens"], raw["completion_tokens"]
        if (
            type(given) is int
            and type(answer) is int
            and 0 <= given <= MOST_TOKENS
            and 0 <= answer <= MOST_TOKENS
            and raw["total_tokens"] == given + answer
        ):
            return Usage(Buckets(given, 0, 0, answer, 0), ())
    marks: list[str] = []
    anthropic = "cache_read_input_tokens" in raw or "cache_creation_input_tokens" in raw
    names = ("prompt_tokens", "completion_tokens")
    if names[0] not in raw and "input_tokens" in raw:
        names = ("input_tokens", "output_tokens")
    given = _count(raw, names[0], marks, required=True)
    # An embedding has no completion, and its total says so.
    answer = _count(raw, names[1], marks, required=raw.get("total_tokens") != given)
    if anthropic:
        cache_read = _count(raw, "cache_read_input_tokens", marks)
        cache_write = _count(raw, "cache_creation_input_tokens", marks)
        # litellm's adapters name both shapes at once; then prompt_tokens is the whole already.
        uncached = given if names[0] == "input_tokens" else max(0, given - cache_read - cache_write)
    else:
        cache_read, cache_write = _cached(raw, given, marks)
        uncached = given - cache_read - cache_write
    output, reasoning = _answered(raw, given, answer, marks)
    return Usage(Buckets(uncached, cache_read, cache_write, output, reasoning), tuple(marks))


def _cached(raw: Mapping[str, Any], given: int, marks: list[str]) -> tuple[int, int]:
    details = _details(raw, "prompt_tokens_details", "input_tokens_details")
    if "cached_tokens" not in details and "prompt_cache_hit_tokens" in raw:
        details = {**details, "cached_tokens": raw["prompt_cache_hit_tokens"]}
    cache_read = _part(details, "cached_tokens", given, marks)
    name = next((name for name in _CACHE_WRITE if name in details), _CACHE_WRITE[0])
    return cache_read, _part(details, name, given - cache_read, marks)


def _answered(raw: Mapping[str, Any], given: int, answer: int, marks: list[str]) -> tuple[int, int]:
    details = _details(raw, "completion_tokens_details", "output_tokens_details")
    reasoning = _count(details, "reasoning_tokens", marks)
    total = raw.get("total_tokens")
    if not isinstance(total, int) or total == given + answer:
        if reasoning > answer:
            marks.append("reasoning_tokens:above_whole")
            reasoning = answer
        return answer - reasoning, reasoning
    if reasoning and total == given + answer + reasoning:
        # Some providers count reasoning beside the answer; the total tells.
        marks.append("reasoning_tokens:beside")
        return answer, reasoning
    marks.append("total_tokens:differs")
    reasoning = min(reasoning, answer)
    return answer - reasoning, reasoning


def _details(raw: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    found = next((raw[name] for name in names if raw.get(name)), None)
    return found if isinstance(found, Mapping) else {}


def _part(fields: Mapping[str, Any], name: str, whole: int, marks: list[str]) -> int:
    count = _count(fields, name, marks)
    if count > whole:
        marks.append(f"{name}:above_whole")
        return whole
    return count


def _count(
    fields: Mapping[str, Any], name: str, marks: list[str], *, required: bool = False
) -> int:
    value = fields.get(name)
    if type(value) is int and 0 <= value <= MOST_TOKENS:
        return value
    if value is None:
        if required:
            marks.append(f"{name}:missing")
        return 0
    if type(value) is float and value.is_integer() and 0 <= value <= MOST_TOKENS:
        return int(value)
    if type(value) is not int and type(value) is not float:
        marks.append(f"{name}:not_a_number")
        return 0
    marks.append(f"{name}:negative" if value < 0 else f"{name}:too_large")
    return 0
