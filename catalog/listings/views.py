"""Listings as JSON: for the shelf, for the listing's own page, and in OpenRouter's shape."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlmodel import Session

from catalog.ground.clock import SECOND_US, to_iso
from catalog.listings import chain
from catalog.listings.badges import badges_of, filing_facet
from catalog.listings.cards import render_card
from catalog.listings.content import Content, working_content
from catalog.listings.offer import is_on_offer, offered_content
from catalog.listings.prices import PriceOf, Prices, shown_prices
from catalog.listings.records import variants_of
from catalog.listings.tables import Listing
from catalog.listings.taxonomy import Term, taxonomy

CURRENCY = "CNY"


def summary(session: Session, listing: Listing, price_of: PriceOf, at_us: int) -> dict[str, Any]:
    """Return one row of the shelf; the listing is on offer."""
    content = offered_content(session, listing, at_us) or working_content(listing)
    return _head(listing, content) | {"pricing": pricing(price_of(listing.slug))}


def _head(listing: Listing, content: Content) -> dict[str, Any]:
    shown = asdict(content)
    del shown["card_zh"], shown["card_en"], shown["release_id"]
    return {
        "slug": listing.slug,
        "id": listing.id,
        "publisher": listing.slug.partition("/")[0],
        **shown,
        "tasks": list(content.tasks),
        "languages": list(content.languages),
        "filing": filing_of(listing),
        "deprecated": _deprecation(listing),
        "popularity": listing.popularity,
        "output_tokens_per_s": listing.output_tokens_per_s,
        "quality_bp": listing.quality_bp,
        "listed_at": None if listing.listed_at_us is None else to_iso(listing.listed_at_us),
    }


def filing_of(listing: Listing) -> dict[str, Any]:
    """Return what the public may be told of the filing; the number only once it is granted."""
    badge = filing_facet(listing)
    granted = badge not in ("none", "exempt")
    return {"badge": badge, "number": listing.filing_number if granted else None}


def _deprecation(listing: Listing) -> dict[str, Any] | None:
    if listing.deprecated_at_us is None:
        return None
    return {
        "since": to_iso(listing.deprecated_at_us),
        "reason": listing.deprecated_reason,
        "successor": listing.successor_slug,
    }


def pricing(prices: Prices | None) -> dict[str, str] | None:
    """Return decimal strings in yuan per token, None when there is no price."""
    return None if prices is None else shown_prices(prices) | {"currency": CURRENCY}


def page(
    session: Session, listing: Listing, price_of: PriceOf, at_us: int, *, insider: bool
) -> dict[str, Any]:
    """Return the listing's own page. An insider sees the working copy, the state and the history."""
    offered = offered_content(session, listing, at_us)
    content = working_content(listing) if insider or offered is None else offered
    history = chain.history(session, listing.id)
    shown = _head(listing, content) | {
        "pricing": pricing(price_of(listing.slug)),
        "card_html_zh": render_card(content.card_zh),
        "card_html_en": render_card(content.card_en),
        "release_id": content.release_id,
        "version": listing.listed_version,
        "badges": [asdict(badge) for badge in badges_of(listing, history)],
        "variants": [
            variant.model_dump(exclude={"listing_id", "created_at_us"})
            for variant in variants_of(session, listing)
        ],
    }
    if insider:
        shown |= _inside(listing, content, at_us)
        shown["history"] = [
            row.model_dump(exclude={"listing_id", "prev_hash"}) | {"at": to_iso(row.at_us)}
            for row in history
        ]
    return shown


def _inside(listing: Listing, content: Content, at_us: int) -> dict[str, Any]:
    grace = listing.grace_until_us
    return {
        "card_zh": content.card_zh,
        "card_en": content.card_en,
        "state": listing.state,
        "on_offer": is_on_offer(listing, at_us),
        "newest_version": listing.version,
        "on_offer_until": None if grace is None else to_iso(grace),
        "suspended_reason": listing.suspended_reason,
        "filing_route": listing.filing_route,
        "filing_status": listing.filing_status,
    }


def openrouter_model(listing: Listing, content: Content, prices: Prices) -> dict[str, Any]:
    """Return the listing as OpenRouter describes a model, with filing and tier beside it.

    Prices are yuan (`pricing_currency`), not dollars.
    """
    vision = "vision" in content.tasks
    return {
        "id": listing.slug,
        "canonical_slug": listing.slug,
        "hugging_face_id": None,
        "name": content.title_en or content.title_zh,
        "created": (listing.listed_at_us or listing.created_at_us) // SECOND_US,
        "description": content.summary_en or content.summary_zh,
        "context_length": content.context_length,
        "architecture": {
            "modality": "text+image->text" if vision else "text->text",
            "input_modalities": ["text", "image"] if vision else ["text"],
            "output_modalities": ["text"],
            "tokenizer": "Other",
            "instruct_type": None,
        },
        "pricing": shown_prices(prices),
        "pricing_currency": CURRENCY,
        "top_provider": {
            "context_length": content.context_length,
            "max_completion_tokens": content.max_output_tokens,
            "is_moderated": True,
        },
        "per_request_limits": None,
        "supported_parameters": ["max_tokens", "temperature", "top_p", "stop", "stream"],
        "name_zh": content.title_zh,
        "description_zh": content.summary_zh,
        "tier": content.tier,
        "filing": filing_of(listing),
        "free": all(not prices.get(rate) for rate in ("input_u_per_m", "output_u_per_m")),
    }


def facets(counts: dict[str, dict[str, int]]) -> dict[str, list[dict[str, Any]]]:
    """Return the counts with names: `{facet: [{value, count, zh, en}, …]}`, most first."""
    shelves = taxonomy()
    known = {"vertical": shelves.verticals, "task": shelves.tasks, "language": shelves.languages}
    return {
        facet: [
            {"value": value, "count": count, **_names(known.get(facet, {}).get(value))}
            for value, count in values.items()
        ]
        for facet, values in counts.items()
    }


def _names(term: Term | None) -> dict[str, str]:
    return {} if term is None else {"zh": term.zh, "en": term.en}
