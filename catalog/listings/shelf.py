"""Keep the search index in step with what is on offer, in the transaction that changes it."""

from __future__ import annotations

from collections.abc import Iterator

from sqlmodel import Session, col, select

from catalog.listings.badges import filing_facet
from catalog.listings.content import Content
from catalog.listings.offer import offered_content
from catalog.listings.prices import Prices, blended_u_per_m
from catalog.listings.states import Tier
from catalog.listings.tables import Listing, ListingVariant
from catalog.listings.taxonomy import taxonomy
from catalog.search import index
from catalog.search.document import Document

SIZES = ((1e9, "to_1b"), (4e9, "to_4b"), (10e9, "to_10b"), (40e9, "to_40b"))
"""Upper bounds in parameters; the rest is `over_40b`."""


def place(session: Session, listing: Listing, at_us: int) -> None:
    """Put the listing on the searchable shelf, or take it off, as `is_on_offer` says."""
    document = document_of(session, listing, at_us)
    if document is None:
        index.remove(session, listing.slug)
    else:
        index.put(session, document)


def rebuild(session: Session, at_us: int) -> int:
    """Write the whole search index anew and return how many listings it holds."""
    return index.rebuild(session, _documents(session, at_us))


def reprice(session: Session, slug: str, prices: Prices | None) -> None:
    """Let the search know a price; for whoever publishes prices, in the same transaction."""
    index.set_price(session, slug, None if prices is None else blended_u_per_m(prices))


def _documents(session: Session, at_us: int) -> Iterator[Document]:
    for listing in session.exec(select(Listing).order_by(col(Listing.id))).all():
        if document := document_of(session, listing, at_us):
            yield document


def document_of(session: Session, listing: Listing, at_us: int) -> Document | None:
    """Return what is searched of the listing, None when nothing of it is on offer to others."""
    content = offered_content(session, listing, at_us)
    if content is None or content.tier == Tier.SANDBOX:
        return None
    devices = session.exec(
        select(ListingVariant.device).where(ListingVariant.listing_id == listing.id).distinct()
    )
    return Document(
        key=listing.slug,
        name=f"{listing.slug} {content.title_zh} {content.title_en}",
        summary=f"{content.summary_zh}\n{content.summary_en}\n{_shelf_words(content)}",
        body=f"{content.card_zh}\n{content.card_en}",
        facets=_facets(listing, content, tuple(sorted(devices))),
        popularity=listing.popularity,
        output_tokens_per_s=listing.output_tokens_per_s,
        quality_bp=listing.quality_bp,
        created_at_us=listing.listed_at_us or listing.created_at_us,
    )


def _shelf_words(content: Content) -> str:
    shelves = taxonomy()
    terms = [
        shelves.verticals.get(content.vertical),
        *(shelves.tasks.get(task) for task in content.tasks),
        *(shelves.languages.get(language) for language in content.languages),
    ]
    names = [term.words for term in terms if term is not None]
    return "\n".join([*names, content.base_model or "", content.licence or ""])


def _facets(
    listing: Listing, content: Content, devices: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    return {
        "kind": (content.kind,),
        "tier": (content.tier,),
        "vertical": (content.vertical,),
        "task": content.tasks,
        "language": content.languages,
        "licence": (content.licence or "undeclared",),
        "size": (size_class(content.parameters),),
        "filing": (filing_facet(listing),),
        "device": devices,
    }


def size_class(parameters: int | None) -> str:
    """Return the value of the facet `size`."""
    if parameters is None:
        return "undeclared"
    return next((name for bound, name in SIZES if parameters <= bound), "over_40b")
