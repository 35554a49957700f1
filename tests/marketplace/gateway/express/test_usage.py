"""What the compiled part reads of an answer's usage is what Python reads; where there is doubt it reads none.

`compare_usage` takes any number of cases; the tests run a few thousand.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from support.chance_json import WORDS, dumped, mutated, value

from catalog.ground.errors import UpstreamFailed
from marketplace.gateway.usage import usage_of
from marketplace.prices.usage import read_usage

_core = pytest.importorskip("marketplace.gateway.express._core")

COUNTS: list[Any] = [
    0, 1, 2, 3, 5, 5, 8, 13, 10**9, 10**9 + 1, 2 * 10**9, None, -1, 2.0, 2.5, True, "3", [], {},
]  # fmt: skip
NAMES = ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"]
RARE = ["cache_read_input_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens", "x"]
DETAILS = [
    "prompt_tokens_details", "input_tokens_details", "completion_tokens_details",
    "output_tokens_details",
]  # fmt: skip
INNER = [
    "cached_tokens", "cache_write_tokens", "cache_creation_tokens", "created_cache_tokens",
    "reasoning_tokens", "audio_tokens",
]  # fmt: skip


def usage_object(chance: random.Random) -> dict[str, Any]:
    odd = chance.random() < 0.3
    counts, parts = (COUNTS, COUNTS) if odd else (COUNTS[2:9], COUNTS[:3])
    usage: dict[str, Any] = {
        name: chance.choice(counts) for name in chance.choice([NAMES[:3], NAMES[3:], NAMES])
    }
    if chance.random() < 0.9:
        given = usage.get("prompt_tokens", usage.get("input_tokens"))
        answer = usage.get("completion_tokens", usage.get("output_tokens"))
        if type(given) is type(answer) is int:
            usage["total_tokens"] = given + answer + chance.choice([0, 0, 0, 0, 1, -answer])
    for name in chance.sample([*NAMES, *RARE], chance.choice([0, 0, 1, 2])):
        if chance.random() < 0.5:
            usage.pop(name, None)
        else:
            usage[name] = chance.choice(counts)
    for name in chance.sample(DETAILS, chance.randrange(3)):
        inner = {other: chance.choice(parts) for other in chance.sample(INNER, chance.randrange(4))}
        usage[name] = chance.choice([inner] * 6 + [None, {}] + [0, "", [], [1], 1, "x"] * odd)
    items = list(usage.items())
    chance.shuffle(items)
    return dict(items)


def check_usage(document: bytes) -> bool:
    """Compare one answer or event; return whether the compiled part reads its usage."""
    told = _core.read_usage(document)
    if told is None:
        return False
    buckets, raw = told
    found, text = usage_of(document)
    assert found is not None
    assert raw == text.encode()
    read = read_usage(found)
    assert read.marks == ()
    assert read.buckets == (*buckets, 0, 0)
    assert not document.startswith((b'{"error":{', b'{"error": {'))
    return True


def answers(chance: random.Random) -> Iterator[bytes]:
    usage = usage_object(chance)
    body: dict[str, Any] = {"id": "x", "choices": [{"text": chance.choice(WORDS)}], "usage": usage}
    if chance.random() < 0.1:
        body["usage"] = chance.choice([None, [], 1, "x", {}])
    if chance.random() < 0.1:
        body = {"error": {"message": "no"}} | body
    if chance.random() < 0.2:
        body["choices"] = value(chance)
    items = list(body.items())
    if chance.random() < 0.5:
        chance.shuffle(items)
    document = dumped(chance, dict(items))
    yield document
    yield b"data:" + chance.choice([b"", b" "]) + document


def compare_usage(seed: int, cases: int) -> int:
    """Compare so many answers; return how many were read."""
    chance = random.Random(seed)
    read = 0
    for _ in range(cases // 2):
        for document in answers(chance):
            read += check_usage(mutated(chance, document) if chance.random() < 0.4 else document)
    return read


def test_usage_is_read_as_python_does() -> None:
    assert compare_usage(11, 6000) > 1000


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        {"prompt_tokens": 9, "total_tokens": 9},
        {"prompt_tokens": 9, "completion_tokens": None, "total_tokens": 9, "x": {"y": [1.5]}},
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {
                "cached_tokens": 30,
                "cache_write_tokens": 10,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": 20, "accepted_prediction_tokens": 0},
        },
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": None,
            "completion_tokens_details": {},
        },
        {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 3}},
        {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 30},
        {"prompt_tokens": 9, "completion_tokens": 4, "cache_creation_input_tokens": 30},
        {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 6},
        {"prompt_tokens": 10**9, "completion_tokens": 10**9, "total_tokens": 2 * 10**9},
    ],
)
def test_usage_that_is_usual_is_read(usage: dict[str, Any]) -> None:
    for body in ({"choices": [], "usage": usage}, {"usage": usage, "id": "中"}):
        assert check_usage(json.dumps(body).encode())
        assert check_usage(b"data: " + json.dumps(body, ensure_ascii=False, indent=1).encode())


@pytest.mark.parametrize(
    "document",
    [
        b'{"error":{"message":"no"},"usage":{"prompt_tokens":1,"completion_tokens":1}}',
        b'{"error": {},"usage":{"prompt_tokens":1,"completion_tokens":1}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1},"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1},"us\\u0061ge":null}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens":2}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"prompt\\u005ftokens":2}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"x":1e999}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1}} x',
        b'[{"usage":{"prompt_tokens":1,"completion_tokens":1}}]',
        b"data: [DONE]",
        b"data:",
        b"",
    ],
)
def test_usage_that_may_be_read_in_two_ways_is_left(document: bytes) -> None:
    assert not check_usage(document)


def test_an_error_of_python_is_an_error() -> None:
    with pytest.raises(UpstreamFailed):
        usage_of(b"[]")
