"""A conversation keeps its key while it grows; keys keep their endpoint while others come and go."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing import affinity_key
from serving.routing.affinity import endpoint_seed, rendezvous

TEXT = st.text(max_size=400)


def _body(messages: list[dict[str, Any]], compact: bool, model_first: bool) -> bytes:
    separators = (",", ":") if compact else None
    fields: dict[str, Any] = {"messages": messages, "temperature": 0.2, "user": "u-1"}
    fields = {"model": "acme/chat", **fields} if model_first else {**fields, "model": "acme/chat"}
    return json.dumps(fields, separators=separators, ensure_ascii=False).encode()


@given(
    system=st.none() | TEXT,
    turns=st.lists(TEXT, min_size=1, max_size=6),
    compact=st.booleans(),
    model_first=st.booleans(),
    role_first=st.booleans(),
    in_parts=st.booleans(),
)
def test_a_conversation_that_grows_keeps_its_key(
    system: str | None,
    turns: list[str],
    compact: bool,
    model_first: bool,
    role_first: bool,
    in_parts: bool,
) -> None:
    def message(role: str, text: str) -> dict[str, Any]:
        content = [{"type": "text", "text": text}] if in_parts else text
        one = {"role": role, "content": content}
        return one if role_first else dict(reversed(one.items()))

    messages = [] if system is None else [message("system", system)]
    keys = set()
    for turn in turns:
        messages.append(message("user", turn))
        keys.add(affinity_key("org_a", _body(messages, compact, model_first)))
        messages.append(message("assistant", "…" + turn))
    assert len(keys) == 1


def test_other_beginnings_and_other_tenants_have_other_keys() -> None:
    def key(org: str, system: str, user: str, hint: str = "") -> int:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return affinity_key(org, _body(messages, True, True), hint)

    assert key("org_a", "s", "one") != key("org_a", "s", "two")
    assert key("org_a", "s", "one") != key("org_b", "s", "one")
    assert key("org_a", "s", "one", "cart") == key("org_a", "t", "two", "cart")
    assert key("org_a", "s", "one", "cart") != key("org_b", "s", "one", "cart")
    # Behind a long system prompt everything meets: that prompt is what is worth caching.
    assert key("org_a", "s" * 2000, "one") == key("org_a", "s" * 2000, "two")


def test_plain_prompts_and_other_bodies_have_keys_too() -> None:
    long = {"model": "m", "prompt": "p" * 300}
    grown = {"model": "m", "prompt": "p" * 300 + "q" * 50}
    assert affinity_key("o", json.dumps(long).encode()) == affinity_key(
        "o", json.dumps(grown).encode()
    )
    assert affinity_key("o", b'{"input":"a"}') != affinity_key("o", b'{"input":"b"}')
    assert affinity_key("o", b"") == affinity_key("o", b"")
    assert 0 <= affinity_key("o" * 200, b"{}") < 2**64


def _homes(seeds: dict[str, int], weights: dict[str, int], keys: range) -> list[str]:
    """Return the home of each key; the keys are consecutive numbers, the worst a hash can be given."""
    return [max(seeds, key=lambda e: rendezvous(key, seeds[e], weights[e])) for key in keys]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_one_that_comes_or_goes_moves_only_its_own_keys(count: int) -> None:
    names = [f"ept_{n}" for n in range(count + 1)]
    seeds = {name: endpoint_seed(name) for name in names}
    weights = dict.fromkeys(names, 1)
    keys = range(4000)
    after = _homes(seeds, weights, keys)
    before = _homes({n: seeds[n] for n in names[:-1]}, weights, keys)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {names[-1]}, "a key moved between two that were there all along"
    assert len(moved) / len(keys) == pytest.approx(1 / (count + 1), rel=0.15)


def test_homes_follow_the_weights() -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    seeds = {name: endpoint_seed(name) for name in weights}
    homes = Counter(_homes(seeds, weights, range(16_000)))
    for name, weight in weights.items():
        assert homes[name] / 16_000 == pytest.approx(weight / 8, rel=0.08)


def test_the_hash_is_the_same_in_every_process() -> None:
    assert endpoint_seed("ept_1") == 0x8A8070475A577A10
    assert (
        affinity_key("org_a", b'{"messages":[{"role":"user","content":"hi"}]}')
        == 0xD49A71FD62DB3A6D
    )
    assert rendezvous(1, 2, 1) == pytest.approx(0.3206413927826669)
