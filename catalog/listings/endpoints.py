"""HTTP: search and read listings, and move them along their road.

    GET    /api/listings                            search, facets, pages
    GET    /api/listings/{publisher}/{name}         one listing
    GET    /api/v1/models                           OpenRouter's shape
    POST   /api/listings                            make a draft
    PATCH  /api/listings/{publisher}/{name}         change the working copy
    POST   /api/listings/{publisher}/{name}/{event} submit, withdraw, list, revise, reopen; and with a
                                                    reason: override, suspend, restore, delist, deprecate
    PUT    /api/listings/{publisher}/{name}/filing  the filing record (operator)

Strangers see the public tier, members the park tier too; a working copy is seen by its own
organisation and by the operator, and for everybody else what is not on offer does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from sqlmodel import Session, col, select

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.errors import NotFound, Unauthenticated
from catalog.ground.identity import Caller, Identify
from catalog.listings import records, service, views
from catalog.listings.actors import Actor, actor_of
from catalog.listings.guards import Facts, NoReviewYet
from catalog.listings.offer import offered_content
from catalog.listings.prices import PriceOf
from catalog.listings.schemas import Because, Deprecation, Filing, ListingDraft, ListingEdit, Note
from catalog.listings.states import Part, Tier
from catalog.listings.tables import Listing
from catalog.search.document import Query as SearchQuery
from catalog.search.document import Sort
from catalog.search.engine import SearchEngine

FACETS = ("kind", "vertical", "task", "language", "licence", "size", "device", "price", "filing")


def listings_router(
    database: Database,
    identify: Identify,
    price_of: PriceOf,
    *,
    owner_of: Callable[[Session, str], str] | None = None,
    facts: Facts | None = None,
    engine: SearchEngine | None = None,
    clock: Clock = now_us,
) -> APIRouter:
    """Return the router.

    `owner_of` returns the id by which the other wings know an organisation (its slug when left out);
    `facts` come from the review once there is one.
    """
    router = APIRouter(tags=["listings"])
    search = engine or SearchEngine()
    known_facts = facts or NoReviewYet()

    def caller(authorization: Annotated[str | None, Header()] = None) -> Caller | None:
        return identify(authorization)

    def member(who: Caller | None = Depends(caller)) -> Caller:
        if who is None:
            raise Unauthenticated("Sign in with a key to change listings.")
        return who

    # Not as an alias of an annotated type: FastAPI cannot see names that are local to a function.
    visitor, signed_in = Depends(caller), Depends(member)

    @router.get("/api/listings")
    def list_listings(
        request: Request,
        q: str = "",
        sort: Sort = "relevance",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: str | None = None,
        who: Caller | None = visitor,
    ) -> dict[str, Any]:
        """Search. Every facet may be given, more than once: `vertical=legal&vertical=finance`."""
        given = {name: tuple(request.query_params.getlist(name)) for name in FACETS}
        filters = {name: values for name, values in given.items() if values}
        question = SearchQuery(q, filters, {"tier": _tiers(who)}, sort, limit, cursor)
        with database.reading() as session:
            found = search.search(session, question)
            rows = _in_order(session, found.keys)
            return {
                "data": [views.summary(session, row, price_of, clock()) for row in rows],
                "total": found.total,
                "facets": views.facets(found.facets),
                "next_cursor": found.next_cursor,
            }

    @router.get("/api/v1/models")
    def list_models(who: Caller | None = visitor) -> dict[str, Any]:
        """List what may be called and has a price, in OpenRouter's shape."""
        tiers, now = _tiers(who), clock()
        models = []
        with database.reading() as session:
            for listing in session.exec(select(Listing).order_by(col(Listing.slug))):
                content = offered_content(session, listing, now)
                if content is None or content.tier not in tiers:
                    continue
                if (prices := price_of(listing.slug)) is not None:
                    models.append(views.openrouter_model(listing, content, prices))
        return {"data": models}

    @router.get("/api/listings/{publisher}/{name}")
    def get_listing(publisher: str, name: str, who: Caller | None = visitor) -> dict[str, Any]:
        """Return one listing."""
        with database.reading() as session:
            return _page(session, who, f"{publisher}/{name}")

    @router.post("/api/listings", status_code=201)
    def create_listing(draft: ListingDraft, who: Caller = signed_in) -> dict[str, Any]:
        """Make a draft."""
        with database.session() as session:
            publisher = service.publisher_of(draft.slug)
            owner = owner_of(session, publisher) if owner_of else publisher
            service.create(session, _actor(who, draft.slug), draft, owner_org=owner, clock=clock)
            return _page(session, who, draft.slug)

    @router.patch("/api/listings/{publisher}/{name}")
    def edit_listing(
        publisher: str, name: str, change: ListingEdit, who: Caller = signed_in
    ) -> dict[str, Any]:
        """Change the working copy."""
        slug = f"{publisher}/{name}"
        with database.session() as session:
            _seen(session, who, slug)
            service.edit(session, _actor(who, slug), slug, change, clock=clock)
            return _page(session, who, slug)

    @router.post("/api/listings/{publisher}/{name}/deprecate")
    def deprecate_listing(
        publisher: str, name: str, given: Deprecation, who: Caller = signed_in
    ) -> dict[str, Any]:
        """Announce that the listing will go."""
        slug = f"{publisher}/{name}"
        with database.session() as session:
            _seen(session, who, slug)
            records.deprecate(
                session,
                _actor(who, slug),
                slug,
                given.reason,
                successor=given.successor,
                clock=clock,
            )
            return _page(session, who, slug)

    @router.put("/api/listings/{publisher}/{name}/filing")
    def put_filing(
        publisher: str, name: str, filing: Filing, who: Caller = signed_in
    ) -> dict[str, Any]:
        """Record the state of the filing (备案)."""
        slug = f"{publisher}/{name}"
        with database.session() as session:
            _seen(session, who, slug)
            records.record_filing(session, _actor(who, slug), slug, filing, clock=clock)
            return _page(session, who, slug)

    def move_by(event: str, needs_reason: bool) -> None:
        def endpoint(publisher: str, name: str, who: Caller, reason: str) -> dict[str, Any]:
            slug = f"{publisher}/{name}"
            with database.session() as session:
                _seen(session, who, slug)
                service.move(
                    session,
                    _actor(who, slug),
                    slug,
                    event,
                    reason=reason,
                    facts=known_facts,
                    clock=clock,
                )
                return _page(session, who, slug)

        def with_reason(
            publisher: str, name: str, given: Because, who: Caller = signed_in
        ) -> dict[str, Any]:
            return endpoint(publisher, name, who, given.reason)

        def with_note(
            publisher: str, name: str, given: Note | None = None, who: Caller = signed_in
        ) -> dict[str, Any]:
            return endpoint(publisher, name, who, given.note if given else "")

        chosen = with_reason if needs_reason else with_note
        path = f"/api/listings/{{publisher}}/{{name}}/{event}"
        summary = f"{event.capitalize()} the listing."
        router.post(path, name=f"{event}_listing", summary=summary)(chosen)

    def _page(session: Session, who: Caller | None, slug: str) -> dict[str, Any]:
        listing = _seen(session, who, slug)
        insider = _insider(who, slug)
        return views.page(session, listing, price_of, clock(), insider=insider)

    def _seen(session: Session, who: Caller | None, slug: str) -> Listing:
        listing = service.find(session, slug)
        content = offered_content(session, listing, clock())
        if _insider(who, slug) or (content is not None and content.tier in _tiers(who)):
            return listing
        raise NotFound(f"There is no listing {slug!r}.", code="listing_not_found")

    for event in ("submit", "withdraw", "list", "revise", "reopen", "restore"):
        move_by(event, needs_reason=False)
    for event in ("override", "suspend", "delist"):
        move_by(event, needs_reason=True)
    return router


def _actor(who: Caller, slug: str) -> Actor:
    return actor_of(who, service.publisher_of(slug))


def _insider(who: Caller | None, slug: str) -> bool:
    return who is not None and bool(
        who.orgs.get(service.publisher_of(slug)) or Part.OPERATOR in _actor(who, slug).parts
    )


def _tiers(who: Caller | None) -> tuple[str, ...]:
    return (Tier.PUBLIC,) if who is None else (Tier.PUBLIC, Tier.PARK)


def _in_order(session: Session, slugs: list[str]) -> list[Listing]:
    rows = session.exec(select(Listing).where(col(Listing.slug).in_(slugs)))
    by_slug = {row.slug: row for row in rows}
    return [by_slug[slug] for slug in slugs if slug in by_slug]
