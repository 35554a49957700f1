"""How often, how much and how many at once: four subjects and three kinds of limit, taken in one step.

A call is held against its key, the member whose key it is, the organisation (more keys give nothing) and
the listing; against requests per minute, tokens per minute and calls at once. Either everything is taken
or nothing is.

Rates are GCRA (generic cell rate algorithm, ITU-T I.371, Annex A.3, virtual scheduling form): one
number for each subject and rate, the instant when it will have caught up. A burst of one whole minute is
allowed. The numbers are picoseconds, so that a minute divides without loss: up to 7 million a minute the
burst is exact, at a thousand million it is wrong by less than 2 in 100,000.

**Tokens** are reserved for the most that a call may cost, and what it did not use is given back, unless
time has already given it back: what had drained away by then stays charged. So the tokens used since the
start are never more than the time that has passed allows and one minute's worth; over a shorter time,
what the calls running at its beginning had reserved may come on top. One call larger than a minute's
worth may go when nothing else is owed, and keeps what follows waiting: a bound guessed from bytes must
not lock a caller out for ever.

**Several workers**, on one machine or on several, each keep their own numbers, with the limit divided by how
many they are (`share`, see `presence`).
That costs no message between them, and it is strict in sum: all together never grant more, but for at
least one request and one running call each. It is too strict for a caller whose connections all reach
one worker: he gets that worker's share. Spending caps are ledger accounts and exact under any number of
workers (see `marketplace.gateway.caps`); these limits protect engines, not money.
"""

from __future__ import annotations

from catalog.ground.errors import RateLimited
from marketplace.gateway.meters import MINUTE_PS, SECOND_PS, US_PS, Meter, Quota, Refusal, headers

_KNOWN = 100_000
_MOST_PS = 1 << 61
_WHOM = {"listing": "All callers of this model together"}


class Ticket:
    """What one call has taken. `settle` once its tokens are known, `leave` when it has ended: one that was
    never settled came to nothing, and has used none.
    """

    __slots__ = ("_due_ps", "_gone", "_limits", "_meters", "_reserved", "_shifted_us")

    def __init__(
        self,
        limits: Limits,
        meters: list[Meter],
        due_ps: list[int],
        reserved: int,
        shifted_us: int,
    ) -> None:
        self._limits = limits
        self._meters = meters
        self._due_ps = due_ps
        self._reserved = reserved
        self._shifted_us = shifted_us
        self._gone = False

    def settle(self, tokens_used: int) -> None:
        """Give back what was reserved and not used, or charge what was used beyond; the first counts."""
        unused = self._reserved - tokens_used
        if self._reserved < 0:
            return
        self._reserved = -1
        # The last instant that any call brought in will do: since then nobody has taken anything.
        now_ps = self._limits.now_ps
        if unused > 0:
            now_then_ps = now_ps + (self._limits.shifted_us - self._shifted_us) * US_PS
            for meter, due_ps in zip(self._meters, self._due_ps, strict=True):
                left_ps = due_ps - now_then_ps  # of all that had been taken when this call came
                back_ps = unused * meter.token_ps
                if left_ps > 0:
                    meter.tokens_at_ps -= back_ps if back_ps < left_ps else left_ps
        elif unused:
            for meter in self._meters:
                meter.tokens_at_ps = max(meter.tokens_at_ps, now_ps) - unused * meter.token_ps

    def leave(self) -> None:
        """Give the places back, and tokens that nobody has settled; only the first time counts."""
        if not self._gone:
            self._gone = True
            if self._reserved > 0:
                self.settle(0)
            for meter in self._meters:
                meter.running -= 1

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return OpenAI's `x-ratelimit-*` headers: what the tightest subject has left in this process."""
        return headers(self._meters, self._limits.now_ps)


class Limits:
    """Every subject seen lately in this process; `share` is the number of processes that serve.

    Compiled code (`express`) takes from the same meters, so instants are kept within 64 bits.
    """

    __slots__ = ("_meters", "_most", "_origin_us", "now_ps", "share", "shifted_us")

    def __init__(self, share: int = 1) -> None:
        self.share = share
        self.now_ps = 0
        """The latest instant that a call brought in, on a clock of its own that never goes back."""
        self.shifted_us = 0
        """How far all instants have been moved back since the start, so that they stay small."""
        self._origin_us = 0
        self._meters: dict[str, Meter] = {}
        self._most = _KNOWN

    def divide(self, share: int) -> None:
        """Divide every limit among so many processes; what has been taken stays taken."""
        if share != self.share:
            self.share = share
            for meter in self._meters.values():
                meter.follow(meter.quota, share)

    def enter(self, quotas: tuple[Quota, ...], tokens: int, now_us: int) -> Ticket:
        """Take a request, `tokens` and a place from every subject, or nothing and raise `RateLimited`.

        `tokens` is the most that the call may use, `now_us` the instant of asking (not of the call's
        beginning: an old instant counts as the latest one).
        """
        now_ps = (now_us - self._origin_us) * US_PS
        if now_ps < self.now_ps:
            now_ps = self._set_back(now_us)
        elif now_ps > _MOST_PS:
            now_ps = self._move_origin(now_us, now_ps)
        self.now_ps = now_ps
        known = self._meters
        meters: list[Meter] = []
        due_ps: list[int] = []
        for quota in quotas:
            meter = known.get(quota.subject)
            if meter is None or meter.quota is not quota:
                meter = self._meter(quota)
            requests_at = meter.requests_at_ps
            if requests_at < now_ps:
                requests_at = now_ps
            requests_at += meter.request_ps
            tokens_at = meter.tokens_at_ps
            if tokens_at < now_ps:
                tokens_at = now_ps
            due = tokens_at + tokens * meter.token_ps
            if (
                requests_at - now_ps > meter.burst_ps
                or meter.running >= meter.most
                or (due - now_ps > MINUTE_PS and tokens_at > now_ps)
            ):
                _undo(meters, tokens)
                raise self._refuse(quotas, tokens)
            meter.requests_at_ps = requests_at
            meter.tokens_at_ps = due
            meter.running += 1
            meters.append(meter)
            due_ps.append(due)
        return Ticket(self, meters, due_ps, tokens, self.shifted_us)

    def _meter(self, quota: Quota) -> Meter:
        meter = self._meters.get(quota.subject)
        if meter is None:
            if len(self._meters) >= self._most:
                self._forget()
            meter = self._meters[quota.subject] = Meter(quota, self.share)
        elif meter.quota == quota:
            meter.quota = quota
        else:
            meter.follow(quota, self.share)
        return meter

    def _forget(self) -> None:
        """Let go of subjects that owe nothing: a new meter says the same."""
        now_ps = self.now_ps
        self._meters = {
            subject: meter
            for subject, meter in self._meters.items()
            if meter.running or meter.requests_at_ps > now_ps or meter.tokens_at_ps > now_ps
        }
        self._most = max(_KNOWN, 2 * len(self._meters))

    def _set_back(self, now_us: int) -> int:
        """Return the instant to go on with when `now_us` lies before the latest one.

        Calls may come in a little out of order. More than a minute means that the wall clock was set
        back; then we go on from where we are, or every subject would wait until it has caught up.
        """
        if self.now_ps - (now_us - self._origin_us) * US_PS > MINUTE_PS:
            self._origin_us = now_us - self.now_ps // US_PS
        return self.now_ps

    def _move_origin(self, now_us: int, now_ps: int) -> int:
        """Let the clock begin at `now_us`: once at the start, then every four weeks."""
        for meter in self._meters.values():
            meter.requests_at_ps -= now_ps
            meter.tokens_at_ps -= now_ps
        self.shifted_us += now_ps // US_PS
        self._origin_us = now_us
        return 0

    def _refuse(self, quotas: tuple[Quota, ...], tokens: int) -> RateLimited:
        """Return the error that names the rule which will stand longest."""
        meters = [self._meter(quota) for quota in quotas]
        refusals = [r for meter in meters for r in meter.refusals(tokens, self.now_ps)]
        refusal = max(refusals, key=lambda r: r.wait_ps)
        return _error(refusal, headers(meters, self.now_ps))


def _undo(meters: list[Meter], tokens: int) -> None:
    for meter in meters:
        meter.requests_at_ps -= meter.request_ps
        meter.tokens_at_ps -= tokens * meter.token_ps
        meter.running -= 1


def _error(refusal: Refusal, told: list[tuple[bytes, bytes]]) -> RateLimited:
    headers = {name.decode(): value.decode() for name, value in told}
    wait_s = refusal.wait_ps / SECOND_PS
    quota = refusal.quota
    subject = _WHOM.get(quota.who, f"This {quota.who}")
    rule = f"limits.{quota.who}.{refusal.kind}"
    if refusal.kind == "concurrency":
        return RateLimited(
            f"{subject} may have {quota.concurrency} calls running at once.",
            code="concurrency_limit_exceeded",
            rule=rule,
            remedy="Wait for one of them to end.",
            retry_after_s=wait_s,
            headers=headers,
        )
    if refusal.kind == "rpm":
        may, way = f"make {quota.rpm:,} requests", "or ask for a higher limit"
    else:
        may, way = f"use {quota.tpm:,} tokens", "lower max_tokens, or ask for a higher limit"
    return RateLimited(
        f"{subject} may {may} per minute.",
        rule=rule,
        remedy=f"Wait {wait_s:.2f} s, {way}.",
        retry_after_s=wait_s,
        headers=headers,
    )
