"""Rules of the random walk for calls: money comes in, calls run, end, fail and are refunded, days pass."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from sqlmodel import col, func, select
from support.economy import ORGS, Economy, Rows
from support.ledger_model import CallModel

from catalog.ground.clock import DAY_US, HOUR_US
from catalog.ground.database import Database
from catalog.ground.errors import Conflict, NotFound, TokenMartError
from catalog.ground.ids import ulid
from marketplace.gateway.money import FEWEST_OUTPUT_TOKENS
from marketplace.ledger.chart import wallet
from marketplace.ledger.tables import Hold
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.returning import lapse
from marketplace.vouchers.tables import Claim, ClaimLine, Refund, RefundLeg

OWNERS_CALLED = st.sampled_from(["maker", "maker", "maker", "a"])
PERCENT_USED = st.sampled_from([0, 1, 33, 99, 100, 100, 130])


class CallRules(RuleBasedStateMachine):
    """Top-ups, grants, calls from hold to end, free calls, refunds, and time."""

    database: Database
    e: Economy

    @property
    def open(self) -> list[CallModel]:
        """Calls that run."""
        return [call for call in self.e.calls if call.state == "open"]

    @rule(org=st.sampled_from(ORGS), amount=st.integers(1, 40))
    def top_up(self, org: str, amount: int) -> None:
        self.e.top_up(org, amount)

    @rule(
        org=st.sampled_from(ORGS),
        code=st.sampled_from(sorted(Economy.RATIOS)),
        asked=st.integers(1, 70),
    )
    def issue(self, org: str, code: str, asked: int) -> None:
        """Exactly what caps and pools leave room for is issued."""
        room = self.e.room(org, code, asked, self.e.totals())
        made = self.e.issue(org, code, asked)
        assert (made.amount if made else 0) == room

    @rule(org=st.sampled_from(ORGS), owner=OWNERS_CALLED, tokens=st.integers(0, 90))
    def admit(self, org: str, owner: str, tokens: int) -> None:
        e = self.e
        have = e.wallet_left(org)

        def fits(cost: int) -> bool:
            return e.expected(org, owner, cost)[1] <= have

        best = max(cost for cost in range(tokens + 1) if fits(cost)) if fits(0) else -1
        expected = e.expected(org, owner, best)
        before = e.totals()
        kept = e.admit(org, owner, tokens)
        if best < min(FEWEST_OUTPUT_TOKENS, tokens):
            assert kept is None
            return
        assert kept is not None
        assert kept.call.max_tokens == kept.cost == best
        assert ([(g.account, n) for g, n in zip(kept.grants, kept.held, strict=True)]) == expected[
            0
        ]
        assert kept.wallet_held == expected[1]
        for grant, held in zip(kept.grants, kept.held, strict=True):
            grant.held += held
        if kept.blocked:
            assert kept.grants == [], "a voucher paid a related party"
        self._check_estimates(kept, before)

    def _check_estimates(self, kept: CallModel, before: Rows) -> None:
        """A larger estimate never lowers a hold, on any account."""
        left = {
            grant.account: _left(before[f"grant:{grant.id}"])
            for grant in self.e.grants
            if grant.org == kept.org
        }
        left[self.e.wallet_ids[kept.org]] = _left(before[wallet(self.e.org(kept.org))])
        last: Mapping[int, int] = {}
        for tokens in range(max(0, kept.cost - 3), kept.cost + 1):
            plan = kept.call.draw(tokens, left)
            held = {leg.account_id: leg.amount for leg in plan.legs}
            held[plan.wallet_account_id or 0] = plan.wallet_hold_u
            assert all(held.get(account, 0) >= amount for account, amount in last.items())
            last = held

    @rule(
        org=st.sampled_from(ORGS), owner=OWNERS_CALLED, tokens=st.integers(1, 90), percent=PERCENT_USED
    )  # fmt: skip
    def serve(self, org: str, owner: str, tokens: int, percent: int) -> None:
        """A whole call."""
        before = len(self.e.calls)
        self.admit(org, owner, tokens)
        for call in self.e.calls[before:]:
            self.e.settle(call, call.cost * percent // 100)

    @rule(
        org=st.sampled_from(ORGS),
        tokens=st.integers(1, 50),
        ends=st.lists(st.sampled_from([0, 100, "fails", "runs"]), min_size=1, max_size=3),
    )
    def free_calls(self, org: str, tokens: int, ends: list[int | str]) -> None:
        """Calls by a model's free name: the day's quota pays all of each, or it is refused."""
        for end in ends:
            left = self.e.free_calls_left(org)
            kept = self.e.admit(org, "maker", tokens, free=True)
            assert (kept is not None) == (left > 0)
            if kept is not None and end == "fails":
                self.e.end_unpaid(kept, expired=False)
            elif kept is not None and isinstance(end, int):
                self.e.settle(kept, tokens * end // 100)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), percent=PERCENT_USED)
    def settle(self, data: st.DataObject, percent: int) -> None:
        call = data.draw(st.sampled_from(self.open))
        self.e.settle(call, call.cost * percent // 100)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), expired=st.booleans())
    def end_unpaid(self, data: st.DataObject, expired: bool) -> None:
        self.e.end_unpaid(data.draw(st.sampled_from(self.open)), expired=expired)

    # --- refunds --------------------------------------------------------------------------------------

    @precondition(lambda self: any(c.state == "settled" and c.cost for c in self.e.calls))
    @rule(data=st.data(), percent=st.sampled_from([1, 40, 100, 100]))
    def refund(self, data: st.DataObject, percent: int) -> None:
        calls = [c for c in self.e.calls if c.state == "settled" and c.cost]
        call = data.draw(st.sampled_from(calls))
        self.give_back(call, max(1, call.cost * percent // 100))

    def give_back(self, call: CallModel, amount: int) -> None:
        """Refund so much of a call; refused, it leaves no trace."""
        before, state = self.e.totals(), self.e.state()
        self.e.now += 1
        asked = (f"ref-{ulid()}", call.call.id, amount, "a test", "clerk", self.e.now)
        try:
            with self.database.session() as session:
                refund(session, *asked)
        except (Conflict, NotFound) as refusal:
            self._refused(call, refusal, state)
            return
        self._check_refund(call, amount, self._repaid(call, asked[0]), before)

        def again() -> None:
            with self.database.session() as session:
                refund(session, *asked)

        self.e.repeatable.append(("refund", again))

    def _repaid(self, call: CallModel, name: str) -> int:
        """Return what the caller gets less, because that much had been reimbursed already."""
        with self.database.reading() as session:
            of_call = select(RefundLeg).join(Refund, col(Refund.id) == RefundLeg.refund_id)
            legs = session.exec(of_call.where(Refund.event_id == call.call.id)).all()
            paid = session.exec(
                select(ClaimLine)
                .join(Claim, col(Claim.id) == ClaimLine.claim_id)
                .where(ClaimLine.event_id == call.call.id, Claim.state == "settled")
                .where(ClaimLine.state == "allowed", ClaimLine.refund_id == "")
            ).all()
        mine = [leg for leg in legs if leg.refund_id == name]
        total = sum(leg.due_u for leg in mine)
        own = sum(leg.covered_u for leg in mine if not leg.grant_id)
        for leg in mine:
            if leg.grant_id and not leg.covered_u:
                had = sum(line.amount_u for line in paid if line.leg == leg.leg)
                had -= sum(o.due_u for o in legs if o.leg == leg.leg and o.refund_id != name)
                assert leg.due_u == min(leg.amount_u, max(0, had)) or total == own
        assert total <= own
        return total

    def _refused(self, call: CallModel, refusal: TokenMartError, state: object) -> None:
        """Only what has left the journal is unknown; nothing has happened."""
        assert call.archived == isinstance(refusal, NotFound)
        assert self.e.state() == state

    def _check_refund(self, call: CallModel, amount: int, repaid: int, before: Rows) -> None:
        """Own money first, up to what was paid; then voucher legs backwards; lapsed ones to their pools.

        What of it had been reimbursed already (`repaid`) goes to the voucher and not to the caller.
        """
        e = self.e
        assert call.refunded + amount <= call.cost
        if call.quota:
            # No money comes back: the request does, with the last micro-yuan of its worth.
            top = call.billed - call.refunded
            self._owner_gives_back(call, top - amount, top, waits=False)
            call.refunded += amount
            return
        after = e.totals()

        def gained(code: str) -> int:
            return (after[code][3] - before[code][3]) - (after[code][1] - before[code][1])

        places = call.places()
        own_back = min(amount, call.wallet_posted - call.own_returned)
        assert gained(f"wallet:{e.org(call.org)}") == own_back - repaid
        e.wallets[call.org] += own_back - repaid
        top = places[-1][1] - call.own_returned
        self._owner_gives_back(call, top - own_back, top, waits=places[-1][2])
        rest, back = amount - own_back, dict.fromkeys(range(len(call.grants)), 0)
        for index in reversed(back):
            if call.grants[index].code != "later":
                low, high, waits = places[index]
                back[index] = min(rest, high - low - call.legs_refunded[index])
                rest -= back[index]
                top = high - call.legs_refunded[index]
                self._owner_gives_back(call, top - back[index], top, waits=waits)
        assert rest == 0
        call.refunded += amount
        call.own_returned += own_back
        call.wallet_refunded += own_back - repaid
        self._check_grants_back(call, back, before, after)

    def _owner_gives_back(self, call: CallModel, low: int, high: int, *, waits: bool) -> None:
        part = call.owner_part(low, high)
        if not waits:
            self.e.shares.happens(call.owner, "refund", -part, self.e.now)

    def _check_grants_back(
        self, call: CallModel, back: dict[int, int], before: Rows, after: Rows
    ) -> None:
        for grant in {grant.id: grant for grant in call.grants}.values():
            code = f"grant:{grant.id}"
            got = after[code][3] - before[code][3]
            lapsed = after[code][1] - before[code][1]
            mine = [index for index, other in enumerate(call.grants) if other is grant]
            if grant.code == "later":
                assert got <= sum(call.posted[i] - call.legs_refunded[i] for i in mine)
                call.legs_refunded[mine[0]] += got
            else:
                assert got == sum(back[index] for index in mine), f"{grant} got {got}, not {back}"
                for index in mine:
                    call.legs_refunded[index] += back[index]
            grant.used -= got
            grant.returned += lapsed
            expected = got if grant.expires_at <= self.e.now else 0
            assert lapsed == expected, "what comes back to a lapsed voucher goes on to its funders"

    # --- time -----------------------------------------------------------------------------------------

    @rule(days=st.sampled_from([1, 1, 2]))
    def days_pass(self, days: int) -> None:
        """Sweep, then lapse what has expired."""
        self.pass_time(days * DAY_US)

    @rule(hours=st.sampled_from([6, 20]))
    def hours_pass(self, hours: int) -> None:
        """Just past midnight, some day is over and not added up yet."""
        self.pass_time(hours * HOUR_US)

    def pass_time(self, span_us: int) -> None:
        """Let time pass as the house does: sweep once, lapse until nothing is left to lapse."""
        e = self.e
        e.now += span_us
        if self.open or e.reserves:
            e.sweep()
        with self.database.session() as session:
            while lapse(session, e.now):
                pass
            overdue = select(func.count()).where(col(Hold.expires_at_us) <= e.now)
            assert session.exec(overdue).one() == 0, "a hold outlived the sweep"
        assert not self.open
        assert not e.reserves
        for grant in e.grants:
            if grant.expires_at <= e.now:
                grant.returned += grant.left


def _left(row: tuple[int, ...]) -> int:
    pending, debits, _, credits = row
    return credits - debits - pending
