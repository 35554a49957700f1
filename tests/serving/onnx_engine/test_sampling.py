"""Choosing a token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.onnx_engine.sampling import Sampler, Sampling, forbid, logprobs

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def _drawn(sampling: Sampling, times: int = 400, draw: int = 0) -> list[int]:
    sampler = Sampler(sampling, draw)
    return [sampler.choose(LOGITS) for _ in range(times)]


def test_temperature_zero_is_greedy_and_the_smallest_id_wins_a_draw() -> None:
    assert Sampler(Sampling(temperature=0), 0).choose(LOGITS) == 0
    assert Sampler(Sampling(temperature=0), 0).choose(np.zeros(4, np.float32)) == 0


def test_shares_follow_the_probabilities() -> None:
    drawn = _drawn(Sampling(seed=1), times=20_000)
    shares = [drawn.count(token) / len(drawn) for token in range(4)]
    assert shares == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(top_k=1, seed=1), {0}),
        (Sampling(top_k=2, seed=1), {0, 1}),
        (Sampling(top_k=99, seed=1), {0, 1, 2, 3}),
        (Sampling(top_p=0.4, seed=1), {0}),
        (Sampling(top_p=0.79, seed=1), {0, 1}),
        (Sampling(top_p=0.81, seed=1), {0, 1, 2}),
        (Sampling(top_p=1e-9, seed=1), {0}),
        (Sampling(min_p=0.25, seed=1), {0, 1, 2}),
        (Sampling(min_p=0.25, top_k=2, seed=1), {0, 1}),
        (Sampling(min_p=1, seed=1), {0}),
        (Sampling(bias={0: -100, 3: -100}, seed=1), {1, 2}),
        (Sampling(bias={3: 100}, seed=1), {3}),
    ],
)
def test_only_the_most_likely_are_drawn(sampling: Sampling, allowed: set[int]) -> None:
    assert set(_drawn(sampling)) == allowed


def _written(prompt: list[int], times: int, **penalties: Any) -> list[int]:
    sampler = Sampler(Sampling(temperature=0, **penalties), 0, prompt)
    return [sampler.choose(LOGITS) for _ in range(times)]


def test_penalties_are_for_what_has_been_written() -> None:
    # ln 0.5 and ln 0.3 are 0.51 apart, ln 0.5 and ln 0.15 1.2, ln 0.5 and ln 0.05 2.3.
    assert _written([0], 4, presence=0.6) == [0, 1, 0, 0], "once each, however often"
    assert _written([0], 4, presence=2) == [0, 1, 2, 0]
    assert _written([0], 5, frequency=0.6) == [0, 1, 0, 1, 0], "each time again"
    assert _written([0], 3, presence=-2) == [0, 0, 0]


def test_repetition_counts_the_prompt_too_and_works_on_either_sign() -> None:
    assert _written([], 2, repetition=3) == [0, 1], "a negative logit is multiplied"
    assert _written([0], 2, repetition=3) == [1, 2]
    sampler = Sampler(Sampling(temperature=0, repetition=3), 0, [0])
    assert sampler.choose(LOGITS + 7) == 1, "a positive one is divided"


def test_a_bias_comes_before_the_penalties() -> None:
    logits = np.array([1.0, 1.2, 0.0], np.float32)
    sampler = Sampler(Sampling(temperature=0, repetition=2, bias={0: 1}), 0, [0])
    assert sampler.choose(logits) == 1, "(1 + 1) / 2, not 1 / 2 + 1"


@pytest.mark.parametrize("repetition", [0.01, 100])
def test_the_widest_penalties_leave_something_to_choose(repetition: float) -> None:
    logits = np.linspace(-60, 60, 50, dtype=np.float32)
    sampler = Sampler(Sampling(repetition=repetition, bias={3: -100}, seed=1), 0, range(50))
    with np.errstate(all="raise", under="ignore"):
        assert {sampler.choose(logits) for _ in range(50)} <= set(range(50))
    assert np.isfinite(sampler._shifted(logits)).all()


def test_logits_are_left_as_they_are() -> None:
    before = LOGITS.copy()
    Sampler(Sampling(presence=1, repetition=2, min_p=0.5, bias={1: 5}), 0, [1]).choose(LOGITS)
    assert (before == LOGITS).all()


@given(seed=st.integers(-(2**70), 2**70))
def test_a_seed_repeats_itself_and_its_choices_differ(seed: int) -> None:
    sampling = Sampling(temperature=2, seed=seed)
    assert _drawn(sampling, 50) == _drawn(sampling, 50)
    assert _drawn(sampling, 50) != _drawn(sampling, 50, draw=1)


def test_without_a_seed_two_runs_differ() -> None:
    assert _drawn(Sampling(temperature=2)) != _drawn(Sampling(temperature=2))


def test_a_forbidden_token_is_never_chosen() -> None:
    assert forbid(LOGITS, [0]).argmax() == 1
    assert LOGITS.argmax() == 0


def test_logprobs_are_the_models_own() -> None:
    found = logprobs(LOGITS + 7, 1, 2)
    assert found.logprob == pytest.approx(np.log(0.3), abs=1e-5)
    assert [token for token, _ in found.top] == [0, 1]
