"""What vouchers pay of an invoice, and its entry in the journal.

The rules are those of a call: the same conditions, the same ladder, the same order. Only the vouchers of
the contract's own application take part, and no wallet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlmodel import Session

from catalog.ground.clock import SECOND_US
from catalog.ground.errors import Conflict
from marketplace.ledger.accounts import account_id, apply_now, open_account
from marketplace.ledger.chart import CLEARING, Code, Rule, owner_unsettled, reimburse_due
from marketplace.ledger.operations import Available, Entry, Hold, Leg, Settle
from marketplace.ledger.reading import totals
from marketplace.ledger.tables import UsageEvent
from marketplace.members.tables import Organisation
from marketplace.prices.components import Components, canonical
from marketplace.vouchers.applications import grants_of
from marketplace.vouchers.knowledge import contract_facts
from marketplace.vouchers.plan import Leg as Draw
from marketplace.vouchers.rules import Issued, load
from marketplace.vouchers.tables import Application, ContractInvoice, Programme
from marketplace.vouchers.terms import Refusal
from marketplace.vouchers.waterfall import build_ladder

_HOLD_US = 60 * SECOND_US


class Spending(NamedTuple):
    """What the vouchers of an application pay, and why those that do not pay do not."""

    legs: tuple[Draw, ...]
    refused: tuple[Refusal, ...]

    @property
    def amount_u(self) -> int:
        """Micro-yuan in all."""
        return sum(leg.amount for leg in self.legs)


def draw(session: Session, row: Application, eligible_u: int, at_us: int) -> Spending:
    """Return what the application's vouchers pay now of `eligible_u`, micro-yuan."""
    sealed = load(session.get_one(Programme, row.programme_id).rules)
    grants = [grant for grant in grants_of(session, row.id) if grant.state == "active"]
    terms = [
        sealed.terms(
            Issued(
                grant_id=grant.id,
                account_id=grant.account_id,
                effective_at_us=grant.effective_at_us,
                expires_at_us=grant.expires_at_us,
                remaining=grant.amount,
                priority=grant.priority,
                bracket=grant.bracket,
            )
        )
        for grant in grants
    ]
    facts = contract_facts(session, row, at_us)
    ladder = build_ladder(terms, facts, wallet_account_id=None, at_us=at_us)
    held = totals(session, [grant.account_id for grant in grants])
    available = {account: balance.available for account, balance in held.items()}
    plan = ladder.draw(eligible_u, available, at_us)
    return Spending(plan.legs, ladder.explain(plan))


def book(session: Session, made: ContractInvoice, spending: Spending, at_us: int) -> None:
    """Book it as a usage event of the invoice's id: the vouchers pay, and who gets it is owed it."""
    instant = _is_instant(session, made)
    clearing = account_id(session, CLEARING)
    sink = clearing
    if not instant:
        sink = open_account(session, reimburse_due(made.org_id), Rule.PROJECTION)
    legs = tuple(Leg(leg.account_id, leg.amount, sink) for leg in spending.legs)

    def decide(_available: Available) -> tuple[tuple[Leg, ...], str]:
        return legs, "{}"

    accounts = tuple(leg.account_id for leg in legs)
    hold = Hold(made.id, made.org_id, accounts, decide, at_us, at_us + _HOLD_US)
    entries: tuple[Entry, ...] = ()
    if instant:
        owner = open_account(session, owner_unsettled(made.provider), Rule.PROJECTION)
        entries = (Entry(Code.ACCRUE, clearing, owner, spending.amount_u),)
    usage = _usage(made, spending.amount_u if instant else 0, at_us)
    posted = tuple(leg.amount for leg in legs)
    apply_now(session, hold)
    apply_now(session, Settle(made.id, posted, entries, usage, at_us))


def _is_instant(session: Session, made: ContractInvoice) -> bool:
    """Return the programme's mode; what is paid to a provider needs one that can be paid here."""
    row = session.get_one(Application, made.application_id)
    rules = load(session.get_one(Programme, row.programme_id).rules).rules
    to_provider = rules.mode == "instant" or row.claimant == "provider"
    if to_provider and session.get(Organisation, made.provider) is None:
        raise Conflict(
            "The provider is paid, and it is no organisation of this marketplace.",
            rule="invoice.provider",
            remedy="Let it register first.",
        )
    return rules.mode == "instant"


def _usage(made: ContractInvoice, cost_u: int, at_us: int) -> tuple[Any, ...]:
    """Return the event's columns in the table's order. `cost_u` is what passes through here."""
    columns = UsageEvent.__table__.columns  # type: ignore[attr-defined]
    told: Mapping[str, Any] = {
        "id": made.id,
        "org_id": made.org_id,
        "listing": f"contract:{made.application_id}",
        "owner_org_id": made.provider,
        # One request at this price: whoever recomputes the cost from it finds the same.
        "prices": canonical(Components(0, 0, request_u=cost_u))[0],
        "started_at_us": made.presented_at_us,
        "ended_at_us": at_us,
        "usage_source": "invoice",
        "outcome": "ok",
        "list_cost_u": made.amount_u,
        "cost_u": cost_u,
        "voucher_u": cost_u,
        "raw_usage": made.charges,
        "route": "{}",
        "request_sha256": made.sha256,
    }
    names: Sequence[str] = [c.name for c in columns if c.name not in ("lane", "seq")]
    blank = {c.name: "" if str(c.type) == "TEXT" else 0 for c in columns}
    return tuple(told.get(name, blank[name]) for name in names)
