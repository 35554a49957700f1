"""From a request to a hold, and from what an engine used to a settlement.

Nothing here talks to a network; the ledger's writer is the only thing that is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from catalog.ground.clock import SECOND_US, to_iso
from catalog.ground.errors import PaymentRequired
from catalog.ground.units import format_yuan, share_u
from marketplace.gateway.caps import NO_CAPS, Cap, KeyCaps, window_words
from marketplace.gateway.records import EndpointRecord, KeyRecord, ListingRecord, OrgLadder
from marketplace.gateway.request import named
from marketplace.ledger.chart import Code
from marketplace.ledger.holds import LATE
from marketplace.ledger.operations import Available, Charge, Entry, Hold, Leg, Rehold, Settle
from marketplace.prices.components import Buckets, cost_u, estimate_u
from marketplace.prices.usage import Usage
from marketplace.vouchers.ladder import largest
from marketplace.vouchers.plan import CNY, FREE, Plan, replay

if TYPE_CHECKING:
    from marketplace.gateway.reserves import Promised
    from marketplace.gateway.seen import Attempt

_json = msgspec.json.Encoder().encode
FEWEST_OUTPUT_TOKENS = 16
"""An answer is not cut below this to make it affordable (or below what was asked, when that is less)."""


@dataclass(frozen=True, slots=True)
class Books:
    """The ids of the accounts that every settlement may need."""

    clearing: int
    overrun: int
    rounding: int
    free_cost: int
    fee: int


@dataclass(slots=True)
class Call:
    """One request on its way: what was asked, what is held, what came of it."""

    id: str
    key: KeyRecord
    record: ListingRecord
    payer: OrgLadder
    books: Books
    input_tokens: int
    choices: int
    max_tokens: int
    started_at_us: int
    streamed: bool
    request_sha256: str
    endpoint: EndpointRecord
    caps: KeyCaps = NO_CAPS
    tx: str = ""
    """What the hold is called: the id, unless an earlier try under the same id was given up."""
    first_token_us: int = 0
    waited_us: int = 0
    """For its turn."""
    hold_from_us: int = field(init=False, repr=False, compare=False)
    """The instants of a call, and its bill: there once they have come, so that they cost nothing before."""
    held_at_us: int = field(init=False, repr=False, compare=False)
    answered_at_us: int = field(init=False, repr=False, compare=False)
    settled_at_us: int = field(init=False, repr=False, compare=False)
    bill: Bill = field(init=False, repr=False, compare=False)
    failures: tuple[Attempt, ...] = ()
    """Engines that were asked and did not answer."""
    error: str = ""
    """The code of what broke off a stream that had begun."""
    clamped: bool = False
    ended: bool = False
    """Whether the hold has been settled or voided, or is about to be."""
    plan: Plan | None = None
    promised: Promised = ()
    """Its part of the worker's reserves; nothing where it has a hold of its own."""
    may_be_booked: bool = False
    """Whether somebody else has served it up to here, and may have charged it already."""
    waits_for_reserves: bool = False
    """Whether a hold is refused rather than shortened, because its worker has put some money aside."""
    why: str = "only"
    """Why this endpoint: the router's word, kept on the usage event."""
    marks: tuple[str, ...] = ()
    """What was odd about the engine's usage report (see `marketplace.prices.usage`)."""
    output_tokens: int = 0
    """What came out, once it is settled; and what went in."""
    input_tokens_used: int = 0
    fallback_of: str = ""
    """The listing that was asked for first, when this is another."""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tx = self.tx or self.id

    @property
    def accounts(self) -> tuple[int, ...]:
        """The accounts that may pay, or count what is paid."""
        if self.caps.caps:
            return self.payer.accounts + self.caps.accounts
        return self.payer.accounts

    def hold(self, ttl_s: int, at_us: int = 0) -> Hold:
        """Return the operation that promises the most that this call may cost, from now on: a call may have
        waited long for its turn. Without `at_us` it has not waited at all.
        """
        at_us = at_us or self.started_at_us
        return Hold(
            self.tx, self.key.org_id, self.accounts, self.decide, at_us, at_us + ttl_s * SECOND_US
        )

    def decide(self, available: Available) -> tuple[tuple[Leg, ...], str]:
        """Choose who pays, with every account locked; shorten the answer when money is short."""
        plan = self.draw(self.max_tokens, available)
        if not self.affords(plan, available):
            if self.waits_for_reserves:
                raise PaymentRequired("Some of it is put aside.", rule="payment.affordable")
            affordable = largest(
                lambda tokens: self.affords(self.draw(tokens, available), available),
                self.max_tokens,
            )
            if not self.max_tokens or affordable < min(FEWEST_OUTPUT_TOKENS, self.max_tokens):
                raise self._refusal(plan, affordable, available)
            self.max_tokens, self.clamped = affordable, True
            plan = self.draw(affordable, available)
        self.plan = plan
        return self.legs(plan), plan.to_json()

    def affords(self, plan: Plan, available: Available) -> bool:
        """Return whether vouchers and wallet pay the plan, within the key's caps."""
        if plan.shortfall_u:
            return False
        return not self.caps.caps or spent_u(plan) <= self.caps.room_u(available)

    def draw(self, output_tokens: int, available: Available) -> Plan:
        """Return who would pay for an answer of so many tokens per choice."""
        output = output_tokens * self.choices
        price = estimate_u(
            self.record.components, self.input_tokens, output, at_us=self.started_at_us
        )
        tokens = self.input_tokens + output
        # A day's first call makes its own quota, which then is younger than the call.
        at_us = max(self.started_at_us, self.payer.built_at_us)
        return self.payer.ladder.draw(price, available, at_us, tokens)

    def legs(self, plan: Plan) -> tuple[Leg, ...]:
        """Return what the ledger is to promise for a plan: payers in its order, the wallet, the caps."""
        sinks, clearing = self.payer.sinks, self.books.clearing
        legs = [
            Leg(leg.account_id, leg.amount, sinks.get(leg.account_id, clearing))
            for leg in plan.legs
        ]
        wallet_u = plan.self_u + plan.slack_u
        if wallet_u and plan.wallet_account_id is not None:
            legs.append(Leg(plan.wallet_account_id, wallet_u, clearing))
        if self.caps.caps:
            spent = spent_u(plan)
            legs += [Leg(account, spent, self.caps.sink_id) for account in self.caps.accounts]
        return tuple(legs)

    def _refusal(self, plan: Plan, affordable: int, available: Available) -> PaymentRequired:
        cap = self.caps.tightest(available)
        if cap is not None and not plan.shortfall_u:
            return _over_cap(cap, plan, affordable, available)
        wallet_u = available.get(self.payer.accounts[-1], 0)
        refused = [
            {"voucher": r.grant_id, "programme": r.programme, "rule": r.rule, "clause": r.clause}
            for r in self.payer.ladder.explain(plan)
        ]
        return PaymentRequired(
            f"This call may cost up to {format_yuan(plan.cost_u)}; vouchers and wallet fall short by "
            f"{format_yuan(plan.shortfall_u)}.",
            rule="payment.affordable",
            remedy="Ask for fewer tokens (max_tokens), apply for a voucher, or top up the wallet.",
            details={
                "required_u": plan.cost_u,
                "available_u": plan.cost_u - plan.shortfall_u,
                "wallet_u": wallet_u,
                "max_affordable_output_tokens": max(0, affordable),
                "vouchers_refused": refused,
            },
        )

    def bounded(self, read: Usage) -> Usage:
        """Return what was used, cut to what is held for.

        An engine of somebody else may claim any number, and is paid for it. What it was sent and what it
        was allowed to make bound both sides.
        """
        used, marks = read.buckets, read.marks
        over = used.input_tokens - self.input_tokens
        if over > 0:
            used = _less(used, over, ("cache_write", "input_uncached", "cache_read"))
            marks += ("input:above_hold",)
        over = used.output + used.reasoning - self.max_tokens * self.choices
        if over > 0:
            used = _less(used, over, ("output", "reasoning"))
            marks += ("output:above_hold",)
        return Usage(used, marks)

    def settle(self, used: Buckets, raw_usage: str, source: str, outcome: str, at_us: int) -> Bill:
        """Return the bill for what was really used, as the plan of the hold divides it."""
        assert self.plan is not None
        self.output_tokens = used.output + used.reasoning
        self.input_tokens_used = used.input_tokens
        price_u = cost_u(used, self.record.components, at_us=self.started_at_us)
        end = replay(self.plan, price_u, used.total)
        sinks, clearing = self.payer.sinks, self.books.clearing
        parts = [
            Part(
                Leg(leg.account_id, leg.amount, sinks.get(leg.account_id, clearing)),
                FREE_PART if leg.kind == FREE else VOUCHER_PART,
                0 if leg.unit == CNY else leg.covered_u,
            )
            for leg in end.legs
        ]
        if self.plan.wallet_hold_u and self.plan.wallet_account_id is not None:
            leg = Leg(self.plan.wallet_account_id, end.self_u, clearing)
            parts.append(Part(leg, WALLET_PART, 0))
        if self.caps.caps:
            spent = sum(
                part.leg.amount
                for part in parts
                if part.payer != FREE_PART and part.leg.sink_id == clearing
            )
            accounts = self.caps.accounts
            parts += [Part(Leg(a, spent, self.caps.sink_id), CAP_PART, 0) for a in accounts]
        bill = Bill(
            price_u, parts, end.rounding_u, end.overrun_u, used, raw_usage, source, outcome, at_us
        )
        bill.add_up(clearing)
        return bill

    def answer_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that tell of this call whatever its answer."""
        headers = [
            *named(self.id),
            (b"x-tm-price-version", self.record.price_version_id.encode()),
            *self.headers,
        ]
        if self.clamped:
            headers.append((b"x-tm-max-tokens", b"%d" % self.max_tokens))
        return headers

    def late_hold(self, bill: Bill, at_us: int, ttl_s: int) -> Hold:
        """Return a new hold for a bill whose own hold has expired: whatever is still there of it.

        The rest becomes the platform's overrun, so that nobody's balance goes below zero.
        """

        def decide(available: Available) -> tuple[tuple[Leg, ...], str]:
            legs = []
            for index, part in enumerate(bill.parts):
                amount = min(part.leg.amount, max(0, available.get(part.leg.account_id, 0)))
                if part.leg.sink_id == self.books.clearing:
                    bill.overrun_u += part.leg.amount - amount
                leg = part.leg._replace(amount=amount)
                bill.parts[index] = part._replace(leg=leg)
                legs.append(leg)
            bill.add_up(self.books.clearing)
            return tuple(legs), "{}"

        tx, expires_at_us = f"{self.tx}{LATE}", at_us + ttl_s * SECOND_US
        accounts = self.payer.accounts + self.caps.accounts
        return Hold(tx, self.key.org_id, accounts, decide, at_us, expires_at_us)


def _less(used: Buckets, over: int, fields: tuple[str, ...]) -> Buckets:
    for field_ in fields:
        cut = min(over, getattr(used, field_))
        used, over = used._replace(**{field_: getattr(used, field_) - cut}), over - cut
    return used


def spent_u(plan: Plan) -> int:
    """Return what the plan may take from vouchers and the wallet: what counts against a key's caps."""
    return sum(leg.covered_u for leg in plan.legs if leg.kind != FREE) + plan.wallet_hold_u


def _over_cap(cap: Cap, plan: Plan, affordable: int, available: Available) -> PaymentRequired:
    left_u = max(0, available.get(cap.account_id, 0))
    period = "day" if cap.rule == "key.daily_u" else "month"
    return PaymentRequired(
        f"This key may spend {format_yuan(cap.limit_u)} a {period}, {format_yuan(left_u)} of it is left, "
        f"and this call may take {format_yuan(spent_u(plan))}.",
        code="key_cap_reached",
        rule=cap.rule,
        remedy=f"Ask for fewer tokens (max_tokens), use another key, or wait until {window_words(cap)}.",
        details={
            "required_u": spent_u(plan),
            "available_u": left_u,
            "limit_u": cap.limit_u,
            "resets_at": to_iso(cap.ends_at_us),
            "max_affordable_output_tokens": max(0, affordable),
        },
    )


FREE_PART, VOUCHER_PART, WALLET_PART, CAP_PART = range(4)


class Part(NamedTuple):
    """What one account pays of a bill; `counted_u` is the worth of a quota that is not money."""

    leg: Leg
    payer: int
    counted_u: int


@dataclass(slots=True)
class Bill:
    """What a call cost and who pays, in micro-yuan. `operation` makes it so."""

    cost_u: int
    parts: list[Part]
    rounding_u: int
    overrun_u: int
    used: Buckets
    raw_usage: str
    source: str
    outcome: str
    at_us: int

    free_u: int = 0
    voucher_u: int = 0
    wallet_u: int = 0
    counted_u: int = 0
    """What quotas that are not money are worth to this call."""

    def add_up(self, clearing: int) -> None:
        """Work out what each kind of payer covers of the cost."""
        paid = [0, 0, 0, 0]
        self.counted_u = 0
        for (_, amount, sink_id), payer, counted_u in self.parts:
            paid[payer] += counted_u + (amount if sink_id == clearing else 0)
            self.counted_u += counted_u
        self.free_u, self.voucher_u, self.wallet_u = paid[:CAP_PART]

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the answer's cost headers."""
        return [
            (b"x-tm-cost-u", b"%d" % self.cost_u),
            (b"x-tm-voucher-u", b"%d" % self.voucher_u),
            (b"x-tm-free-u", b"%d" % self.free_u),
            (b"x-tm-wallet-u", b"%d" % self.wallet_u),
        ]

    def operation(self, call: Call, tx: str, at_us: int) -> Settle:
        """Return the settlement of the hold `tx` with this bill."""
        posted = tuple([part.leg.amount for part in self.parts])
        return Settle(tx, posted, self._entries(call), self._usage(call, at_us), at_us)

    def charge(self, call: Call, reholds: tuple[Rehold, ...] = ()) -> Charge:
        """Return the payment of this bill by a call that has no hold of its own."""
        legs = tuple([part.leg for part in self.parts])
        usage = self._usage(call, self.at_us)
        return Charge(
            call.id, legs, self._entries(call), usage, self.at_us, reholds, call.may_be_booked
        )

    def _entries(self, call: Call) -> tuple[Entry, ...]:
        """Return what moves beside the payers' legs."""
        books, record = call.books, call.record
        fee_u = share_u(self.cost_u, record.fee_bp)
        clearing = books.clearing
        entries = [
            Entry(Code.ACCRUE, clearing, record.owner_account_id, self.cost_u - fee_u),
            Entry(Code.FEE, clearing, books.fee, fee_u),
        ]
        if self.counted_u or self.rounding_u or self.overrun_u:
            entries += [
                Entry(Code.FREE_COST, books.free_cost, clearing, self.counted_u),
                Entry(Code.ROUNDING, books.rounding, clearing, self.rounding_u),
                Entry(Code.OVERRUN, books.overrun, clearing, self.overrun_u),
            ]
        return tuple([entry for entry in entries if entry.amount])

    def _usage(self, call: Call, at_us: int) -> tuple[object, ...]:
        """Return the row of `usage_event`, in the order of its columns."""
        record, used = call.record, self.used
        listing = record.listing
        return (
            call.id,
            call.key.org_id,
            call.key.id,
            call.key.project_id,
            listing.slug,
            listing.release_id or "",
            call.endpoint.id,
            listing.owner_org,
            record.price_version_id,
            record.components_text,
            call.started_at_us,
            call.first_token_us,
            at_us,
            used.input_uncached,
            used.cache_read,
            used.cache_write,
            used.output,
            used.reasoning,
            self.source,
            self.outcome,
            int(call.streamed),
            self.cost_u,
            self.cost_u,
            self.wallet_u,
            self.voucher_u,
            self.free_u,
            self.rounding_u + self.overrun_u,
            self.raw_usage,
            _route(call),
            call.request_sha256,
        )


def _route(call: Call) -> str:
    """Return where the call went and why, as JSON; what was odd goes with it."""
    if not call.fallback_of and not call.marks:
        return f'{{"endpoint":"{call.endpoint.id}","why":"{call.why}"}}'
    told: dict[str, object] = {"endpoint": call.endpoint.id, "why": call.why}
    if call.fallback_of:
        told["instead_of"] = call.fallback_of
    if call.marks:
        told["marks"] = call.marks
    return _json(told).decode()
