"""Usage reports of every shape fall into disjoint buckets, and nonsense is never charged for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.prices.usage import Buckets, read_usage

CASES: list[tuple[dict[str, Any], Buckets, tuple[str, ...]]] = [
    ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, Buckets(9, 0, 0, 4, 0), ()),
    (
        # Cached and written inside the prompt, reasoning inside the completion: 100 = 60 + 30 + 10.
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Buckets(60, 30, 10, 30, 20),
        (),
    ),
    (
        {
            "input_tokens": 100,
            "output_tokens": 50,
            "input_tokens_details": {"cached_tokens": 30},
            "output_tokens_details": {"reasoning_tokens": 20},
        },
        Buckets(70, 30, 0, 30, 20),
        (),
    ),
    (
        # Anthropic counts cached tokens beside the input.
        {
            "input_tokens": 100,
            "output_tokens": 50,
            "cache_read_input_tokens": 30,
            "cache_creation_input_tokens": 10,
        },
        Buckets(100, 30, 10, 50, 0),
        (),
    ),
    (
        {
            "prompt_tokens": 140,
            "completion_tokens": 50,
            "cache_read_input_tokens": 30,
            "cache_creation_input_tokens": 10,
        },
        Buckets(100, 30, 10, 50, 0),
        (),
    ),
    (
        {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 6},
        Buckets(4, 6, 0, 1, 0),
        (),
    ),
    (
        # 10 + 5 + 20 = 35: this provider's completion is without its reasoning.
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Buckets(10, 0, 0, 5, 20),
        ("reasoning_tokens:beside",),
    ),
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 11},
            "completion_tokens_details": {"reasoning_tokens": 6},
        },
        Buckets(0, 10, 0, 0, 5),
        ("cached_tokens:above_whole", "reasoning_tokens:above_whole"),
    ),
    (
        {"prompt_tokens": -3, "completion_tokens": "7", "total_tokens": 99},
        Buckets(0, 0, 0, 0, 0),
        ("prompt_tokens:negative", "completion_tokens:not_a_number", "total_tokens:differs"),
    ),
    (
        {"prompt_tokens": 10**12, "completion_tokens": float("nan")},
        Buckets(0, 0, 0, 0, 0),
        ("prompt_tokens:too_large", "completion_tokens:too_large"),
    ),
    ({"prompt_tokens": 8, "total_tokens": 8}, Buckets(8, 0, 0, 0, 0), ()),
    ({}, Buckets(0, 0, 0, 0, 0), ("prompt_tokens:missing", "completion_tokens:missing")),
    (
        {"prompt_tokens": True, "completion_tokens": 2.0, "prompt_tokens_details": []},
        Buckets(0, 0, 0, 2, 0),
        ("prompt_tokens:not_a_number",),
    ),
]


@pytest.mark.parametrize(("raw", "buckets", "marks"), CASES)
def test_shapes(raw: dict[str, Any], buckets: Buckets, marks: tuple[str, ...]) -> None:
    assert read_usage(raw) == (buckets, marks)


_value = st.one_of(
    st.integers(-5, 50), st.sampled_from([None, 1.5, float("inf"), "7", True, [], 2**70])
)
_raw = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            (
                "prompt_tokens",
                "completion_tokens",
                "input_tokens",
                "output_tokens",
                "total_tokens",
                "cache_read_input_tokens",
                "cache_creation_input_tokens",
                "prompt_cache_hit_tokens",
            ),
            _value,
        ),
        **dict.fromkeys(
            ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details"),
            st.one_of(
                st.none(),
                st.dictionaries(
                    st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens"]),
                    _value,
                ),
            ),
        ),
    },
)


@given(_raw)
def test_no_report_breaks_it_or_is_charged_twice(raw: dict[str, Any]) -> None:
    buckets, marks = read_usage(raw)
    assert all(type(count) is int and count >= 0 for count in buckets)
    assert sum(buckets) == buckets.total
    prompt, completion = raw.get("prompt_tokens"), raw.get("completion_tokens")
    if type(prompt) is int and 0 <= prompt <= 50 and "cache_read_input_tokens" not in raw:
        if "cache_creation_input_tokens" not in raw:
            assert buckets.input_tokens == prompt
        if (
            type(completion) is int
            and 0 <= completion <= 50
            and "reasoning_tokens:beside" not in marks
        ):
            assert buckets.output + buckets.reasoning == completion
