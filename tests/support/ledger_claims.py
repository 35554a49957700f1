"""Rules of the random walk for claims: drafted, audited, refused, withdrawn, settled and clawed back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from sqlmodel import Session, select
from support.economy import Economy
from support.ledger_model import WAITING

from catalog.ground.database import Database
from catalog.ground.errors import Conflict
from catalog.ground.ids import ulid
from marketplace.vouchers import claims
from marketplace.vouchers.tables import ClaimLine, RefundLeg

_EVIDENCE = [{"kind": "invoice", "name": "i", "sha256": "0" * 64}]
VERDICTS = ["allow", "allow", "refuse one", "refuse last"]
Act = Callable[[Session], object]


class ClaimRules(RuleBasedStateMachine):
    """Claims of what each funder owes by now, to the end of the road or a part of it."""

    database: Database
    e: Economy
    submitted: list[tuple[str, str]]
    """Claims that wait for their auditor: (id, programme's short name)."""
    settled: list[tuple[str, str]]

    @rule(
        code=st.sampled_from(sorted(Economy.RATIOS)),
        verdict=st.sampled_from([*VERDICTS, "withdraw", "wait"]),
    )
    def claim(self, code: str, verdict: str) -> None:
        self.claim_all(code, verdict)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data(), verdict=st.sampled_from([*VERDICTS, "withdraw"]))
    def decide(self, data: st.DataObject, verdict: str) -> None:
        """The auditor says at last what it thinks of a claim."""
        found = data.draw(st.sampled_from(self.submitted))
        self.submitted.remove(found)
        self.e.now += 1
        self._decide(*found, verdict)

    def claim_all(self, code: str, verdict: str) -> None:
        """Claim a programme's use from each of its funders."""
        self.e.now += 1
        for funder_id in self.e.split(code)[1]:
            name = f"clm-{ulid()}"
            if not self._draft(name, code, funder_id):
                continue
            self._submit(name)
            if verdict == "wait":
                self.submitted.append((name, code))
            else:
                self._decide(name, code, verdict)

    def _submit(self, name: str) -> None:
        now = self.e.now
        self._do(lambda s: claims.submit(s, name, _EVIDENCE, "bob", now))

    def close_claims(self, verdict: str = "allow") -> None:
        """Bring every claim to its end, and claim what is left."""
        for name, code in self.submitted:
            self._decide(name, code, "allow")
        self.submitted.clear()
        for code in Economy.RATIOS:
            self.claim_all(code, verdict)

    def _draft(self, name: str, code: str, funder_id: str) -> bool:
        made, now = self.e.programmes[code], self.e.now
        period = claims.Period("p", 0, now)
        try:
            self._do(lambda s: claims.draft(s, name, made, funder_id, period, "ann", now))
        except Conflict:
            return False
        return True

    def _decide(self, name: str, code: str, verdict: str) -> None:
        now = self.e.now
        if verdict != "withdraw":
            with self.database.reading() as session:
                count = len(claims.lines(session, name))
            said = {"refuse one": [1], "refuse last": [count]}.get(verdict, [])
            refused = [claims.Verdict(n, False, "not ours") for n in said]
            try:
                self._do(lambda s: claims.audit(s, name, refused, "cyd", now, rest=True))
            except Conflict:
                verdict = "withdraw"
        if verdict == "withdraw":
            self._do(lambda s: claims.withdraw(s, name, "bob", now))
            return
        if code == "rival":
            self._owners(code, name, "disallowed", "disallowed", -1)
        self._do(lambda s: claims.settle(s, name, f"bank-{name}", "dan", now))
        self.settled.append((name, code))
        if code in WAITING:
            self._owners(code, name, "allowed", "settled", 1)
        elif code == "later":
            self._reimbursed(name)

    def _owners(self, code: str, name: str, state: str, kind: str, sign: int) -> None:
        sums: dict[str, int] = defaultdict(int)
        for line in self._lines(name):
            if line.state == state:
                sums[line.owner_org] += line.owner_u
        self._happens(kind, sums, sign)

    def _happens(self, kind: str, sums: dict[str, int], sign: int) -> None:
        for org_id, amount in sums.items():
            self.e.shares.happens(org_id.partition("_")[0], kind, sign * amount, self.e.now)

    def _reimbursed(self, name: str) -> None:
        """Who called is paid at once; where refunds came to more than use, it owes that."""
        sums: dict[str, int] = defaultdict(int)
        with self.database.reading() as session:
            for line in claims.lines(session, name):
                refunded = line.refund_id and session.get_one(RefundLeg, (line.refund_id, line.leg))
                if line.state == "allowed" and not (refunded and refunded.due_u):
                    sums[line.org_id] += line.amount_u
        for org_id, amount in sums.items():
            org = org_id.partition("_")[0]
            if amount > 0:
                self.e.shares.move(org, "reimbursed", amount, self.e.now)
            elif amount < 0:
                self.e.shares.happens(org, "reimbursed", amount, self.e.now)

    @precondition(lambda self: any(code != "city" for _, code in self.settled))
    @rule(data=st.data(), first=st.integers(1, 3))
    def claw_back(self, data: st.DataObject, first: int) -> None:
        """A funder takes back lines that it had paid; `city` does not say that it may."""
        self.claw(*data.draw(st.sampled_from(self.settled)), first)

    def claw(self, name: str, code: str, first: int) -> None:
        """Take back two lines of a settled claim, as far as they were paid."""
        self.e.now += 1
        now, before = self.e.now, self.e.state()
        found = list(self._lines(name))
        paid = {line.n for line in found if line.state == "allowed"}
        numbers = [line.n for line in found if line.n in (first, first + 1)]
        try:
            self._do(lambda s: claims.clawback(s, name, numbers, "a test", "eve", now))
        except Conflict:
            assert self.e.state() == before
            return
        assert code != "city"
        taken = [line for line in self._taken(name, now) if line.n in paid or line.claim_id != name]
        sums: dict[str, int] = defaultdict(int)
        for line in taken:
            if code == "later":
                sums[line.org_id] += line.amount_u
            else:
                sums[line.owner_org] += line.owner_u
        self._happens("clawback", sums, -1)

    def _taken(self, name: str, now: int) -> Iterable[ClaimLine]:
        """Return the lines clawed back at this instant: of the claim, and their legs' refunds elsewhere."""
        query = select(ClaimLine).where(
            ClaimLine.state == "clawed_back", ClaimLine.decided_at_us == now
        )
        with self.database.reading() as session:
            return session.exec(query).all()

    def _lines(self, name: str) -> Iterable[ClaimLine]:
        with self.database.reading() as session:
            return claims.lines(session, name)

    def _do(self, act: Act) -> None:
        """Do it, and keep it to be done again."""
        with self.database.session() as session:
            act(session)

        def again() -> None:
            with self.database.session() as session:
                act(session)

        self.e.repeatable.append(("claim", again))
