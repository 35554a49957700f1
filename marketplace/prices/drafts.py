"""Drafts: prices that are proposed or imported, and cost nobody anything until somebody publishes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.units import RATE_TOKENS, YUAN_U
from marketplace.prices.components import Components, canonical, parse_components
from marketplace.prices.service import publish_price
from marketplace.prices.tables import PriceDraft, PriceVersion

_COST_MAP = {
    "input_cost_per_token": "input_u_per_m",
    "output_cost_per_token": "output_u_per_m",
    "cache_read_input_token_cost": "cache_read_u_per_m",
    "cache_creation_input_token_cost": "cache_write_u_per_m",
    "output_cost_per_reasoning_token": "reasoning_u_per_m",
}
"""Fields of the public per-token cost maps (US dollars a token) that name one of our rates."""


def read_prices(document: str, cny_per_usd: Decimal | None = None) -> dict[str, Components]:
    """Return the prices in a JSON object `{model: price}`; BadRequest names the model that is wrong.

    A price is our own components, or an entry of a per-token cost map in US dollars, which needs the
    exchange rate. Entries of a cost map without token rates are left out.
    """
    try:
        entries = json.loads(document, parse_float=Decimal)
    except ValueError as error:
        raise BadRequest(f"This is not JSON: {error}.", rule="price.import") from None
    if not isinstance(entries, dict):
        raise BadRequest("A price list is an object by model name.", rule="price.import")
    found = {}
    for model, entry in entries.items():
        try:
            price = _price(entry, cny_per_usd)
        except BadRequest as error:
            raise BadRequest(
                f"{model}: {error.message}", rule=error.rule, param=model, remedy=error.remedy
            ) from None
        if price is not None:
            found[model] = price
    return found


def add_draft(
    session: Session, listing: str, components: Components, source: str, author: str, at_us: int
) -> PriceDraft:
    """Keep a proposed price; the same price from the same source again changes nothing."""
    text, sha256 = canonical(components)
    query = select(PriceDraft).where(
        PriceDraft.listing == listing, PriceDraft.sha256 == sha256, PriceDraft.source == source
    )
    known = session.exec(query.where(col(PriceDraft.version_id).is_(None))).first()
    if known is not None:
        return known
    made = PriceDraft(
        id=new_id("prd"),
        listing=listing,
        components=text,
        sha256=sha256,
        source=source,
        author=author,
        created_at_us=at_us,
    )
    session.add(made)
    session.flush()
    return made


def drafts(session: Session, listing: str | None = None) -> Sequence[PriceDraft]:
    """Return drafts that were not published, newest first."""
    query = select(PriceDraft).where(col(PriceDraft.version_id).is_(None))
    if listing is not None:
        query = query.where(PriceDraft.listing == listing)
    return session.exec(query.order_by(col(PriceDraft.created_at_us).desc())).all()


def draft(session: Session, draft_id: str) -> PriceDraft:
    """Return one draft; `NotFound` otherwise."""
    found = session.get(PriceDraft, draft_id)
    if found is None:
        raise NotFound(f"There is no price draft {draft_id!r}.", rule="price.draft")
    return found


def publish_draft(
    session: Session, draft_id: str, effective_from_us: int, author: str, reason: str, at_us: int
) -> PriceVersion:
    """Publish a draft, once."""
    found = draft(session, draft_id)
    if found.version_id is not None:
        raise Conflict(f"{draft_id} was published as {found.version_id}.", rule="price.draft")
    components = parse_components(found.components)
    made = publish_price(
        session, found.listing, components, effective_from_us, author, reason, at_us
    )
    found.version_id = made.id
    session.add(found)
    session.flush()
    return made


def _price(entry: Any, cny_per_usd: Decimal | None) -> Components | None:
    if not isinstance(entry, dict):
        raise BadRequest("A price is an object.", rule="price.import")
    if not any(name.endswith(("_u_per_m", "_u")) for name in entry):
        return _from_cost_map(entry, cny_per_usd)
    return parse_components(json.dumps(entry, default=str))


def _from_cost_map(entry: dict[str, Any], cny_per_usd: Decimal | None) -> Components | None:
    rates = {ours: entry[theirs] for theirs, ours in _COST_MAP.items() if entry.get(theirs)}
    if not rates:
        return None
    if cny_per_usd is None:
        raise BadRequest(
            "This price is in US dollars a token.",
            rule="price.currency",
            remedy="Give the exchange rate: --cny-per-usd 7.10.",
        )
    for name in ("input_u_per_m", "output_u_per_m"):
        rates.setdefault(name, 0)
    return parse_components(json.dumps({n: _rate(r, cny_per_usd) for n, r in rates.items()}))


def _rate(dollars_a_token: Any, cny_per_usd: Decimal) -> int:
    try:
        exact = Decimal(str(dollars_a_token)) * cny_per_usd * RATE_TOKENS * YUAN_U
    except InvalidOperation:
        raise BadRequest(f"{dollars_a_token!r} is not a rate.", rule="price.import") from None
    return int(exact.to_integral_value(ROUND_HALF_UP))
