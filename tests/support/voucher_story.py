"""A small world for stories about vouchers: programmes, organisations, calls as the gateway books them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from catalog.ground.clock import DAY_US, SECOND_US, SetClock
from catalog.ground.database import Database
from catalog.ground.ids import new_id
from catalog.listings.callable import CallableListing
from marketplace.gateway.money import Books, Call
from marketplace.ledger.accounts import account_id, apply_now, balance_u, open_account
from marketplace.ledger.chart import (
    BANK,
    CLEARING,
    FEE,
    FREE_COST,
    OVERRUN,
    ROUNDING,
    Code,
    Rule,
    owner_unsettled,
    wallet,
)
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.reading import journal_balance_u
from marketplace.ledger.verify import verify
from marketplace.members.keys import create_organisation
from marketplace.payouts.fees import fee_at
from marketplace.prices.components import Buckets, Components, canonical
from marketplace.vouchers import applications
from marketplace.vouchers.applications import Wish
from marketplace.vouchers.programmes import publish
from marketplace.vouchers.proof import prove
from marketplace.vouchers.service import ladder_for
from marketplace.vouchers.tables import Grant, Programme

NOON_US = 1_767_240_000 * SECOND_US  # 2026-01-01 12:00 in Beijing
PRICE = Components(input_u_per_m=1_000_000, output_u_per_m=1_000_000)
"""¥1 per million tokens: a call of n tokens costs n micro-yuan."""


def rules(code: str = "tst-token", **changes: Any) -> dict[str, Any]:
    """Return a programme as an officer would write it, three funders 5:3:2, changed as asked."""
    document: dict[str, Any] = {
        "code": code,
        "version": 1,
        "title_zh": "测试词元券",
        "title_en": "Test vouchers",
        "kind": "token",
        "mode": "instant",
        "claimant": "platform",
        "funders": [
            {"funder": "province", "level": "province", "share_bp": 5000},
            {"funder": "city", "level": "city", "share_bp": 3000},
            {"funder": "district", "level": "district", "share_bp": 2000},
        ],
        "budget": {"total_u": None},
        "window": {"grant_ttl_days": 30},
        "subsidy": {"ratio_bp": 10_000},
        "stacking": {"stack_class": "token", "rule": "stack"},
    }
    return {**document, **changes}


@dataclass
class Story:
    """One database and one clock; organisations by slug."""

    database: Database
    clock: SetClock = field(default_factory=lambda: SetClock(NOON_US))
    orgs: dict[str, str] = field(default_factory=dict)

    def org(self, slug: str, wallet_u: int = 0) -> str:
        """Return the organisation's id, adding it with money of its own."""
        if slug not in self.orgs:
            with self.database.session() as session:
                self.orgs[slug] = create_organisation(session, slug, slug, self.clock()).id
        if wallet_u:
            with self.database.session() as session:
                to = open_account(session, wallet(self.orgs[slug]), Rule.DEBITS_WITHIN_CREDITS)
                entry = Entry(Code.TOPUP, account_id(session, BANK), to, wallet_u)
                apply_now(session, Post(new_id("top"), (entry,), self.clock()))
        return self.orgs[slug]

    def programme(self, document: dict[str, Any], fund_u: int = 0) -> Programme:
        """Publish a programme, funded by its funders' shares."""
        from marketplace.vouchers.pools import fund

        with self.database.session() as session:
            made = publish(session, json.dumps(document), "officer", self.clock())
            if fund_u:
                fund(session, new_id("fnd"), made.id, fund_u, self.clock())
        return made

    def grant(
        self, made: Programme, org: str, amount_u: int, contract: str = "", **wish: Any
    ) -> Grant:
        """Apply and approve, by two persons."""
        with self.database.session() as session:
            row = applications.apply(
                session,
                new_id("app"),
                made,
                self.org(org),
                Wish(amount_u, contract, **wish),
                "applicant",
                self.clock(),
            )
            return applications.approve(session, row.id, "officer", self.clock())[0]

    def call(self, org: str, cost_u: int, owner: str = "owner", **options: Any) -> str:
        """Book one call of `cost_u` as the gateway does; returns its id."""
        call = self.held(org, cost_u, owner, **options)
        self.settle(call, cost_u)
        return call.id

    def held(self, org: str, cost_u: int, owner: str = "owner", slug: str = "") -> Call:
        """Hold for a call and leave it open."""
        org_id, owner_id, at_us = self.org(org), self.org(owner), self.clock()
        listing = CallableListing(
            id="lst_test",
            slug=slug or f"{owner}/model",
            kind="model",
            state="listed",
            tier="park",
            owner_org=owner_id,
            version=1,
            release_id=None,
            context_length=None,
            max_output_tokens=None,
            until_us=None,
            deprecated_at_us=None,
        )
        with self.database.session() as session:
            names = (CLEARING, OVERRUN, ROUNDING, FREE_COST, FEE)
            books = Books(*(account_id(session, name) for name in names))
            wallet_id = open_account(session, wallet(org_id), Rule.DEBITS_WITHIN_CREDITS)
            payers = ladder_for(session, org_id, listing, wallet_id, at_us)
            owner_account = open_account(session, owner_unsettled(owner_id), Rule.PROJECTION)
            fee_bp = fee_at(session, listing.slug, owner_id, at_us).fee_bp
            accounts = (*(step.account_id for step in payers.ladder.steps), wallet_id)
            call = Call(
                id=new_id("gen"),
                key=cast(Any, SimpleNamespace(id="key", org_id=org_id, project_id="")),
                record=cast(
                    Any,
                    SimpleNamespace(
                        listing=listing,
                        price_version_id="prc",
                        components=PRICE,
                        components_text=canonical(PRICE)[0],
                        owner_account_id=owner_account,
                        fee_bp=fee_bp,
                    ),
                ),
                payer=cast(
                    Any,
                    SimpleNamespace(
                        ladder=payers.ladder,
                        accounts=accounts,
                        sinks=payers.sinks,
                        built_at_us=at_us,
                    ),
                ),
                books=books,
                input_tokens=cost_u,
                choices=1,
                max_tokens=0,
                started_at_us=at_us,
                streamed=False,
                request_sha256="0" * 64,
                endpoint=cast(Any, SimpleNamespace(id="ept")),
            )
            apply_now(session, call.hold(600))
        return call

    def settle(self, call: Call, cost_u: int) -> None:
        """End a held call at `cost_u`."""
        at_us = self.clock()
        used = Buckets(cost_u, 0, 0, 0, 0)
        with self.database.session() as session:
            bill = call.settle(used, "{}", "provider", "ok", at_us)
            apply_now(session, bill.operation(call, call.id, at_us))

    def balance(self, code: str) -> int:
        """Return a bounded account's balance."""
        with self.database.reading() as session:
            return balance_u(session, code)

    def journal(self, code: str) -> int:
        """Return credits less debits of any account, from the journal."""
        with self.database.reading() as session:
            return journal_balance_u(session, code)

    def days(self, count: int) -> None:
        """Let days pass."""
        self.clock.advance(count * DAY_US)

    def check(self) -> None:
        """Assert that the ledger verifies and that the vouchers' own invariants hold."""
        assert verify(self.database).problems == []
        with self.database.reading() as session:
            assert prove(session) == []
