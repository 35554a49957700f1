"""What a chat completion used, as the counts that the other shapes want to see."""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """Tokens. Cached and written ones are inside the input, reasoning is inside the output."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


def read_counts(usage: object) -> Counts:
    """Return the counts of a chat completion's `usage`; a part is never larger than its whole.

    What is no count is none: an engine's accounting is never a reason to lose its answer.
    """
    usage = usage if isinstance(usage, dict) else {}
    given = _count(usage, "prompt_tokens")
    answer = _count(usage, "completion_tokens")
    before = usage.get("prompt_tokens_details")
    cached = min(given, _count(before, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens"))
    written = min(given - cached, _count(before, "cache_write_tokens"))
    reasoning = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    if reasoning and usage.get("total_tokens") == given + answer + reasoning:
        answer += reasoning  # some providers count reasoning beside the answer; the total tells
    return Counts(given, cached, written, answer, min(reasoning, answer))


def _count(holder: object, name: str) -> int:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if type(value) is int and value > 0 else 0
