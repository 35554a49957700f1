"""Every published scheme lives its whole life: applied for, approved, spent, claimed, paid.

Facts are made from each programme's own conditions, so a scheme that could never be met, paid for or
claimed as it is written falls here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import count
from typing import Any

import pytest
from sqlmodel import Session, select
from support.voucher_story import Story

from catalog.ground.clock import DAY_US, from_datetime, to_datetime, zone
from catalog.ground.database import Database
from catalog.ground.errors import Conflict
from catalog.ground.ids import new_id
from catalog.listings.tables import Listing
from marketplace.ledger.chart import owner_available, owner_unsettled
from marketplace.members.facts import enter_fact, verify_fact
from marketplace.payouts.accruals import accrue, mature
from marketplace.vouchers import applications, claims, invoices
from marketplace.vouchers.applications import Wish
from marketplace.vouchers.examples import codes, example
from marketplace.vouchers.invoices import Paper
from marketplace.vouchers.knowledge import DERIVED
from marketplace.vouchers.periods import period
from marketplace.vouchers.pools import fund, funders_of
from marketplace.vouchers.programmes import publish
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.rules import span_us
from marketplace.vouchers.tables import Application, Claim, Grant

YUAN = 1_000_000
PRICE_U = 1_000 * YUAN
SLUG = "maker/model"
METERED = {"model", "token", "service"}
"""Kinds whose vouchers pay for calls; the others pay for contracts."""
_number = count(1)


def paper(kind: str) -> dict[str, str]:
    return {"kind": kind, "name": f"{kind}.pdf", "sha256": f"{next(_number):064x}"}


def needed(sealed: Sealed) -> dict[str, Any]:
    """Return facts that meet every condition of a programme."""
    facts: dict[str, Any] = {}
    for rule in (*sealed.rules.eligible, *sealed.rules.items):
        meet(rule.when, facts)
    return facts


def meet(condition: Mapping[str, Any], facts: dict[str, Any]) -> None:
    ((key, operand),) = condition.items()
    if key == "all":
        for part in operand:
            meet(part, facts)
    elif key == "any":
        meet(operand[0], facts)
    elif key == "not":
        ((fact, test),) = operand.items()
        facts[fact] = ["something else"] if isinstance(test, dict) else not test
    elif not isinstance(operand, dict):
        facts[key] = operand
    else:
        ((operator, value),) = operand.items()
        if operator == "has":
            facts[key] = sorted({*facts.get(key, []), value})
        elif operator == "in":
            facts[key] = value[0]
        elif operator == "under":
            facts[key] = value.ljust(6, "0")
        else:
            facts[key] = value


class Life:
    """One scheme in a database of its own, from the first day on which it issues vouchers."""

    def __init__(self, database: Database, code: str) -> None:
        self.sealed = example(code)
        first_us, _ = span_us(self.sealed.rules.window.issue)
        self.story = Story(database)
        start = from_datetime(datetime(2026, 1, 5, 12, tzinfo=zone))
        self.story.clock.at_us = first_us + DAY_US // 2 if first_us else start
        self.caller, self.maker = self.story.org("opc"), self.story.org("maker")
        with database.session() as session:
            self.made = publish(session, self.sealed.canonical, "officer", self.now)
            self._know(session)

    @property
    def now(self) -> int:
        return self.story.clock()

    def _know(self, session: Session) -> None:
        """Put on record what the programme asks for; two persons for each fact."""
        facts = needed(self.sealed)
        self.contract = {k: v for k, v in facts.items() if k.startswith("contract.")}
        self.subject = facts.get("listing.kind", "compute")
        listing = Listing(
            id="lst_test",
            slug=SLUG,
            kind=self.subject,
            owner_org=self.maker,
            state="listed",
            tier="park",
            vertical="general",
            created_by="x",
            created_at_us=self.now,
            updated_at_us=self.now,
            filing_status="granted",
            filing_route="full",
        )
        session.add(listing)
        for key, value in facts.items():
            if key in DERIVED or key.startswith("contract."):
                continue
            of_listing = key.startswith(("listing.", "cluster."))
            fact = enter_fact(
                session,
                self.caller if key.startswith("org.") else self.maker,
                key,
                value,
                valid_from_us=0,
                valid_to_us=None,
                evidence_sha256="0" * 64,
                evidence_name="x.pdf",
                by="li",
                at_us=self.now,
                listing=SLUG if of_listing else "",
            )
            verify_fact(session, fact.id, "wang", self.now)

    def granted(self) -> list[Grant]:
        """Fund it, apply on a contract, approve: by different persons."""
        facts = {
            "contract.subject": self.subject,
            "contract.listing": SLUG,
            **self.contract,
        }
        papers = [paper(kind) for kind in self.sealed.rules.evidence]
        wish = Wish(PRICE_U, "contract-1", facts, papers, provider=self.maker)
        with self.story.database.session() as session:
            fund(session, new_id("fnd"), self.made.id, 10 * PRICE_U, self.now)
            row = applications.apply(
                session, new_id("app"), self.made, self.caller, wish, "opa", self.now
            )
            self.application = row.id
            return applications.approve(session, row.id, "officer", self.now)

    def spent(self) -> None:
        """Spend it: by a call where calls are paid for, on an invoice of the contract otherwise."""
        if self.sealed.rules.kind in METERED and self.subject == "model":
            self.story.org("opc", wallet_u=PRICE_U)
            self.story.call("opc", 100 * YUAN, owner="maker", slug=SLUG)
            return
        kinds = ("invoice", "payment", "delivery_or_metering", "usage_log")
        bill = Paper("NO-1", {"compute": 100 * YUAN, "storage": 1}, [paper(kind) for kind in kinds])
        with self.story.database.session() as session:
            made = invoices.present(session, "inv_1", self.application, bill, "opa", self.now)
            invoices.accept(session, made.id, "officer", self.now)

    def claimed(self) -> Iterator[Claim]:
        """Claim the month from each funder, hand it in on the first day on which that may be, settle."""
        month_ = to_datetime(self.now).astimezone(zone).strftime("%Y-%m")
        opens_us, _ = span_us(self.sealed.rules.window.claim)
        self.story.clock.at_us = max(self.now + 40 * DAY_US, opens_us)
        with self.story.database.session() as session:
            for place in funders_of(session, self.made.id):
                if not place.share_bp:
                    continue
                claim_id = new_id("clm")
                claims.draft(
                    session, claim_id, self.made, place.funder_id, period(month_), "a", self.now
                )
                papers = [paper(k) for k in ("expert_review", "special_audit", "credit_check")]
                claims.submit(session, claim_id, papers, "b", self.now)
                claims.audit(session, claim_id, [], "c", self.now, rest=True)
                yield claims.settle(session, claim_id, "bank-1", "d", self.now)


LIVES = [code for code in codes() if example(code).rules.quota is None]


@pytest.mark.parametrize("code", LIVES)
def test_from_application_to_payment(database: Database, code: str) -> None:
    life = Life(database, code)
    story, rules = life.story, life.sealed.rules
    assert life.granted()
    life.spent()
    used_u = _used_u(story)
    assert used_u > 0
    story.check()
    settled = list(life.claimed())
    assert sum(claim.allowed_u for claim in settled) == used_u
    story.check()
    with database.session() as session:
        accrue(session, story.clock())
        mature(session, story.clock())
    story.days(10)
    with database.session() as session:
        accrue(session, story.clock())
        mature(session, story.clock())
        claimant = session.get_one(Application, life.application).claimant
    if rules.mode == "reimburse":
        payee = life.caller if claimant == "demander" else life.maker
        assert story.balance(owner_available(payee)) >= used_u
    else:
        assert story.journal(owner_unsettled(life.maker)) == 0
        assert story.balance(owner_available(life.maker)) >= used_u
    story.check()


@pytest.mark.parametrize("code", sorted(set(codes()) - set(LIVES)))
def test_a_free_quota_is_claimed_from_nobody(database: Database, code: str) -> None:
    life = Life(database, code)
    with database.session() as session, pytest.raises(Conflict, match="not claimed"):
        place = funders_of(session, life.made.id)[0]
        claims.draft(session, "c", life.made, place.funder_id, period("2025-01"), "a", life.now)


def _used_u(story: Story) -> int:
    """Return what all vouchers have paid, by their accounts."""
    with story.database.reading() as session:
        grants = session.exec(select(Grant)).all()
        return sum(g.amount - story.balance(f"grant:{g.id}") for g in grants)
