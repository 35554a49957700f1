"""A small economy on a real ledger, beside a model of it that is kept by hand.

Every step goes through the house's own functions (publish, issue, ladder, call, refund, lapse, claim) and
through plain arithmetic (`ledger_model`), written from the published rules. Balances, caps and budgets are
small, so that a random walk soon finds an empty pool, a full cap and an exhausted grant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from itertools import count
from typing import Any, ClassVar

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from support.ledger_model import (
    FEE_BP,
    CallModel,
    GrantModel,
    LinkModel,
    ReserveModel,
    Shares,
    related,
)
from support.ledger_world import World

from catalog.ground.database import Database
from catalog.ground.errors import PaymentRequired, TokenMartError
from catalog.ground.ids import ulid
from catalog.listings.callable import CallableListing
from marketplace.gateway.money import Books, Call
from marketplace.gateway.records import EndpointRecord, KeyRecord, ListingRecord, OrgLadder
from marketplace.ledger.accounts import account_id, apply_now, open_account, take_control
from marketplace.ledger.chart import (
    BANK,
    Code,
    Rule,
    owner_available,
    owner_paying,
    owner_unsettled,
    pool,
    wallet,
)
from marketplace.ledger.operations import (
    Available,
    Done,
    Entry,
    Hold,
    Leg,
    Operation,
    Outcome,
    Post,
    Rehold,
    Release,
)
from marketplace.ledger.sweep import expired_holds
from marketplace.members.tables import Organisation
from marketplace.prices.components import Buckets, Components, canonical
from marketplace.vouchers.caps import Against
from marketplace.vouchers.granting import Order, caps_for, issue_grants, sized
from marketplace.vouchers.pools import fund, funders_of
from marketplace.vouchers.programmes import publish
from marketplace.vouchers.rules import load
from marketplace.vouchers.service import ladder_for, quota_window
from marketplace.vouchers.split import FunderSplit
from marketplace.vouchers.tables import Programme

START = 1_780_000_000_000_000
"""In May 2026: the machine never leaves the year of its caps."""
TTL_S = 120
PRICE = Components(input_u_per_m=1_000_000, output_u_per_m=1_000_000)
"""One micro-yuan a token."""
FUNDERS = (("gd", "province", 5000), ("sz", "city", 3000), ("nanshan", "district", 2000))
BUDGET_U = 200
CAP_U = 60
GROUP_CAP_U = 70
NANSHAN_CAP_U = 16
ORGS = ("a", "b")
PARTIES = ("a", "b", "maker", "holding", "kin")
OWNERS = ("maker", "a", "b")
"""Who may be paid out: listing owners, and callers that are reimbursed."""
FREE_CALLS = 2
"""A day and organisation."""


def _programme(code: str, ratio_bp: int, stacking: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "code": code, "version": 1, "title_zh": code, "title_en": code, "kind": "token",
        "mode": "instant", "claimant": "platform",
        "funders": [{"funder": f, "level": lv, "share_bp": bp} for f, lv, bp in FUNDERS],
        "window": {"grant_ttl_days": 3},
        "subsidy": {"ratio_bp": ratio_bp}, "stacking": stacking,
    } | more  # fmt: skip


Rows = dict[str, tuple[int, ...]]
"""By account code: pending debits, posted debits, pending credits, posted credits."""
_TABLES = (
    "ledger_transfer", "usage_event", "ledger_hold", "ledger_account", "voucher_grant", "grant_shift",
    "voucher_cap_use", "refund", "refund_leg", "claim", "claim_line", "payout_accrual", "payout_day",
    "payout_hold", "payout", "payout_file", "payout_statement", "adjustment", "appropriation",
    "programme", "price_version",
)  # fmt: skip


class Economy:
    """One story in a database that other stories share: every name carries the story's own mark."""

    RATIOS: ClassVar = {"city": 5000, "rival": 3000, "district": 3333, "later": 2000}

    def __init__(
        self, database: Database, world: World, mark: str = "", now: int = START, scale: int = 1
    ) -> None:
        """Open the story `mark` (a new one without it); budgets and caps are `scale` times as large."""
        self.database, self.world, self.scale = database, world, scale
        self.mark = mark or ulid().lower()[-10:]
        self.now = self.began = now
        self.number = count(1)
        self.books = self._books()
        self.wallets = dict.fromkeys(ORGS, 0)
        self.links: list[LinkModel] = []
        self.shares = Shares()
        self.grants: list[GrantModel] = []
        self.calls: list[CallModel] = []
        self.reserves: list[ReserveModel] = []
        self.repeatable: list[tuple[str, Callable[[], object]]] = []
        self.programmes: dict[str, Programme] = {}
        with database.session() as session:
            for org in PARTIES if not mark else ():
                row = Organisation(
                    id=self.org(org), slug=self.org(org), name=org, created_at_us=self.now
                )
                session.add(row)
            session.flush()
            self.wallet_ids = {
                org: open_account(session, wallet(self.org(org)), Rule.DEBITS_WITHIN_CREDITS)
                for org in ORGS
            }
            for org in (*ORGS, "maker", "kin"):
                open_account(session, owner_unsettled(self.org(org)), Rule.PROJECTION)
            for document in self._documents():
                made = publish(session, json.dumps(document), "officer", self.now)
                if not mark and document["kind"] != "free_quota":
                    fund(session, self.tx("fund"), made.id, BUDGET_U * scale, self.now)
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
        mark, scale = self.mark, self.scale
        budget = {"budget": {"total_u": BUDGET_U * scale}}
        best = {"stack_class": f"city-{mark}", "rule": "better_of"}
        cap = [{"per": "org", "amount_u": CAP_U * scale, "basis": "issued"}]
        group_u, part_u = GROUP_CAP_U * scale, NANSHAN_CAP_U * scale
        group = {"per": "group", "group": f"g-{mark}", "amount_u": group_u, "basis": "used"}
        part = {"per": "funder_org", "funder": "nanshan", "amount_u": part_u}
        back: dict[str, Any] = {"clawback": {"months": 36}, **budget}
        yield _programme(f"city-{mark}", 5000, best, caps=cap, **budget)
        yield _programme(f"rival-{mark}", 3000, best, caps=[group], payout_on="usage", **back)
        stack = {"stack_class": f"d-{mark}", "rule": "stack"}
        yield _programme(f"district-{mark}", 3333, stack, caps=[group, part], **back)
        later = {"stack_class": f"later-{mark}", "rule": "stack"}
        demander = {"mode": "reimburse", "claimant": "demander"}
        yield _programme(f"later-{mark}", 2000, later, **demander, **back)
        quota = {"unit": "REQ:free", "amount": FREE_CALLS, "recurrence": "day"}
        free = {"kind": "free_quota", "quota": quota, "budget": {"total_u": None}}
        yield _programme(f"free-{mark}", 10_000, {"stack_class": f"free-{mark}"}, **free)

    def org(self, name: str) -> str:
        return f"{name}_{self.mark}"

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
        self.again("top up", post)

    def issue(self, org: str, code: str, asked: int) -> GrantModel | None:
        """Issue what caps and pools leave room for; None when that is nothing."""
        made = self.programmes[code]
        sealed = load(made.rules)
        against = Against(self.org(org))
        with self.database.session() as session:
            take_control(session)
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
        self.repeatable.append(("issue", lambda: self._issue_again(order)))
        return kept

    def _issue_again(self, order: Order) -> None:
        with self.database.session() as session:
            issue_grants(session, order)

    def room(self, org: str, code: str, asked: int, rows: Rows) -> int:
        """Return how much of `asked` the published caps and what is in the pools leave room for."""
        made, mine = self.programmes[code], [g for g in self.grants if g.org == org]
        split, places = self.split(code)
        if code == "city":
            asked = min(asked, CAP_U - sum(g.amount for g in mine if g.code == "city"))
        if code in ("rival", "district"):
            group = [g for g in mine if g.code in ("rival", "district")]
            asked = min(asked, GROUP_CAP_U - sum(g.amount - g.returned for g in group))
        if code == "district":
            nanshan = sum(split.drawn(g.amount)[2] for g in mine if g.code == code)
            asked = min(asked, (NANSHAN_CAP_U - nanshan) * 10_000 // 2000)
        pools = [_left(rows[pool(made.id, funder_id)]) for funder_id in places]
        for left, (_, _, share_bp) in zip(pools, FUNDERS, strict=True):
            asked = min(asked, left * 10_000 // share_bp)
        while any(part > left for part, left in zip(split.drawn(asked), pools, strict=True)):
            asked -= 1
        return asked

    def split(self, code: str) -> tuple[FunderSplit, tuple[str, ...]]:
        """Return how a programme's grants are split, and its funders in that order."""
        with self.database.reading() as session:
            parts = funders_of(session, self.programmes[code].id)
        found = FunderSplit([(0, tuple((p.funder_id, p.share_bp) for p in parts))])
        return found, found.funders

    # --- calls ----------------------------------------------------------------------------------------

    def payers(
        self, org: str, owner: str, *, free: bool = False
    ) -> tuple[ListingRecord, OrgLadder]:
        """Return what the gateway looks up for a call of `org` to a listing of `owner`."""
        listing = _filled(
            CallableListing, id="lst", slug=f"{owner}/mini", kind="model", owner_org=self.org(owner)
        )
        with self.database.session() as session:
            wallet_id = self.wallet_ids[org]
            payers = ladder_for(session, self.org(org), listing, wallet_id, self.now, free=free)
            owner_account = account_id(session, owner_unsettled(self.org(owner)))
        accounts = tuple(step.account_id for step in payers.ladder.steps)
        record = _filled(
            ListingRecord, listing=listing, price_version_id="prc", components=PRICE,
            components_text=canonical(PRICE)[0], owner_account_id=owner_account, fee_bp=FEE_BP,
        )  # fmt: skip
        accounts = (*accounts, self.wallet_ids[org])
        return record, OrgLadder(payers.ladder, accounts, payers.sinks, 2**62, self.now)

    def call(
        self, org: str, record: ListingRecord, payer: OrgLadder, tokens: int, name: str = ""
    ) -> Call:
        """Return a call that may use `tokens`, not yet held."""
        return Call(
            id=name or self.tx("gen"), key=_filled(KeyRecord, id="key", org_id=self.org(org)), record=record,
            payer=payer, books=self.books, input_tokens=0, choices=1, max_tokens=tokens,
            started_at_us=self.now, streamed=False, request_sha256="",
            endpoint=EndpointRecord(id="end", url="", model=""),
        )  # fmt: skip

    def admit(self, org: str, owner: str, tokens: int, *, free: bool = False) -> CallModel | None:
        """Hold a call of `tokens` to a listing of `owner`; None when it is refused."""
        call = self.call(org, *self.payers(org, owner, free=free), tokens)
        again = replace(call).hold(TTL_S)
        try:
            self.world.do(call.hold(TTL_S))
        except PaymentRequired:
            return None
        kept = self._kept(call, org, owner, "open", free=free)
        # Ids of calls are made by the house: nobody holds again for one that has left the journal.
        self.repeatable.append(("hold", lambda: None if kept.archived else self.world.do(again)))
        return kept

    def _kept(
        self, call: Call, org: str, owner: str, state: str, *, free: bool = False
    ) -> CallModel:
        """Keep a call and what its plan takes of whom."""
        assert call.plan is not None
        by_account = {grant.account: grant for grant in self.grants}
        legs = [] if free else call.plan.legs
        kept = CallModel(
            call,
            org,
            owner,
            [by_account[leg.account_id] for leg in legs],
            [leg.amount for leg in legs],
            call.plan.wallet_hold_u,
            blocked=related(self.org(org), self.org(owner), self.links, self.now),
            quota=free,
            cost=call.plan.cost_u,
            state=state,
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
        self.again("settle", operation, kept)
        parts = self.parts(kept, tokens)
        for grant, held in zip(kept.grants, kept.held, strict=True):
            grant.held -= held
        self._paid(kept, tokens, *parts)

    def parts(self, kept: CallModel, tokens: int) -> tuple[list[int], int]:
        """Return what each grant and the wallet pay of a call that used `tokens`."""
        rest = min(tokens, kept.cost)
        own, draws = 0, []
        for grant, held in zip(kept.grants, kept.held, strict=True):
            draw = min(rest * self.RATIOS[grant.code] // 10_000, held)
            draws.append(draw)
            rest -= draw
            own += draw * (grant.code == "later")
        return draws, 0 if kept.quota else rest + own

    def _paid(self, kept: CallModel, tokens: int, draws: list[int], wallet_u: int) -> None:
        kept.billed, kept.ended_at = tokens, self.now
        kept.posted, kept.wallet_posted = draws, wallet_u
        for grant, draw in zip(kept.grants, draws, strict=True):
            grant.used += draw
        self.wallets[kept.org] -= wallet_u
        kept.cost, kept.state = min(tokens, kept.cost), "settled"

    def again(self, what: str, operation: Operation, kept: CallModel | None = None) -> None:
        """Let an operation be sent again: it changes nothing, and says so as long as it is known."""

        def repeated() -> Outcome | None:
            try:
                outcome = self.world.do(operation)
            except TokenMartError:
                assert kept is not None
                assert kept.archived
                return None
            assert getattr(outcome, "changed", None) is False
            return outcome

        self.repeatable.append((what, repeated))

    def free_calls_left(self, org: str) -> int:
        """Return how many calls of today's free quota are neither running nor answered."""
        today, _ = quota_window("day", self.now)
        spent = [
            call
            for call in self.calls
            if (call.org, call.quota) == (org, True)
            and quota_window("day", call.call.started_at_us)[0] == today
            and (call.state == "open" or (call.state == "settled" and call.refunded < call.cost))
        ]
        return FREE_CALLS - len(spent)

    # --- reserves, and calls that are charged beside them ---------------------------------------------

    def aside(self, account: int) -> int:
        """Return what reserves hold of an account."""
        return sum(reserve.amount for reserve in self.reserves if reserve.account == account)

    def wallet_left(self, org: str) -> int:
        """Return what a wallet has beside all holds."""
        held = sum(c.wallet_held for c in self.calls if (c.org, c.state) == (org, "open"))
        return self.wallets[org] - held - self.aside(self.wallet_ids[org])

    def left(self, account: int) -> int:
        """Return what a payer has beside all holds, by the model."""
        for org, wallet_id in self.wallet_ids.items():
            if account == wallet_id:
                return self.wallet_left(org)
        return next(grant.left for grant in self.grants if grant.account == account)

    def put_aside(self, org: str, grant: GrantModel | None, amount: int) -> ReserveModel | None:
        """Hold so much of a grant or the wallet for calls to come; None when there is less."""
        account = grant.account if grant else self.wallet_ids[org]
        leg = Leg(account, amount, self.books.clearing)

        def decide(_available: Available) -> tuple[tuple[Leg, ...], str]:
            return (leg,), "{}"

        name, until_us = self.tx("res"), self.now + TTL_S * 1_000_000
        hold = Hold(name, self.org(org), (account,), decide, self.now, until_us)
        try:
            self.world.do(hold)
        except PaymentRequired:
            return None
        return self._aside(ReserveModel(name, org, grant, account, amount))

    def _aside(self, reserve: ReserveModel) -> ReserveModel:
        self.reserves.append(reserve)
        if reserve.grant is not None:
            reserve.grant.held += reserve.amount
        return reserve

    def _put_back(self, reserve: ReserveModel) -> None:
        self.reserves.remove(reserve)
        if reserve.grant is not None:
            reserve.grant.held -= reserve.amount

    def smaller(self, reserve: ReserveModel, amount: int) -> Rehold:
        """Return the operation that keeps `amount` of a reserve, under a new name."""
        until_us = self.now + TTL_S * 1_000_000
        org = self.org(reserve.org)
        return Rehold(reserve.tx, self.tx("res"), org, amount, self.now, until_us)

    def reheld(self, reserve: ReserveModel, operation: Rehold) -> None:
        """Take note that it was done."""
        self._put_back(reserve)
        if operation.amount:
            made = ReserveModel(
                operation.into, reserve.org, reserve.grant, reserve.account, operation.amount
            )
            self._aside(made)

    def rehold(self, reserve: ReserveModel, amount: int) -> None:
        """Keep so much of a reserve."""
        operation = self.smaller(reserve, amount)
        assert self.world.do(operation) == Done(changed=True)
        self.reheld(reserve, operation)
        self.again("rehold", operation)

    def plan(self, org: str, owner: str, tokens: int) -> CallModel | None:
        """Plan a call that holds nothing, with all that is there beside calls; None when it is refused."""
        call = self.call(org, *self.payers(org, owner), tokens)
        there = {
            account: self.world.left(account) + self.aside(account) for account in call.accounts
        }
        try:
            call.decide(there)
        except PaymentRequired:
            return None
        return self._kept(call, org, owner, "planned")

    def charge(
        self, kept: CallModel, tokens: int, reholds: Sequence[tuple[ReserveModel, int]] = ()
    ) -> bool:
        """Charge a planned call that used `tokens`, shrinking reserves; whether it was paid."""
        self.now += 1
        bill = kept.call.settle(Buckets(0, 0, 0, tokens, 0), "{}", "provider", "ok", self.now)
        smaller = tuple(self.smaller(reserve, amount) for reserve, amount in reholds)
        operation = bill.charge(kept.call, smaller)
        (outcome,) = self.world.apply(operation)
        for (reserve, _), rehold in zip(reholds, smaller, strict=True):
            self.reheld(reserve, rehold)
            self.again("rehold", rehold)
        if isinstance(outcome, PaymentRequired):
            return False
        assert outcome == Done(changed=True)
        self._paid(kept, tokens, *self.parts(kept, tokens))
        # Ids of calls are made by the house: nobody charges again for one that has left the journal.
        self.repeatable.append(("hold", lambda: kept.archived or self.world.do(operation)))
        return True

    # --- calls and reserves that nobody pays for ------------------------------------------------------

    def end_unpaid(self, kept: CallModel, *, expired: bool) -> None:
        """Void a call, or let the sweeper find its hold."""
        if expired:
            assert kept.call.id in self.sweep()
        else:
            self._released([Release(kept.call.id, self.now)])

    def sweep(self) -> set[str]:
        """Let every hold of this story expire; returns what they were called."""
        self.now += TTL_S * 1_000_000
        with self.database.reading() as session:
            overdue = expired_holds(session, self.now, limit=10_000)
        mine = {c.call.id for c in self.calls} | {reserve.tx for reserve in self.reserves}
        return self._released([release for release in overdue if release.tx in mine])

    def _released(self, operations: list[Release]) -> set[str]:
        self.world.apply(*operations)
        ended = {operation.tx for operation in operations}
        for other in self.calls:
            if other.call.id in ended:
                assert other.state == "open"
                other.state = "unpaid"
                for grant, held in zip(other.grants, other.held, strict=True):
                    grant.held -= held
        for reserve in [r for r in self.reserves if r.tx in ended]:
            self._put_back(reserve)
        for operation in operations:
            self.again("release", operation)
        return ended

    # --- what the model expects -----------------------------------------------------------------------

    def expected(
        self, org: str, owner: str, cost: int, *, aside: bool = False
    ) -> tuple[list[tuple[int, int]], int]:
        """Return the draws (account, amount) and the wallet's part, by the published order.

        With `aside`, what reserves hold is there too.
        """

        def left(grant: GrantModel) -> int:
            return grant.left + (self.aside(grant.account) if aside else 0)

        live = sorted(
            (g for g in self.grants if g.org == org and g.expires_at > self.now and left(g) > 0),
            key=lambda g: (g.expires_at, g.amount, g.id),
        )
        if related(self.org(org), self.org(owner), self.links, self.now):
            live = []
        winner = next((c for c in ("city", "rival") if any(g.code == c for g in live)), "")
        rest, own = cost, 0
        draws: list[tuple[int, int]] = []
        taken = False
        for code in (winner, "rival" if winner == "city" else "", "district", "later"):
            for grant in live:
                if grant.code != code or (taken and code in ("city", "rival")):
                    continue
                amount = min(rest * self.RATIOS[code] // 10_000, left(grant))
                if amount:
                    draws.append((grant.account, amount))
                    taken = taken or code in ("city", "rival")
                    rest -= amount
                    own += amount * (code == "later")
        return draws, rest + own

    def totals(self) -> Rows:
        """Return every account's row."""
        with self.database.reading() as session:
            rows = session.connection().execute(
                text(
                    "SELECT code, dr_pending, dr_posted, cr_pending, cr_posted FROM ledger_account"
                )
            )
            return {row[0]: tuple(row[1:]) for row in rows}

    def state(self) -> tuple[Rows, tuple[int, ...]]:
        """Return what nothing may change that changes nothing: balances, and how many rows there are."""
        counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in _TABLES)
        with self.database.reading() as session:
            found = session.connection().execute(text(f"SELECT {counts}")).one()
        return self.totals(), tuple(found)

    def differences(self) -> list[str]:
        """Return where the ledger and the model disagree."""
        rows = self.totals()
        found = []
        for org, expected in self.wallets.items():
            held = expected - self.wallet_left(org)
            pending, debits, _, credits = rows[wallet(self.org(org))]
            if (credits - debits - pending, pending) != (expected - held, held):
                found.append(f"wallet {org}: {rows[wallet(self.org(org))]}, not {expected}, {held}")
        for grant in self.grants:
            pending, debits, _, credits = rows[f"grant:{grant.id}"]
            if (credits - debits - pending, pending) != (grant.left, grant.held):
                found.append(f"{grant}: {rows[f'grant:{grant.id}']}")
        for org in OWNERS:
            told = [
                _left(rows.get(name(self.org(org)), (0, 0, 0, 0)))
                for name in (owner_available, owner_paying)
            ]
            if told != [self.shares.available(org), self.shares.paying[org]]:
                found.append(f"{org}: {told} available and paying, not {self.shares.flows}")
        return found


def _left(row: tuple[int, ...]) -> int:
    pending, debits, _, credits = row
    return credits - debits - pending


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
