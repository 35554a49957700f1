"""A dry run: the call's own decision (`money.Call.decide`) on a snapshot of balances, told leg by leg."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from sqlmodel import Session, col, select

from catalog.ground.errors import PaymentRequired
from catalog.ground.rendering import openai_object
from marketplace.gateway.caps import KeyCaps
from marketplace.gateway.money import Books, Call
from marketplace.gateway.records import EndpointRecord, KeyRecord, ListingRecord, OrgLadder
from marketplace.gateway.schemas import FunderShare, Quote, QuoteLeg, QuoteTokens, Refused
from marketplace.ledger.chart import CNY as YUAN
from marketplace.ledger.tables import Account
from marketplace.vouchers.ladder import largest
from marketplace.vouchers.plan import CNY, FREE, REIMBURSE, Leg
from marketplace.vouchers.pools import split_of
from marketplace.vouchers.tables import Funder, Grant

_NO_BOOKS = Books(**{field.name: 0 for field in fields(Books)})
_NOWHERE = EndpointRecord(id="", url="", model="", api_key="")
_KINDS: dict[int, Literal["free", "instant", "reimburse"]] = {
    FREE: "free",
    REIMBURSE: "reimburse",
}
LONGEST_TOKENS = 1 << 20
"""Where the search for the longest affordable answer stops when nothing else bounds it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be priced: token bounds, and how the input was counted."""

    input_tokens: int
    input_from: Literal["given", "engine", "bytes"]
    output_tokens: int
    choices: int = 1


@dataclass(frozen=True, slots=True)
class Payer:
    """Who asks, and what stands behind them."""

    key: KeyRecord
    ladder: OrgLadder
    caps: KeyCaps


def balances(session: Session, payer: Payer) -> dict[int, int]:
    """Return what each account that may pay holds now, in its own unit."""
    accounts = payer.ladder.accounts + payer.caps.accounts
    rows = session.exec(select(Account).where(col(Account.id).in_(accounts)))
    return {
        row.id: row.cr_posted - row.dr_posted - row.dr_pending for row in rows if row.id is not None
    }


def quote(
    session: Session, record: ListingRecord, payer: Payer, asked: Asked, model: str, at_us: int
) -> Quote:
    """Return what the call would cost and who would pay, were it made at the instant."""
    available = balances(session, payer)
    call = _call(record, payer, asked, at_us)
    plan = call.draw(asked.output_tokens, available)
    refusal = None
    try:
        call.decide(available)
    except PaymentRequired as refused:
        refusal = openai_object(refused)["error"]
    ladder = payer.ladder.ladder
    return Quote(
        model=model,
        price_version=record.price_version_id,
        prices=json.loads(record.components_text),
        tokens=QuoteTokens(
            input=asked.input_tokens, input_from=asked.input_from, output=asked.output_tokens
        ),
        cost_u=plan.cost_u,
        affordable=call.affords(plan, available),
        paid_by=[_leg(session, leg, _programmes(payer.ladder)) for leg in plan.legs],
        wallet_u=plan.self_u - plan.shortfall_u,
        later_u=sum(leg.amount for leg in plan.legs if leg.kind == REIMBURSE),
        shortfall_u=plan.shortfall_u,
        vouchers_refused=[
            Refused(
                voucher=r.grant_id,
                programme=r.programme,
                rule=r.rule,
                clause=r.clause,
                message=r.message,
            )
            for r in ladder.explain(plan)
        ],
        max_affordable_output_tokens=_most(call, record, available),
        refusal=refusal,
    )


def _call(record: ListingRecord, payer: Payer, asked: Asked, at_us: int) -> Call:
    return Call(
        id="quote",
        key=payer.key,
        record=record,
        payer=payer.ladder,
        books=_NO_BOOKS,
        input_tokens=asked.input_tokens,
        choices=asked.choices,
        max_tokens=asked.output_tokens,
        started_at_us=at_us,
        streamed=False,
        request_sha256="",
        endpoint=record.endpoints[0] if record.endpoints else _NOWHERE,
        caps=payer.caps,
    )


def _most(call: Call, record: ListingRecord, available: Mapping[int, int]) -> int:
    listing = record.listing
    context = listing.context_length
    room = LONGEST_TOKENS if context is None else max(0, context - call.input_tokens)
    ceiling = min(room, listing.max_output_tokens or LONGEST_TOKENS)
    return largest(lambda n: call.affords(call.draw(n, available), available), ceiling)


def _programmes(ladder: OrgLadder) -> dict[str, str]:
    return {step.grant_id: step.programme for step in ladder.ladder.steps}


def _leg(session: Session, leg: Leg, programmes: Mapping[str, str]) -> QuoteLeg:
    grant = session.get_one(Grant, leg.grant_id)
    return QuoteLeg(
        voucher=leg.grant_id,
        programme=programmes[leg.grant_id],
        kind=_KINDS.get(leg.kind, "instant"),
        unit=grant.unit,
        amount=leg.amount,
        covered_u=leg.covered_u,
        ratio_bp=leg.ratio_bp,
        funders=_funders(session, grant, leg.amount) if leg.unit == CNY else [],
    )


def _funders(session: Session, grant: Grant, amount_u: int) -> list[FunderShare]:
    """Return who would pay the next `amount_u` of the grant; other calls may come between."""
    assert grant.unit == YUAN
    split = split_of(session, grant)
    drawn_u = session.get_one(Account, grant.account_id).dr_posted
    parts = zip(split.funders, split.between(drawn_u, drawn_u + amount_u), strict=True)
    shares = []
    for funder_id, part_u in parts:
        if part_u:
            funder = session.get_one(Funder, funder_id)
            shares.append(FunderShare(funder=funder.code, level=funder.level, amount_u=part_u))
    return shares
