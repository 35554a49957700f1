"""Rules of the random walk for reserves: money is put aside, calls are charged beside it, reserves shrink."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from support.economy import ORGS, Economy
from support.ledger_calls import OWNERS_CALLED, PERCENT_USED
from support.ledger_model import CallModel, ReserveModel

from catalog.ground.errors import LedgerCorrupt
from marketplace.gateway.money import FEWEST_OUTPUT_TOKENS


class ReserveRules(RuleBasedStateMachine):
    """Reserves of wallets and grants, and calls that hold nothing and are charged in the end."""

    e: Economy

    @property
    def planned(self) -> list[CallModel]:
        """Calls that run and hold nothing."""
        return [call for call in self.e.calls if call.state == "planned"]

    @rule(org=st.sampled_from(ORGS), data=st.data(), percent=st.sampled_from([10, 60, 100, 101]))
    def put_aside(self, org: str, data: st.DataObject, percent: int) -> None:
        """Put a part of what is there aside; more than that is refused."""
        e = self.e
        mine = [g for g in e.grants if g.org == org and g.left]
        grant = data.draw(st.sampled_from([None, *mine]), label="of")
        left = grant.left if grant else e.wallet_left(org)
        amount = left * percent // 100 if percent <= 100 else left + 1
        made = e.put_aside(org, grant, amount)
        assert (made is not None) == (amount <= left)

    @precondition(lambda self: self.e.reserves)
    @rule(data=st.data(), percent=st.sampled_from([0, 1, 50, 100]))
    def shrink(self, data: st.DataObject, percent: int) -> None:
        reserve = data.draw(st.sampled_from(self.e.reserves))
        self.e.rehold(reserve, reserve.amount * percent // 100)

    @precondition(lambda self: self.e.reserves)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        """Nobody keeps more of a reserve than there is, whatever else is in the batch."""
        e = self.e
        reserve = data.draw(st.sampled_from(e.reserves))
        before = e.state()
        shrinks = [e.smaller(other, 0) for other in e.reserves if other is not reserve]
        try:
            e.world.apply(*shrinks, e.smaller(reserve, reserve.amount + 1))
        except LedgerCorrupt:
            assert e.state() == before
        else:
            raise AssertionError(reserve)

    @rule(org=st.sampled_from(ORGS), owner=OWNERS_CALLED, tokens=st.integers(0, 90))
    def plan(self, org: str, owner: str, tokens: int) -> None:
        """Begin a call that is promised its money in memory: nothing of it is in the ledger."""
        e = self.e
        have = e.wallet_left(org) + e.aside(e.wallet_ids[org])

        def fits(cost: int) -> bool:
            return e.expected(org, owner, cost, aside=True)[1] <= have

        best = max(cost for cost in range(tokens + 1) if fits(cost)) if fits(0) else -1
        kept = e.plan(org, owner, tokens)
        if best < min(FEWEST_OUTPUT_TOKENS, tokens):
            assert kept is None
            return
        assert kept is not None
        draws = [(g.account, n) for g, n in zip(kept.grants, kept.held, strict=True)]
        assert (draws, kept.wallet_held) == e.expected(org, owner, best, aside=True)
        assert not (kept.blocked and kept.grants), "a voucher paid a related party"

    @precondition(lambda self: self.planned)
    @rule(data=st.data(), percent=PERCENT_USED)
    def charge(self, data: st.DataObject, percent: int) -> None:
        """Charge a call: first beside all holds, then out of reserves on its accounts."""
        e = self.e
        call = data.draw(st.sampled_from(self.planned))
        tokens = call.cost * percent // 100
        if self._charged(call, tokens, []):
            return
        accounts = {grant.account for grant in call.grants} | {e.wallet_ids[call.org]}
        there = [reserve for reserve in e.reserves if reserve.account in accounts]
        if not there:
            return
        chosen = data.draw(st.lists(st.sampled_from(there), unique_by=id, min_size=1))
        kept = [r.amount * data.draw(st.sampled_from([0, 0, 40, 100])) // 100 for r in chosen]
        self._charged(call, tokens, list(zip(chosen, kept, strict=True)))

    @rule(
        org=st.sampled_from(ORGS), owner=OWNERS_CALLED, tokens=st.integers(1, 90), percent=PERCENT_USED
    )  # fmt: skip
    def serve_promised(self, org: str, owner: str, tokens: int, percent: int) -> None:
        """A whole call without a hold."""
        before = len(self.e.calls)
        self.plan(org, owner, tokens)
        for call in self.e.calls[before:]:
            self._charged(call, call.cost * percent // 100, [])

    @rule(
        org=st.sampled_from(ORGS),
        owner=OWNERS_CALLED,
        tokens=st.integers(1, 90),
        percent=PERCENT_USED,
        kept_percent=st.sampled_from([0, 30, 70]),
    )
    def serve_aside(
        self, org: str, owner: str, tokens: int, percent: int, kept_percent: int
    ) -> None:
        """A whole call when all that its payers have is put aside: it is paid out of that, or refused."""
        e, before = self.e, len(self.e.calls)
        self.plan(org, owner, tokens)
        for call in e.calls[before:]:
            for grant in {id(grant): grant for grant in call.grants}.values():
                e.put_aside(org, grant, grant.left)
            e.put_aside(org, None, e.wallet_left(org))
            used = call.cost * percent // 100
            if self._charged(call, used, []):
                continue
            accounts = {grant.account for grant in call.grants} | {e.wallet_ids[org]}
            mine = [reserve for reserve in e.reserves if reserve.account in accounts]
            kept = [reserve.amount * kept_percent // 100 for reserve in mine]
            self._charged(call, used, list(zip(mine, kept, strict=True)))

    def _charged(
        self, call: CallModel, tokens: int, reholds: list[tuple[ReserveModel, int]]
    ) -> bool:
        """Charge, and see that it is paid exactly when every payer has what it is to pay."""
        e = self.e
        freed = {r.account: 0 for r, _ in reholds}
        for reserve, kept in reholds:
            freed[reserve.account] += reserve.amount - kept
        draws, wallet_u = e.parts(call, tokens)
        wanted = {e.wallet_ids[call.org]: wallet_u}
        for grant, draw in zip(call.grants, draws, strict=True):
            wanted[grant.account] = wanted.get(grant.account, 0) + draw
        enough = all(n <= e.left(a) + freed.get(a, 0) for a, n in wanted.items())
        before = e.state()
        paid = e.charge(call, tokens, reholds)
        assert paid == enough
        if not paid and not reholds:
            assert e.state() == before
        return paid
