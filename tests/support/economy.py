"""A small economy on a real ledger, beside a model of it that is kept by hand.

Every step goes through the house's own functions (publish, issue, ladder, call, refund, lapse, claim) and
through plain arithmetic in `Model`, written from the published rules. Balances, caps and budgets are
small, so that a random walk soon finds an empty pool, a full cap and an exhausted grant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any, ClassVar

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from support.ledger_world import World

from catalog.ground.database import Database
from catalog.ground.errors import PaymentRequired
from catalog.ground.ids import ulid
from catalog.listings.offer import CallableListing
from marketplace.gateway.directory import EndpointRecord, KeyRecord, ListingRecord, OrgLadder
from marketplace.gateway.money import Bill, Books, Call
from marketplace.ledger.accounts import account_id, apply_now, open_account
from marketplace.ledger.chart import BANK, Code, Rule, owner_unsettled, wallet
from marketplace.ledger.operations import Entry, Operation, Outcome, Post, Release
from marketplace.ledger.sweep import expired_holds
from marketplace.members.tables import Organisation
from marketplace.prices.components import Buckets, Components, canonical
from marketplace.vouchers.caps import Against
from marketplace.vouchers.granting import Order, caps_for, issue_grants, sized
from marketplace.vouchers.pools import fund
from marketplace.vouchers.programmes import publish
from marketplace.vouchers.rules import load
from marketplace.vouchers.service import ladder_for
from marketplace.vouchers.tables import Programme

START = 1_780_000_000_000_000
"""In May 2026: the machine never leaves the year of its caps."""
TTL_S = 120
PRICE = Components(input_u_per_m=1_000_000, output_u_per_m=1_000_000)
"""One micro-yuan a token."""
FUNDERS = (("gd", "province", 5000), ("sz", "city", 3000), ("nanshan", "district", 2000))
BUDGET_U = 200
CAP_U = 60
ORGS = ("a", "b")
FEE_BP = 500


def _programme(code: str, ratio_bp: int, stacking: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "code": code, "version": 1, "title_zh": code, "title_en": code, "kind": "token",
        "mode": "instant", "claimant": "platform",
        "funders": [{"funder": f, "level": lv, "share_bp": bp} for f, lv, bp in FUNDERS],
        "budget": {"total_u": BUDGET_U}, "window": {"grant_ttl_days": 3},
        "subsidy": {"ratio_bp": ratio_bp}, "stacking": stacking,
    } | more  # fmt: skip


@dataclass
class GrantModel:
    """A voucher as the model keeps it. `used` is what calls have drawn less what was refunded."""

    id: str
    account: int
    code: str
    org: str
    amount: int
    expires_at: int
    held: int = 0
    used: int = 0
    returned: int = 0

    @property
    def left(self) -> int:
        return self.amount - self.held - self.used - self.returned


@dataclass
class CallModel:
    """A call: its legs as (grant or None for the wallet, held, posted, refunded)."""

    call: Call
    org: str
    grants: list[GrantModel]
    held: list[int]
    wallet_held: int
    cost: int = 0
    posted: list[int] = field(default_factory=list)
    wallet_posted: int = 0
    refunded: int = 0
    wallet_refunded: int = 0
    legs_refunded: list[int] = field(default_factory=list)
    bill: Bill | None = None
    state: str = "open"


class Economy:
    """One story in a database that other stories share: every name carries the story's own mark."""

    RATIOS: ClassVar = {"city": 5000, "rival": 3000, "district": 3333, "later": 2000}

    def __init__(self, database: Database, world: World, mark: str = "", now: int = START) -> None:
        self.database, self.world = database, world
        self.mark = mark or ulid().lower()[-10:]
        self.now = now
        self.number = count(1)
        self.books = self._books()
        self.wallets = dict.fromkeys(ORGS, 0)
        self.grants: list[GrantModel] = []
        self.calls: list[CallModel] = []
        self.repeatable: list[tuple[str, Any]] = []
        self.programmes: dict[str, Programme] = {}
        with database.session() as session:
            for org in (*ORGS, "maker") if not mark else ():
                row = Organisation(
                    id=self.org(org), slug=self.org(org), name=org, created_at_us=self.now
                )
                session.add(row)
            session.flush()
            self.wallet_ids = {
                org: open_account(session, wallet(self.org(org)), Rule.DEBITS_WITHIN_CREDITS)
                for org in ORGS
            }
            for org in (*ORGS, "maker"):
                open_account(session, owner_unsettled(self.org(org)), Rule.PROJECTION)
            for document in self._documents():
                made = publish(session, json.dumps(document), "officer", self.now)
                if not mark:
                    fund(session, self.tx("fund"), made.id, BUDGET_U, self.now)
                self.programmes[document["code"].partition("-")[0]] = made

    def _books(self) -> Books:
        with self.database.reading() as session:
            names = {
                "clearing": "clearing", "overrun": "platform:overrun", "fee": "platform:fee",
                "rounding": "platform:rounding", "free_cost": "platform:free_cost",
            }  # fmt: skip
            known = {f.name for f in fields(Books)}
            return Books(**{k: account_id(session, v) for k, v in names.items() if k in known})

    def _documents(self) -> Iterable[dict[str, Any]]:
        mark = self.mark
        best = {"stack_class": f"city-{mark}", "rule": "better_of"}
        cap = [{"per": "org", "amount_u": CAP_U, "basis": "issued"}]
        yield _programme(f"city-{mark}", 5000, best, caps=cap)
        yield _programme(f"rival-{mark}", 3000, best)
        yield _programme(f"district-{mark}", 3333, {"stack_class": f"d-{mark}", "rule": "stack"})
        later = {"stack_class": f"later-{mark}", "rule": "stack"}
        yield _programme(f"later-{mark}", 2000, later, mode="reimburse", claimant="demander")

    def org(self, name: str) -> str:
        return f"{name}-{self.mark}"

    def tx(self, what: str) -> str:
        return f"{what}-{self.mark}-{next(self.number)}"

    # --- money comes in -------------------------------------------------------------------------------

    def top_up(self, org: str, amount: int) -> None:
        with self.database.session() as session:
            bank = account_id(session, BANK)
            entry = Entry(Code.TOPUP, bank, self.wallet_ids[org], amount)
            post = Post(self.tx("top"), (entry,), self.now)
            apply_now(session, post)
        self.wallets[org] += amount
        self.repeatable.append(("ledger", post))

    def issue(self, org: str, code: str, asked: int) -> GrantModel | None:
        """Issue what caps and pools leave room for; None when that is nothing."""
        made = self.programmes[code]
        sealed = load(made.rules)
        against = Against(self.org(org))
        with self.database.session() as session:
            found = sized(session, made, sealed, asked, {}, against, self.now)
            if not found.amount_u:
                return None
            caps = caps_for(sealed, {}, against, self.now)
            order = Order(self.tx("issue"), made, against.org, found.amount_u, self.now, caps=caps)
            (grant,) = issue_grants(session, order)
            kept = GrantModel(
                grant.id, grant.account_id, code, org, grant.amount, grant.expires_at_us
            )
        self.grants.append(kept)
        self.repeatable.append(("issue", order))
        return kept

    # --- calls ----------------------------------------------------------------------------------------

    def payers(self, org: str, owner: str) -> tuple[ListingRecord, OrgLadder]:
        """Return what the gateway looks up for a call of `org` to a listing of `owner`."""
        listing = _filled(
            CallableListing, id="lst", slug=f"{owner}/mini", kind="model", owner_org=self.org(owner)
        )
        with self.database.session() as session:
            payers = ladder_for(session, self.org(org), listing, self.wallet_ids[org], self.now)
            owner_account = account_id(session, owner_unsettled(self.org(owner)))
        accounts = tuple(step.account_id for step in payers.ladder.steps)
        record = _filled(
            ListingRecord, listing=listing, price_version_id="prc", components=PRICE,
            components_text=canonical(PRICE)[0], owner_account_id=owner_account, fee_bp=FEE_BP,
        )  # fmt: skip
        accounts = (*accounts, self.wallet_ids[org])
        return record, OrgLadder(payers.ladder, accounts, payers.sinks, 2**62, self.now)

    def call(self, org: str, record: ListingRecord, payer: OrgLadder, tokens: int) -> Call:
        """Return a call that may use `tokens`, not yet held."""
        return Call(
            id=self.tx("gen"), key=_filled(KeyRecord, id="key", org_id=self.org(org)), record=record,
            payer=payer, books=self.books, input_tokens=0, choices=1, max_tokens=tokens,
            started_at_us=self.now, streamed=False, request_sha256="",
            endpoint=_filled(EndpointRecord, id="end"),
        )  # fmt: skip

    def admit(self, org: str, owner: str, tokens: int) -> CallModel | None:
        """Hold a call of `tokens` to a listing of `owner`; None when it is refused."""
        call = self.call(org, *self.payers(org, owner), tokens)
        operation = call.hold(TTL_S)
        try:
            self.world.do(operation)
        except PaymentRequired:
            return None
        assert call.plan is not None
        by_account = {grant.account: grant for grant in self.grants}
        kept = CallModel(
            call,
            org,
            [by_account[leg.account_id] for leg in call.plan.legs],
            [leg.amount for leg in call.plan.legs],
            call.plan.wallet_hold_u,
            cost=call.plan.cost_u,
        )
        kept.posted = [0] * len(kept.held)
        kept.legs_refunded = [0] * len(kept.held)
        self.calls.append(kept)
        return kept

    def settle(self, kept: CallModel, tokens: int) -> None:
        """End a call that used `tokens`, by the machine's operation and by plain arithmetic."""
        self.now += 1
        bill = kept.call.settle(Buckets(0, 0, 0, tokens, 0), "{}", "provider", "ok", self.now)
        operation = bill.operation(kept.call, kept.call.id, self.now)
        self.world.do(operation)
        self.repeatable.append(("ledger", operation))
        rest = cost = min(tokens, kept.cost)
        own = 0
        for index, (grant, held) in enumerate(zip(kept.grants, kept.held, strict=True)):
            draw = min(rest * self.RATIOS[grant.code] // 10_000, held)
            kept.posted[index] = draw
            rest -= draw
            own += draw * (grant.code == "later")
            grant.held -= held
            grant.used += draw
        kept.wallet_posted = rest + own
        self.wallets[kept.org] -= kept.wallet_posted
        kept.cost, kept.state, kept.bill = cost, "settled", bill

    def end_unpaid(self, kept: CallModel, *, expired: bool) -> None:
        """Void a call, or let the sweeper find its hold."""
        if expired:
            self.now += TTL_S * 1_000_000
            with self.database.reading() as session:
                overdue = expired_holds(session, self.now, limit=10_000)
            operations: list[Operation] = [
                r for r in overdue if r.tx in {c.call.id for c in self.calls}
            ]
            assert kept.call.id in {r.tx for r in operations}  # type: ignore[union-attr]
        else:
            operations = [Release(kept.call.id, self.now)]
        self.world.apply(*operations)
        ended = {operation.tx for operation in operations}
        for other in self.calls:
            if other.call.id in ended:
                assert other.state == "open"
                other.state = "unpaid"
                for grant, held in zip(other.grants, other.held, strict=True):
                    grant.held -= held
        self.repeatable += [("ledger", operation) for operation in operations]

    # --- what the model expects -----------------------------------------------------------------------

    def expected(self, org: str, owner: str, cost: int) -> tuple[list[tuple[int, int]], int]:
        """Return the draws (account, amount) and the wallet's part, by the published order."""
        live = sorted(
            (g for g in self.grants if g.org == org and g.expires_at > self.now and g.left > 0),
            key=lambda g: (g.expires_at, g.amount, g.id),
        )
        if org == owner:
            live = []
        winner = next((c for c in ("city", "rival") if any(g.code == c for g in live)), "")
        rest, own = cost, 0
        draws: list[tuple[int, int]] = []
        taken = False
        for code in (winner, "rival" if winner == "city" else "", "district", "later"):
            for grant in live:
                if grant.code != code or (taken and code in ("city", "rival")):
                    continue
                amount = min(rest * self.RATIOS[code] // 10_000, grant.left)
                if amount:
                    draws.append((grant.account, amount))
                    taken = taken or code in ("city", "rival")
                    rest -= amount
                    own += amount * (code == "later")
        return draws, rest + own

    def totals(self) -> dict[str, tuple[int, int, int, int]]:
        """Return every account's row."""
        with self.database.reading() as session:
            rows = session.connection().execute(
                text(
                    "SELECT code, dr_pending, dr_posted, cr_pending, cr_posted FROM ledger_account"
                )
            )
            return {row[0]: tuple(row[1:]) for row in rows}

    def differences(self) -> list[str]:
        """Return where the ledger and the model disagree."""
        rows = self.totals()
        found = []
        for org, expected in self.wallets.items():
            held = sum(c.wallet_held for c in self.calls if c.org == org and c.state == "open")
            pending, debits, _, credits = rows[wallet(self.org(org))]
            if (credits - debits - pending, pending) != (expected - held, held):
                found.append(f"wallet {org}: {rows[wallet(self.org(org))]}, not {expected}, {held}")
        for grant in self.grants:
            pending, debits, _, credits = rows[f"grant:{grant.id}"]
            if (credits - debits - pending, pending) != (grant.left, grant.held):
                found.append(f"{grant}: {rows[f'grant:{grant.id}']}")
        return found

    def repeat(self, what: str, operation: Any) -> Outcome | None:
        """Do something again that has been done."""
        if what == "ledger":
            return self.world.do(operation)
        with self.database.session() as session:
            issue_grants(session, operation)
        return None


def unhurried(database: Database) -> None:
    """Do without durability on this database's pooled connections: a test's data may die with it."""

    def cheap(connection: Any, _record: object) -> None:
        if database.kind == "sqlite":
            connection.execute("PRAGMA synchronous=OFF")
        else:
            connection.execute("SET synchronous_commit=off")
            connection.commit()

    sqlalchemy_event.listen(database.engine, "connect", cheap)


def _filled(cls: Any, **known: Any) -> Any:
    """Make a record, with something harmless in the fields that a ledger does not care for."""
    blank = {"int": 0, "str": "", "bool": True}
    values = {
        f.name: known.get(f.name, blank.get(str(f.type), () if "tuple" in str(f.type) else None))
        for f in fields(cls)
    }
    return cls(**values)
