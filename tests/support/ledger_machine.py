"""The random walk through the economy: every invariant of public money, and the rule that tries to break it.

    invariant                              exercised by                  checked by
    1  debits are credits, clearing is 0   every rule                    `books_balance`, verify
    2  nobody spends more than it has      admit, issue, pay_out,        `books_balance`, verify,
                                           charge (beside reserves)      `_charged` (exact)
    3  a funder's money is all somewhere   issue, claim, lapse, refund   `_check_funders`, prove
    4  who paid a call adds up to it       serve, settle, free_calls     `_check_events`, verify(recost)
    5  caps: organisation, group, funder   issue, days_pass (gives room) `issue` (exact), cap_problems
    6  related parties get no vouchers     link, unlink, admit           `admit` (exact), `_check_events`
    7  no cash for a voucher               refund, before and after      `_check_refund`, `_repaid`,
                                           lapse and claim, reimburse    `nobody_cashes`, prove
    8  a leg is claimed once               claim, decide, claw_back,     claim_problems, prove
                                           refund in between
    9  holds are what is promised          admit, settle, end_unpaid,    `books_balance`, pass_time
                                           days_pass (one sweep),
                                           put_aside, shrink, grow
    10 again is nothing                    repeat (every kind of act)    `repeat`
    11 published bytes do not change       rewrite, reprice by hand      `rewrite`, `_check_programmes`
    12 a larger estimate lowers no hold    admit, links, spent grants    `_check_estimates`
    13 funders are within a micro-yuan     claim at any moment, refund   `_check_claims`, prove
    14 paid out is earned and settled      jobs, review, pay_out, go_on, `jobs` (exact), `differences`,
                                           reverse, claw_back, adjust    payout_problems
    15 statements are the ledger           tell (early, late, again)     `_check_statement`,
                                                                         statement_problems, reports

`archive` takes closed days out of the journal in the middle of it all; then verify goes from the sealed
totals and from the files. Each walk has a database of its own.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sqlalchemy import text
from sqlmodel import Session, col, select
from support.economy import (
    BUDGET_U,
    CAP_U,
    GROUP_CAP_U,
    NANSHAN_CAP_U,
    ORGS,
    OWNERS,
    Economy,
    unhurried,
)
from support.ledger_archives import ArchiveRules
from support.ledger_checks import (
    cap_problems,
    claim_problems,
    payout_problems,
    statement_problems,
)
from support.ledger_model import GrantModel
from support.ledger_parties import PartyRules
from support.ledger_payouts import PayoutModel
from support.ledger_reserves import ReserveRules
from support.ledger_world import World

from catalog.ground.clock import DAY_US, HOUR_US
from catalog.ground.database import Database
from catalog.ground.errors import TokenMartError
from marketplace.cli.ledger import recost
from marketplace.ledger.chart import wallet
from marketplace.ledger.tables import UsageEvent
from marketplace.ledger.verify import verify
from marketplace.members.tables import Organisation
from marketplace.reports.owner import owner_statement
from marketplace.reports.statement import statement as caller_statement
from marketplace.vouchers import pools
from marketplace.vouchers.periods import month
from marketplace.vouchers.proof import prove
from marketplace.vouchers.rules import load
from marketplace.vouchers.split import FunderSplit
from marketplace.vouchers.tables import Claim, ClaimLine, Programme

_CLEARING = (
    "SELECT (SELECT coalesce(sum(t.amount), 0) FROM ledger_transfer t WHERE t.credit_id = a.id "
    "AND t.kind IN (1, 3)) - (SELECT coalesce(sum(t.amount), 0) FROM ledger_transfer t "
    "WHERE t.debit_id = a.id AND t.kind IN (1, 3)) FROM ledger_account a WHERE a.code = 'clearing'"
)


class LedgerMachine(ArchiveRules, PartyRules, ReserveRules):
    """Calls, reserves, refunds, lapses, links, claims, payouts, archives and repeats."""

    fresh: Callable[[], Database]

    def __init__(self) -> None:
        super().__init__()
        self.database = type(self).fresh()
        unhurried(self.database)
        self.world = World(self.database, "machine")
        self.e = Economy(self.database, self.world)
        self.submitted: list[tuple[str, str]] = []
        self.settled: list[tuple[str, str]] = []
        self.payouts: list[PayoutModel] = []
        self.told: dict[tuple[str, str], str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="tm-machine-"))
        self.archives = self.archived_until = 0
        self.publish_a_price()

    @initialize(wallet=st.integers(0, 80), asked=st.integers(5, 60), late=st.booleans())
    def begin(self, wallet: int, asked: int, late: bool) -> None:
        for org in ORGS:
            self.e.top_up(org, wallet or 1)
            self.issue(org, "city", asked)
            self.issue(org, "district", 20)
        self.issue("a", "later", 15)
        # A walk that begins with calls on the books reaches refunds, lapses and claims.
        for org, tokens in (("a", 12), ("b", 20), ("a", 9)):
            self.serve(org, "maker", tokens, 100)
        if late:
            # And one that begins a week later, with shares that mature, reaches payouts.
            for code in ("city", "later"):
                self.claim_all(code, "allow")
            self.pass_time(8 * DAY_US)
            self.run_jobs()
            for org, code in (("a", "city"), ("b", "rival")):
                self.issue(org, code, 30)
                self.issue(org, "district", 20)
                self.serve(org, "maker", 15, 100)
        self.admit("b", "maker", 10)

    @rule(org=st.sampled_from(ORGS), percent=st.sampled_from([30, 100]))
    def reimburse(self, org: str, percent: int) -> None:
        """A caller is paid back for a call, and then gets its money back for the call itself."""
        self.e.top_up(org, 40)
        self.issue(org, "later", 10)
        before = len(self.e.calls)
        self.serve(org, "maker", 30, 100)
        self.claim_all("later", "allow")
        for call in self.e.calls[before:]:
            self.give_back(call, max(1, call.cost * percent // 100))

    @precondition(lambda self: self.e.repeatable)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Whatever is said again under the same id changes nothing."""
        what, act = data.draw(st.sampled_from(self.e.repeatable), label="what")
        before = self.e.state()
        refused = (TokenMartError,) if what != "hold" else (Exception,)
        with suppress(*refused):
            act()
        assert self.e.state() == before, what

    # --- what always holds ----------------------------------------------------------------------------

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        assert self.e.differences() == []

    @invariant()
    def books_balance(self) -> None:
        """Nothing is in clearing, holds are what is promised, nobody has spent more than it had."""
        with self.database.reading() as session:
            connection = session.connection()
            assert connection.execute(text(_CLEARING)).scalar_one() == 0
            held = set(connection.execute(text("SELECT tx FROM ledger_hold")).scalars())
            rows = connection.execute(
                text(
                    "SELECT code, dr_pending, dr_posted, cr_posted FROM ledger_account WHERE rule = 1"
                )
            ).all()
        reserves = {reserve.tx: reserve.amount for reserve in self.e.reserves}
        assert held == {call.call.id for call in self.open} | reserves.keys()
        pending = sum(sum(call.held) + call.wallet_held + call.quota for call in self.open)
        pending += sum(reserves.values())
        assert sum(row[1] for row in rows) == pending
        for code, promised, spent, received in rows:
            assert 0 <= promised + spent <= received, code

    @invariant()
    def nobody_cashes_a_voucher(self) -> None:
        for call in self.e.calls:
            assert call.wallet_refunded <= call.own_returned <= call.wallet_posted

    @invariant()
    def caps_hold(self) -> None:
        split = FunderSplit([(0, (("gd", 5000), ("sz", 3000), ("nanshan", 2000)))])
        for org in ORGS:
            mine = [g for g in self.e.grants if g.org == org]
            assert sum(g.amount for g in mine if g.code == "city") <= CAP_U
            group = [g.amount - g.returned for g in mine if g.code in ("rival", "district")]
            assert sum(group) <= GROUP_CAP_U
            district = [split.drawn(g.amount)[2] for g in mine if g.code == "district"]
            assert sum(district) <= NANSHAN_CAP_U

    # --- the whole proof, once a walk -----------------------------------------------------------------

    def teardown(self) -> None:
        try:
            # A walk that has failed already is not judged again: its own words matter.
            if sys.exc_info()[0] is None and self.e.grants:
                self._end()
        finally:
            self.world.close()
            self.database.dispose()
            shutil.rmtree(self.folder)

    def _end(self) -> None:
        """Close everything: claims, calls, shares, payouts, the month; then prove it all."""
        # No draw is left to make here, so the walk's length decides how it ends.
        turn = len(self.e.calls)
        self.close_claims(("allow", "refuse one", "refuse last")[turn % 3])
        if turn % 2:
            self._take_back()
        # What was claimed a moment ago is not claimed again.
        self.close_claims()
        self.pass_time(9 * DAY_US)
        self.run_jobs()
        self.pay_everything()
        self.e.top_up("b", 30)
        self.serve("b", "maker", 20, 100)
        end_us = month(self.months()[-1]).until_us
        self.pass_time(end_us + 2 * HOUR_US - self.e.now)
        # No job has added up the last days: the statements do.
        for org in OWNERS:
            for period in self.months()[:-1]:
                self.ask_statement(org, period)
        self.run_jobs()
        self.the_ledger_is_as_the_model_says()
        self.check_programmes()
        for folder in {None, self.folder if self.archives else None}:
            assert verify(self.database, recost=recost, archive_dir=folder).problems == []

    def _take_back(self) -> None:
        """Refund calls whose claims are settled, settle that too, and then let funders take it all back."""
        for call in self.e.calls:
            if call.state == "settled" and not call.archived and call.refunded < call.cost:
                self.give_back(call, call.cost - call.refunded)
        self.close_claims()
        for name, code in self.settled:
            self.claw(name, code, 1)

    def check_programmes(self) -> None:
        """Prove programmes, claims, caps and payouts, now."""
        e = self.e
        rows = e.totals()
        with self.database.reading() as session:
            for code in Economy.RATIOS:
                made = e.programmes[code]
                mine = [g for g in e.grants if g.code == code]
                self._check_funders(session, made, mine, rows)
                self._check_claims(session, made, mine)
            self._check_programmes(session)
            assert [*claim_problems(session), *cap_problems(session)] == []
            if not self.archives:
                self._check_events(session)
                self._check_reports(session)
                assert prove(session) == []
                assert list(statement_problems(session)) == []
                assert list(payout_problems(session, [e.org(org) for org in OWNERS])) == []

    def _check_events(self, session: Session) -> None:
        """Every call is on the books as the model says; none between related parties has a voucher."""
        events = {row.id: row for row in session.exec(select(UsageEvent))}
        settled = {call.call.id: call for call in self.e.calls if call.state == "settled"}
        assert events.keys() == settled.keys()
        for name, call in settled.items():
            row = events[name]
            instant = sum(
                paid
                for grant, paid in zip(call.grants, call.posted, strict=True)
                if grant.code != "later"
            )
            free = call.cost if call.quota else 0
            assert (row.cost_u, row.overrun_u) == (call.billed, call.billed - call.cost)
            assert (row.wallet_u, row.voucher_u, row.free_u) == (call.wallet_posted, instant, free)
            assert not call.blocked or row.voucher_u == 0

    def _check_reports(self, session: Session) -> None:
        """Reports say of themselves whether their sums agree; callers' months add up to their wallets."""
        for period in self.months()[1:]:
            for org in (*ORGS, "maker"):
                row = session.get_one(Organisation, self.e.org(org))
                assert owner_statement(session, row, period, self.e.now).cover["sums_agree"]
        for org in ORGS:
            row = session.get_one(Organisation, self.e.org(org))
            told = caller_statement(session, row, period, self.e.now).cover
            _, debits, _, credits = self.e.totals()[wallet(row.id)]
            assert told["closing_u"] == credits - debits
            assert told["sums_agree"]

    def _check_programmes(self, session: Session) -> None:
        for made in self.e.programmes.values():
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
            for funder, amount in zip(
                split.funders, split.drawn(grant.amount - grant.returned), strict=True
            ):
                backed[funder] += amount
        for part, given in zip(parts, split.drawn(BUDGET_U), strict=True):
            pending, debits, _, credits = rows[f"pool:{made.id}:{part.funder_id}"]
            assert pending == 0
            assert given == credits - debits + backed[part.funder_id]

    def _check_claims(self, session: Any, made: Programme, mine: list[GrantModel]) -> None:
        """No funder is asked for more than its part of what was used."""
        query = select(ClaimLine).join(Claim, col(Claim.id) == ClaimLine.claim_id)
        query = query.where(Claim.programme_id == made.id)
        lines = [line for line in session.exec(query) if line.state != "withdrawn"]
        for part in pools.funders_of(session, made.id):
            for grant in mine:
                own = [
                    line
                    for line in lines
                    if (line.funder_id, line.grant_id) == (part.funder_id, grant.id)
                ]
                claimed = sum(line.amount_u for line in own)
                refunded = sum(
                    call.legs_refunded[i]
                    for call in self.e.calls
                    for i, other in enumerate(call.grants)
                    if other is grant
                )
                # Each grant's part is off by less than one micro-yuan, whatever claim it falls into.
                bound = (grant.used + refunded) * part.share_bp + 10_000
                assert claimed * 10_000 < bound


def machine_on(fresh: Callable[[], Database]) -> type[LedgerMachine]:
    """Return the machine whose walks each have a database from `fresh`: migrated and empty."""
    return type("LedgerMachineHere", (LedgerMachine,), {"fresh": staticmethod(fresh)})
