"""Limits against a plain model of the leaky bucket, in fractions, under a random walk."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from catalog.ground.clock import SECOND_US
from catalog.ground.errors import RateLimited
from marketplace.gateway.limits import Limits, Ticket
from marketplace.gateway.meters import Quota

QUOTAS = (
    Quota("key", "a", 6, 100, 3),
    Quota("key", "b", 12, 600, None),
    Quota("member", "m", 10, None, 4),
    Quota("organisation", "o", 20, 400, 5),
    Quota("listing", "l", None, 1000, 6),
)
PATHS = (
    (QUOTAS[0], QUOTAS[2], QUOTAS[3], QUOTAS[4]),
    (QUOTAS[1], QUOTAS[2], QUOTAS[3], QUOTAS[4]),
    (QUOTAS[1], QUOTAS[3]),
    (QUOTAS[0],),
)


class Bucket:
    """A bucket that leaks `per_minute` a minute and holds as much."""

    def __init__(self, per_minute: int | None) -> None:
        self.per_minute = per_minute
        self.level = Fraction(0)
        self.drained = Fraction(0)

    def leak(self, seconds: Fraction) -> None:
        if self.per_minute is not None:
            gone = seconds * self.per_minute / 60
            self.drained += gone
            self.level = max(Fraction(0), self.level - gone)

    def takes(self, amount: int) -> bool:
        if self.per_minute is None:
            return True
        return self.level + amount <= self.per_minute or (
            amount > self.per_minute and self.level == 0
        )

    def pour(self, amount: int) -> None:
        if self.per_minute is not None:
            self.level += amount


class Model:
    """One subject; `used` counts the tokens that calls have used or may still use.

    `largest` is the largest call, `beyond` what calls used in all beyond what they had reserved.
    """

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.requests = Bucket(quota.rpm)
        self.tokens = Bucket(quota.tpm)
        self.running = 0
        self.used = 0
        self.largest = 0
        self.beyond = 0

    def takes(self, tokens: int) -> bool:
        most = self.quota.concurrency
        return (
            self.requests.takes(1)
            and self.tokens.takes(tokens)
            and (most is None or self.running < most)
        )


class Call:
    def __init__(self, ticket: Ticket, models: list[Model], tokens: int) -> None:
        self.ticket = ticket
        self.models = models
        self.tokens = tokens
        # What stood in each bucket when it came, and what had drained from it by then.
        self.marks = [(model.tokens.level, model.tokens.drained) for model in models]


class LimitsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits()
        self.at_us = 1_800_000_000 * SECOND_US
        self.elapsed_s = Fraction(0)
        self.models = {quota.subject: Model(quota) for quota in QUOTAS}
        self.running: list[Call] = []
        self.unsettled: list[Call] = []

    @rule(ms=st.sampled_from([1, 50, 999, 5_000, 20_000, 70_000]))
    def advance(self, ms: int) -> None:
        self.at_us += ms * 1000
        self.elapsed_s += Fraction(ms, 1000)
        for model in self.models.values():
            model.requests.leak(Fraction(ms, 1000))
            model.tokens.leak(Fraction(ms, 1000))
        # The limits see an instant only when a call brings one in.
        self.limits.enter((), 0, self.at_us)

    @rule(path=st.sampled_from(PATHS), tokens=st.sampled_from([0, 1, 10, 60, 99, 100, 350, 2000]))
    def enter(self, path: tuple[Quota, ...], tokens: int) -> None:
        models = [self.models[quota.subject] for quota in path]
        expected = all(model.takes(tokens) for model in models)
        if not expected:
            with pytest.raises(RateLimited):
                self.limits.enter(path, tokens, self.at_us)
            return
        ticket = self.limits.enter(path, tokens, self.at_us)
        for model in models:
            model.requests.pour(1)
            model.tokens.pour(tokens)
            model.running += 1
            model.used += tokens
            model.largest = max(model.largest, tokens)
        call = Call(ticket, models, tokens)
        self.running.append(call)
        self.unsettled.append(call)

    @rule(data=st.data(), used=st.sampled_from([0, 1, 30, 100, 400]))
    def settle(self, data: st.DataObject, used: int) -> None:
        if not self.unsettled:
            return
        call = self.unsettled.pop(data.draw(st.integers(0, len(self.unsettled) - 1)))
        call.ticket.settle(used)
        self._settled(call, used)

    def _settled(self, call: Call, used: int) -> None:
        for model, (level, drained) in zip(call.models, call.marks, strict=True):
            bucket = model.tokens
            model.used += used - call.tokens
            if used > call.tokens:
                bucket.pour(used - call.tokens)
                model.beyond += used - call.tokens
            else:
                left = max(Fraction(0), level - (bucket.drained - drained))
                bucket.level = max(Fraction(0), bucket.level - min(left, call.tokens - used))

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.running:
            call = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            call.ticket.leave()
            if call in self.unsettled:
                self.unsettled.remove(call)
                self._settled(call, 0)
            for model in call.models:
                model.running -= 1

    @invariant()
    def never_more_tokens_than_time_allows(self) -> None:
        for model in self.models.values():
            if model.quota.tpm is not None:
                burst = max(model.quota.tpm, model.largest) + model.beyond
                assert model.used <= burst + model.quota.tpm * self.elapsed_s / 60


LimitsMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, database=None
)
TestLimitsMachine = LimitsMachine.TestCase
