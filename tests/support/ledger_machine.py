"""The random walk through the economy, and what must hold after every step (section by section)."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlmodel import Session, select
from support.economy import BUDGET_U, CAP_U, ORGS, CallModel, Economy, GrantModel, unhurried
from support.ledger_world import World

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import Conflict
from catalog.ground.ids import ulid
from marketplace.cli.ledger import recost
from marketplace.ledger.verify import verify
from marketplace.vouchers import claims, pools
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.returning import lapse
from marketplace.vouchers.rules import load
from marketplace.vouchers.split import FunderSplit
from marketplace.vouchers.tables import ClaimLine, Programme


class LedgerMachine(RuleBasedStateMachine):
    """Calls, refunds, lapses, claims and repeats, on one database for all examples."""

    database: Database
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.e = Economy(self.database, self.world)
        self.claim_ids: list[str] = []
        self.paid_out: dict[str, int] = {}

    @initialize(wallet=st.integers(0, 80), asked=st.integers(5, 60))
    def begin(self, wallet: int, asked: int) -> None:
        for org in ORGS:
            self.e.top_up(org, wallet or 1)
            self.e.issue(org, "city", asked)
            self.e.issue(org, "district", 20)
        self.e.issue("a", "later", 15)
        # A walk that begins with calls on the books reaches refunds, lapses and claims.
        for org, tokens in (("a", 12), ("b", 20), ("a", 9)):
            self.serve(org, "maker", tokens, 100)
        self.admit("b", "maker", 10)

    # --- what happens ---------------------------------------------------------------------------------

    @rule(org=st.sampled_from(ORGS), amount=st.integers(1, 40))
    def top_up(self, org: str, amount: int) -> None:
        self.e.top_up(org, amount)

    @rule(
        org=st.sampled_from(ORGS),
        code=st.sampled_from(sorted(Economy.RATIOS)),
        asked=st.integers(1, 70),
    )
    def issue(self, org: str, code: str, asked: int) -> None:
        self.e.issue(org, code, asked)

    @rule(
        org=st.sampled_from(ORGS),
        owner=st.sampled_from(["maker", "maker", "maker", "a"]),
        tokens=st.integers(0, 90),
    )
    def admit(self, org: str, owner: str, tokens: int) -> None:
        e = self.e
        have = e.wallets[org] - sum(
            c.wallet_held for c in e.calls if c.org == org and c.state == "open"
        )

        def fits(cost: int) -> bool:
            return e.expected(org, owner, cost)[1] <= have

        best = max(cost for cost in range(tokens + 1) if fits(cost)) if fits(0) else -1
        expected = e.expected(org, owner, best)
        lower = e.expected(org, owner, max(0, best - 1))
        assert lower[1] <= expected[1], "a larger estimate never lowers a hold"
        kept = e.admit(org, owner, tokens)
        if best < min(16, tokens):
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
        if org == owner:
            assert kept.grants == [], "a voucher paid for one's own listing"

    @rule(
        org=st.sampled_from(ORGS),
        owner=st.sampled_from(["maker", "maker", "maker", "a"]),
        tokens=st.integers(1, 90),
        percent=st.sampled_from([0, 1, 33, 99, 100, 100, 130]),
    )
    def serve(self, org: str, owner: str, tokens: int, percent: int) -> None:
        """A whole call."""
        before = len(self.e.calls)
        self.admit(org, owner, tokens)
        for call in self.e.calls[before:]:
            self.e.settle(call, call.cost * percent // 100)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), percent=st.sampled_from([0, 1, 33, 99, 100, 100, 130]))
    def settle(self, data: st.DataObject, percent: int) -> None:
        call = data.draw(st.sampled_from(self.open))
        self.e.settle(call, call.cost * percent // 100)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), expired=st.booleans())
    def end_unpaid(self, data: st.DataObject, expired: bool) -> None:
        self.e.end_unpaid(data.draw(st.sampled_from(self.open)), expired=expired)

    @precondition(lambda self: any(c.state == "settled" and c.cost for c in self.e.calls))
    @rule(data=st.data(), percent=st.sampled_from([1, 40, 100, 100]))
    def refund(self, data: st.DataObject, percent: int) -> None:
        calls = [c for c in self.e.calls if c.state == "settled" and c.cost]
        call = data.draw(st.sampled_from(calls))
        amount = max(1, call.cost * percent // 100)
        before = self.e.totals()
        self.e.now += 1
        name = f"ref-{ulid()}"
        try:
            with self.database.session() as session:
                refund(session, name, call.call.id, amount, "a test", "clerk", self.e.now)
        except Conflict:
            assert self.e.totals() == before
            return
        self._check_refund(call, amount, before)
        self.e.repeatable.append(
            ("refund", (name, call.call.id, amount, "a test", "clerk", self.e.now))
        )

    def _check_refund(self, call: CallModel, amount: int, before: dict[str, Any]) -> None:
        """Own money first, up to what was paid; then voucher legs backwards; lapsed ones to their pools."""
        e = self.e
        assert call.refunded + amount <= call.cost
        after = e.totals()

        def gained(code: str) -> int:
            return int(after[code][3] - before[code][3]) - int(after[code][1] - before[code][1])

        own = gained(f"wallet:{e.org(call.org)}")
        later = [i for i, grant in enumerate(call.grants) if grant.code == "later"]
        expected_own = min(amount, call.wallet_posted - call.wallet_refunded)
        assert own == expected_own if not (later and self.claim_ids) else own <= expected_own
        call.refunded += amount
        call.wallet_refunded += own
        e.wallets[call.org] += own
        rest = amount - expected_own
        back: dict[int, int] = {}
        for index in reversed(range(len(call.grants))):
            if index in later:
                continue
            part = min(rest, call.posted[index] - call.legs_refunded[index])
            rest -= part
            back[index] = part
        assert rest == 0
        for index, grant in enumerate(call.grants):
            got = after[f"grant:{grant.id}"][3] - before[f"grant:{grant.id}"][3]
            if index not in later:
                assert got == back[index] + sum(
                    back[j] for j, g in enumerate(call.grants) if g is grant and j != index
                ), f"{grant} got {got}, not {back}"
        seen: set[str] = set()
        for index, grant in enumerate(call.grants):
            got = after[f"grant:{grant.id}"][3] - before[f"grant:{grant.id}"][3]
            call.legs_refunded[index] += back.get(index, got)
            if grant.id in seen:
                continue
            seen.add(grant.id)
            grant.used -= got
            lapsed = after[f"grant:{grant.id}"][1] - before[f"grant:{grant.id}"][1]
            grant.returned += lapsed
            if grant.expires_at <= e.now:
                assert lapsed == got, "what comes back to a lapsed voucher goes on to its funders"
            else:
                assert lapsed == 0

    @rule(days=st.sampled_from([1, 1, 2]))
    def days_pass(self, days: int) -> None:
        """Sweep, then lapse what has expired."""
        e = self.e
        e.now += days * DAY_US
        if self.open:
            e.end_unpaid(self.open[0], expired=True)
        with self.database.session() as session:
            while lapse(session, e.now):
                pass
        for grant in e.grants:
            if grant.expires_at <= e.now:
                grant.returned += grant.left

    @rule(
        code=st.sampled_from(["city", "district", "later"]),
        verdict=st.sampled_from(["allow", "allow", "refuse one", "withdraw"]),
    )
    def claim(self, code: str, verdict: str) -> None:
        """Claim what every funder owes by now, to the end of the road or half of it."""
        self._claim_all(code, verdict)

    def _claim_all(self, code: str, verdict: str) -> None:
        self.e.now += 1
        with self.database.session() as session:
            for part in pools.funders_of(session, self.e.programmes[code].id):
                self._claim(session, self.e.programmes[code], part.funder_id, verdict)

    def _claim(self, session: Session, made: Programme, funder_id: str, verdict: str) -> None:
        now = self.e.now
        name, period = f"clm-{ulid()}", claims.Period("p", 0, now)
        try:
            with session.begin_nested():
                row = claims.draft(session, name, made, funder_id, period, "ann", now)
        except Conflict:
            return
        evidence = [{"kind": "invoice", "name": "i", "sha256": "0" * 64}]
        claims.submit(session, row.id, evidence, "bob", now)
        if verdict == "withdraw":
            claims.withdraw(session, row.id, "bob", now)
            return
        verdicts = [claims.Verdict(1, False, "not ours")] if verdict == "refuse one" else []
        try:
            with session.begin_nested():
                claims.audit(session, row.id, verdicts, "cyd", now, rest=True)
        except Conflict:
            claims.withdraw(session, row.id, "bob", now)
            return
        claims.settle(session, row.id, f"bank-{name}", "dan", now)
        self.claim_ids.append(name)

    @precondition(lambda self: self.e.repeatable)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Whatever is said again under the same id changes nothing."""
        what, operation = data.draw(st.sampled_from(self.e.repeatable))
        before = self.e.totals()
        if what == "refund":
            with self.database.session() as session:
                refund(session, *operation)
        else:
            outcome = self.e.repeat(what, operation)
            assert outcome is None or getattr(outcome, "changed", True) is False
        assert self.e.totals() == before

    # --- what always holds ----------------------------------------------------------------------------

    @property
    def open(self) -> list[CallModel]:
        """Calls that run."""
        return [call for call in self.e.calls if call.state == "open"]

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        assert self.e.differences() == []

    @invariant()
    def nobody_cashes_a_voucher(self) -> None:
        for call in self.e.calls:
            assert call.wallet_refunded <= call.wallet_posted

    @invariant()
    def caps_hold(self) -> None:
        for org in ORGS:
            mine = [g for g in self.e.grants if g.org == org and g.code == "city"]
            assert sum(grant.amount for grant in mine) <= CAP_U

    def teardown(self) -> None:
        """The whole proof, once a story: replay, funders' sums, claims."""
        e = self.e
        if not e.programmes or not e.grants:
            return
        for code in ("city", "district"):
            self._claim_all(code, "allow")
            self._claim_all(code, "allow")
        if self.open:
            e.now += DAY_US
            e.end_unpaid(self.open[0], expired=True)
        assert verify(self.database, recost=recost).problems == []
        rows = e.totals()
        with self.database.reading() as session:
            for code, made in e.programmes.items():
                mine = [g for g in e.grants if g.code == code]
                self._check_funders(session, made, mine, rows)
                self._check_claims(session, made, mine)
                assert session.get_one(Programme, made.id).rules == made.rules
                assert load(made.rules).sha256 == made.sha256

    def _check_funders(
        self, session: Any, made: Programme, mine: list[GrantModel], rows: dict[str, Any]
    ) -> None:
        """Per funder: what it gave = what is in its pool + what backs its grants."""
        parts = pools.funders_of(session, made.id)
        split = FunderSplit([(0, tuple((p.funder_id, p.share_bp) for p in parts))])
        backed = dict.fromkeys(split.funders, 0)
        for grant in mine:
            for funder, part in zip(
                split.funders, split.drawn(grant.amount - grant.returned), strict=True
            ):
                backed[funder] += part
        for part, given in zip(parts, split.drawn(BUDGET_U), strict=True):
            pending, debits, _, credits = rows[f"pool:{made.id}:{part.funder_id}"]
            assert pending == 0
            assert given == credits - debits + backed[part.funder_id]

    def _check_claims(self, session: Any, made: Programme, mine: list[GrantModel]) -> None:
        """No leg is claimed twice, and no funder is asked for more than its part of what was used."""
        query = select(ClaimLine).where(ClaimLine.claim_id.in_(self.claim_ids or ["-"]))  # type: ignore[attr-defined]
        ids = {grant.id for grant in mine}
        lines = [line for line in session.exec(query) if line.grant_id in ids]
        keys = [(line.funder_id, line.event_id, line.leg, line.refund_id) for line in lines]
        assert len(keys) == len(set(keys))
        parts = pools.funders_of(session, made.id)
        for part in parts:
            claimed = sum(line.amount_u for line in lines if line.funder_id == part.funder_id)
            drawn = sum(grant.used for grant in mine)
            refunded = sum(
                call.legs_refunded[i]
                for call in self.e.calls
                for i, grant in enumerate(call.grants)
                if grant.id in ids
            )
            # Each grant's part is off by less than one micro-yuan, whatever claim it falls into.
            assert claimed * 10_000 <= (drawn + refunded) * part.share_bp + 10_000 * len(mine)


def machine_on(database: Database) -> type[LedgerMachine]:
    """Return the machine for one database."""
    unhurried(database)
    return type(
        "LedgerMachineHere",
        (LedgerMachine,),
        {"database": database, "world": World(database, f"machine-{os.getpid()}")},
    )
