"""What one subject has taken of its limits, and how that is told to a caller.

The instants are picoseconds on the clock of `marketplace.gateway.limits`, where the rules are explained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

US_PS = 1_000_000
MS_PS = 1000 * US_PS
SECOND_PS = 1000 * MS_PS
MINUTE_PS = 60 * SECOND_PS
_UNLIMITED = 1 << 62
_BUSY_PS = SECOND_PS
"""When to come again after "too many at once": nobody knows when one of them ends."""


class Quota(NamedTuple):
    """The limits of one subject; make it once and hand the same object in, then it costs least.

    `who` is `key`, `member`, `organisation` or `listing` and names the rule that refuses
    (`limits.key.rpm`, `.tpm`, `.concurrency`); `subject` is unique over all kinds (`key:key_01K…`).
    None is no limit; a limit is 1 or more.
    """

    who: str
    subject: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


class Refusal(NamedTuple):
    """One rule that stands against a call, and how long it will."""

    wait_ps: int
    quota: Quota
    kind: str


class Meter:
    """What one subject has taken. A rate without a limit has intervals of no length."""

    __slots__ = (
        "burst_ps",
        "most",
        "quota",
        "request_ps",
        "requests_at_ps",
        "running",
        "token_ps",
        "tokens_at_ps",
    )

    def __init__(self, quota: Quota, share: int) -> None:
        self.requests_at_ps = self.tokens_at_ps = self.running = 0
        self.follow(quota, share)

    def follow(self, quota: Quota, share: int) -> None:
        """Take over other limits; what has been taken stays taken."""
        self.quota = quota
        self.request_ps = _interval(quota.rpm, share)
        self.burst_ps = max(MINUTE_PS, self.request_ps)
        self.token_ps = _interval(quota.tpm, share)
        self.most = _UNLIMITED if quota.concurrency is None else max(1, quota.concurrency // share)

    def refusals(self, tokens: int, now_ps: int) -> Iterator[Refusal]:
        """Yield every rule of this subject that stands against a call of so many tokens."""
        ahead = max(0, self.requests_at_ps - now_ps)
        if ahead + self.request_ps > self.burst_ps:
            yield Refusal(ahead + self.request_ps - self.burst_ps, self.quota, "rpm")
        ahead = max(0, self.tokens_at_ps - now_ps)
        cost = min(tokens * self.token_ps, MINUTE_PS)
        if ahead + cost > MINUTE_PS:
            yield Refusal(ahead + cost - MINUTE_PS, self.quota, "tpm")
        if self.running >= self.most:
            yield Refusal(_BUSY_PS, self.quota, "concurrency")


def _interval(per_minute: int | None, share: int) -> int:
    return 0 if per_minute is None else MINUTE_PS * share // max(1, per_minute)


def headers(meters: list[Meter], now_ps: int) -> list[tuple[bytes, bytes]]:
    """Return OpenAI's `x-ratelimit-*` headers: what the tightest of these subjects has left."""
    requests = tokens = None
    requests_left = tokens_left = _UNLIMITED
    for meter in meters:
        if meter.request_ps:
            ahead_ps = meter.requests_at_ps - now_ps
            left = (meter.burst_ps - (ahead_ps if ahead_ps > 0 else 0)) // meter.request_ps
            if left < requests_left:
                requests, requests_left = meter, left
        if meter.token_ps:
            ahead_ps = meter.tokens_at_ps - now_ps
            left = (MINUTE_PS - (ahead_ps if ahead_ps > 0 else 0)) // meter.token_ps
            if left < tokens_left:
                tokens, tokens_left = meter, left
    told: list[tuple[bytes, bytes]] = []
    if requests is not None:
        told = [
            (b"x-ratelimit-limit-requests", b"%d" % (requests.burst_ps // requests.request_ps)),
            (b"x-ratelimit-remaining-requests", b"%d" % requests_left),
            (b"x-ratelimit-reset-requests", duration(requests.requests_at_ps - now_ps)),
        ]
    if tokens is not None:
        told += [
            (b"x-ratelimit-limit-tokens", b"%d" % (MINUTE_PS // tokens.token_ps)),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, tokens_left)),
            (b"x-ratelimit-reset-tokens", duration(tokens.tokens_at_ps - now_ps)),
        ]
    return told


def duration(picoseconds: int) -> bytes:
    """Return a time as OpenAI writes it in `x-ratelimit-reset-*`: `120ms`, `1s`, `1.25s`, `6m0s`."""
    if picoseconds <= 0:
        return b"0s"
    ms = -(-picoseconds // MS_PS)
    if ms < 1000:
        return b"%dms" % ms
    seconds, ms = divmod(ms, 1000)
    fraction = (b".%03d" % ms).rstrip(b"0") if ms else b""
    if seconds < 60:
        return b"%d%bs" % (seconds, fraction)
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return b"%dm%d%bs" % (minutes, seconds, fraction)
    return b"%dh%dm%d%bs" % (minutes // 60, minutes % 60, seconds, fraction)
