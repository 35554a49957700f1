"""Rows join, leave and move: each sequence still gets exactly what it would get alone.

The decoder here is an imitation that remembers every row's tokens, and whose next token depends on all
of them: a row that is moved wrongly, fed twice or mixed up says something else from then on.
"""

from __future__ import annotations

import queue
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.ground.errors import RateLimited
from serving.onnx_engine.meters import Meters
from serving.onnx_engine.sampling import Logits, Sampling
from serving.onnx_engine.scheduler import Scheduler
from serving.onnx_engine.sequence import Limits, Piece, Sequence

VOCAB, ROWS, CHUNK = 97, 3, 4


class Letters:
    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(f"{item}," for item in ids)


def following(tokens: list[int]) -> int:
    return zlib.crc32(bytes(tokens)) % VOCAB


@dataclass
class Imitation:
    rows: int = ROWS
    chunk_tokens: int = CHUNK
    step_s: float = 0.0
    cache: list[list[int]] = field(default_factory=lambda: [[] for _ in range(ROWS)])
    steps: int = 0

    def step(self, tokens: list[int], lengths: list[int]) -> Logits:
        time.sleep(self.step_s)
        self.steps += 1
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            assert len(self.cache[row]) >= length, "a row was fed beyond what it holds"
            self.cache[row] = [*self.cache[row][:length], token]
        return np.stack([self._logits(row) for row in range(len(tokens))])

    def prefill(self, row: int, tokens: list[int], length: int) -> Logits:
        assert 0 < len(tokens) <= self.chunk_tokens
        self.cache[row] = [*self.cache[row][:length], *tokens]
        assert len(self.cache[row]) == length + len(tokens)
        return self._logits(row)

    def move(self, source: int, target: int, length: int) -> None:
        self.cache[target] = self.cache[source][:length]
        self.cache[source] = [VOCAB - 1] * 50  # What is left behind must never be read again.

    def _logits(self, row: int) -> Logits:
        logits = np.zeros(VOCAB, np.float32)
        logits[following(self.cache[row])] = 1
        return logits


class Desk:
    """A scheduler over the imitation, and the pieces it has handed over."""

    def __init__(self, max_waiting: int = 100, step_s: float = 0.0) -> None:
        self.decoder: Any = Imitation(step_s=step_s)
        self.meters = Meters()
        self.pieces: queue.Queue[tuple[Sequence, Piece]] = queue.Queue()
        self.scheduler = Scheduler(self.decoder, self.meters, max_waiting, self._take)
        self.scheduler.start()

    def _take(self, deliveries: list[tuple[Sequence, Piece]]) -> None:
        for delivery in deliveries:
            self.pieces.put(delivery)

    def sequence(self, prompt: list[int], **limits: Any) -> Sequence:
        return Sequence(
            choice=0,
            draw=0,
            prompt=prompt,
            limits=Limits(**limits),
            sampling=Sampling(temperature=0),
            tokenizer=Letters(),
            deliver=lambda piece: None,
            deadline_s=time.monotonic() + limits.pop("allowed_s", 30),
        )

    def next(self) -> tuple[Sequence, Piece]:
        return self.pieces.get(timeout=10)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.scheduler.stop()


def alone(prompt: list[int], count: int) -> str:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(following(tokens))
    return Letters().decode(tokens[len(prompt) :])


JOBS = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=11),
        st.integers(1, 14),
        st.sampled_from(["run", "run", "run", "cancel"]),
        st.floats(0, 0.001),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=80, deadline=None)
@given(jobs=JOBS)
def test_whoever_joins_or_leaves_changes_nothing_for_the_others(
    jobs: list[tuple[list[int], int, str, float]],
) -> None:
    desk = Desk()
    try:
        texts: dict[Sequence, str] = {}
        wanted: dict[Sequence, str] = {}
        for prompt, count, fate, pause_s in jobs:
            sequence = desk.sequence(prompt, max_tokens=count)
            texts[sequence], wanted[sequence] = "", alone(prompt, count)
            desk.scheduler.submit([sequence])
            time.sleep(pause_s)
            if fate == "cancel":
                desk.scheduler.cancel([sequence])
        running = {sequence for sequence in texts if not sequence.cancelled}
        while running:
            sequence, piece = desk.next()
            texts[sequence] += piece.text
            if piece.last:
                running.discard(sequence)
        for sequence, text in texts.items():
            whole = wanted[sequence]
            assert whole.startswith(text) if sequence.cancelled else whole == text
    finally:
        desk.scheduler.stop()


def test_a_cancelled_row_takes_at_most_one_more_step() -> None:
    desk = Desk(step_s=0.02)
    try:
        sequence = desk.sequence([1, 2, 3], max_tokens=10_000)
        desk.scheduler.submit([sequence])
        for _ in range(3):
            desk.next()
        before = desk.decoder.steps
        desk.scheduler.cancel([sequence])
        time.sleep(0.2)
        assert desk.decoder.steps - before <= 1
        assert desk.scheduler.running() == 0
    finally:
        desk.scheduler.stop()


def test_a_cancelled_sequence_in_line_is_never_read(desk: Desk) -> None:
    waiting = desk.sequence([5], max_tokens=3)
    waiting.cancelled = True
    desk.scheduler.submit([waiting])
    other = desk.sequence([6], max_tokens=3)
    desk.scheduler.submit([other])
    seen = [desk.next()[0] for _ in range(3)]
    assert seen == [other] * 3


def test_a_full_line_refuses_all_of_a_request_or_nothing() -> None:
    desk = Desk(max_waiting=1, step_s=0.05)
    try:
        batch = [desk.sequence([1], max_tokens=50) for _ in range(ROWS + 1)]
        desk.scheduler.submit(batch)
        with pytest.raises(RateLimited) as caught:
            desk.scheduler.submit([desk.sequence([2], max_tokens=1)])
        assert caught.value.retry_after_s
        desk.scheduler.cancel(batch)
    finally:
        desk.scheduler.stop()


def test_whoever_takes_too_long_is_told_so() -> None:
    desk = Desk(step_s=0.02)
    try:
        sequence = desk.sequence([1], max_tokens=1000)
        sequence.deadline_s = time.monotonic() + 0.1
        desk.scheduler.submit([sequence])
        while (piece := desk.next()[1]).error is None:
            pass
        assert piece.error.status == 504
    finally:
        desk.scheduler.stop()


def test_a_failing_step_fails_its_sequences_and_not_the_engine(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    healthy, desk.decoder.step = desk.decoder.step, lambda *_: 1 / 0
    desk.scheduler.submit([desk.sequence([1], max_tokens=5)])
    pieces = [desk.next()[1], desk.next()[1]]
    assert pieces[-1].error is not None
    assert "division" not in str(pieces[-1].error)
    assert "ZeroDivisionError" in capfd.readouterr().err
    desk.decoder.step = healthy
    desk.scheduler.submit([desk.sequence([1], max_tokens=2)])
    assert [desk.next()[1].text, desk.next()[1].text] == alone([1], 2).replace(",", ", ").split()


def test_stopping_tells_everybody(desk: Desk) -> None:
    desk.decoder.step_s = 0.05
    sequence = desk.sequence([1], max_tokens=1000)
    desk.scheduler.submit([sequence])
    desk.next()
    desk.scheduler.stop()
    while (piece := desk.next()[1]).error is None:
        pass
    assert piece.error.status == 503
