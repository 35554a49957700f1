"""The office as one ASGI application: everything that is not a model call.

Model calls are answered by the gateway's workers in front of it (`marketplace.gateway.worker`), which
hand every other connection over; `marketplace.runtime` puts the two together. Every error goes through
the exception handlers here, and there are no others.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlmodel import Session, select
from starlette.exceptions import HTTPException

from catalog.artifacts.store import open_store
from catalog.ground.clock import now_us
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, NotFound, TokenMartError
from catalog.ground.identity import Caller
from catalog.ground.ids import new_id
from catalog.ground.rendering import render_openai, render_problem
from catalog.hub.access import open_gate
from catalog.hub.router import build_hub, hub_router
from catalog.hub.tables import Repo
from catalog.hub.web import Hub
from catalog.listings.endpoints import listings_router
from catalog.listings.offer import offered_content
from catalog.listings.prices import PriceOf, Prices
from catalog.listings.states import Tier
from catalog.listings.tables import Listing
from catalog.releases.endpoints import routes as releases_router
from marketplace.description import describe
from marketplace.gateway.directory import Directory
from marketplace.gateway.endpoints import gateway_router
from marketplace.gateway.endpoints_account import account_router
from marketplace.gateway.endpoints_calls import calls_router
from marketplace.gateway.lookup import InThreads, Lookup
from marketplace.gateway.metrics import metrics_router
from marketplace.gateway.money import Books
from marketplace.gateway.office import GatewayOffice, database_away
from marketplace.gateway.options import Options
from marketplace.gateway.otlp import collector_of
from marketplace.gateway.upstream import Upstream
from marketplace.housekeeping import keep_house
from marketplace.ledger.accounts import account_id
from marketplace.ledger.chart import CLEARING, FEE, FREE_COST, OVERRUN, ROUNDING
from marketplace.ledger.writer import LedgerWriter
from marketplace.members.endpoints import members_router
from marketplace.members.identify import identify_by
from marketplace.members.organisations import organisation
from marketplace.members.standing import Verified
from marketplace.migrations.migrate import migrate
from marketplace.payouts.endpoints import payouts_router
from marketplace.prices.service import price_at
from marketplace.reports.endpoints import reports_router
from marketplace.settings import Settings
from marketplace.vouchers.endpoints import vouchers_router
from marketplace.vouchers.knowledge import kind_of_entry


class Desk:
    """What a quote needs: the same directory and client of engines that a worker has."""

    def __init__(self, settings: Settings) -> None:
        self.lookup = Lookup(settings.database)
        self.directory = Directory(InThreads(self.lookup))
        self.upstream = Upstream(settings.upstream_connect_s, settings.upstream_silence_s)


class Marketplace:
    """The office. `desk` and `gateway` are there between startup and shutdown."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = settings.database
        self.desk: Desk | None = None
        self.gateway: GatewayOffice | None = None
        self.hub = _hub(settings)
        self.web = _web(self)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open what requests need, keep it fresh, and close it after the last of them."""
        await asyncio.to_thread(migrate, self.database)
        settings = self.settings
        writer = LedgerWriter(self.database.raw_connection, new_id("office"))
        self.desk = Desk(settings)
        chores = asyncio.ensure_future(
            keep_house(self.database, writer, self.hub.store, settings.hold_ttl_s)
        )
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            chores.cancel()
            await asyncio.gather(chores, return_exceptions=True)
            await self.desk.upstream.close()
            await asyncio.to_thread(writer.close)
            await asyncio.to_thread(self.hub.downloads.flush)
            self.desk = None

    def options(self) -> Options:
        """Return what a worker is told."""
        told = self.settings
        with self.database.session() as session:
            books = _books(session)
        names = Options.__struct_fields__
        same = {name: getattr(told, name) for name in names if hasattr(told, name)}
        same["trace_ratio"] = told.trace_ratio if collector_of(told.otlp_url, os.environ) else 0.0
        same["trusted_proxies"] = tuple(a.strip() for a in told.trusted_proxies.split(",") if a)
        return Options(**{**same, "database_url": self.database.url, "lane": "", "books": books})


def _books(session: Session) -> Books:
    names = {
        "clearing": CLEARING,
        "overrun": OVERRUN,
        "rounding": ROUNDING,
        "free_cost": FREE_COST,
        "fee": FEE,
    }
    return Books(**{field: account_id(session, code) for field, code in names.items()})


def _hub(settings: Settings) -> Hub:
    data = settings.data_dir
    try:
        store = open_store(settings.artifacts_url or str(data / "artifacts"), spool=data / "spool")
    except (ImportError, ValueError) as error:  # fsspec's words for what it does not know or lacks
        raise BadRequest(f"TOKENMART_ARTIFACTS_URL: {error}.", rule="settings.artifacts") from None
    return build_hub(
        settings.database,
        store,
        identify_by(settings.database),
        secret=settings.signing_secret,
        gate=_only_what_is_listed,
        public_url=settings.public_url or None,
    )


def _only_what_is_listed(session: Session, repo: Repo, caller: Caller | None) -> str | None:
    """Open a repository to those to whom its listing is on offer, and not before."""
    slug = f"{repo.org}/{repo.name}".lower()
    listing = session.exec(select(Listing).where(Listing.slug == slug)).first()
    content = None if listing is None else offered_content(session, listing, now_us())
    if content is None:
        return "This model has not passed review; only its publisher may read its files."
    if content.tier != Tier.PUBLIC and caller is None:
        return "This model is for the members of the park: send a key."
    return open_gate(session, repo, caller)


def _owner(session: Session, publisher: str) -> str:
    return organisation(session, publisher).id


def _price_of(database: Database) -> PriceOf:
    def price_of(slug: str) -> Prices | None:
        with database.reading() as session:
            price = price_at(session, slug, now_us())
            return None if price is None else json.loads(price.text)

    return price_of


def _web(market: Marketplace) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with market.running():
            yield

    web = FastAPI(title="TokenMart 词元超市", version="0.1.0", lifespan=lifespan)
    database = market.database
    identify = identify_by(database)
    web.include_router(gateway_router(database))
    web.include_router(account_router(market))
    web.include_router(calls_router())
    web.include_router(metrics_router(lambda: market.gateway))
    web.include_router(
        listings_router(
            database, identify, _price_of(database), owner_of=_owner, facts=Verified(database)
        )
    )
    web.include_router(vouchers_router(database))
    web.include_router(members_router(database, kind_of_entry))
    web.include_router(payouts_router(database))
    web.include_router(reports_router(database))
    web.include_router(releases_router(market.hub))
    web.include_router(hub_router(market.hub))
    web.add_exception_handler(TokenMartError, _render)
    web.add_exception_handler(HTTPException, _render_http)
    web.add_exception_handler(RequestValidationError, _render_invalid)
    web.add_exception_handler(OperationalError, _render_away)
    web.add_exception_handler(InterfaceError, _render_away)
    web.add_exception_handler(Exception, _render)

    @web.get("/healthz", tags=["operation"])
    def healthz() -> dict[str, str]:
        """Say that the process lives."""
        return {"status": "ok"}

    @web.get("/readyz", tags=["operation"], responses={503: {"description": "not welcome"}})
    def readyz(response: Response) -> dict[str, str]:
        """Say whether calls are welcome: 503 while starting or draining, and without a database."""
        desk, gateway = market.desk, market.gateway
        if desk is None or gateway is None or not gateway.serves:
            response.status_code = 503
            return {"status": "draining"}
        desk.directory.check_fresh(now_us())
        return {"status": "ready"}

    web.openapi = lambda: describe(web)  # type: ignore[method-assign]
    return web


async def _render(request: Request, error: Exception) -> Response:
    render = render_openai if request.url.path.startswith("/v1/") else render_problem
    rendered = render(error)
    return Response(rendered.body, rendered.status, rendered.headers)


async def _render_away(request: Request, error: Exception) -> Response:
    assert isinstance(error, OperationalError | InterfaceError)
    return await _render(request, database_away(error))


async def _render_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        ours: TokenMartError = NotFound(f"There is nothing at {request.url.path}.")
    else:
        ours = BadRequest(str(error.detail), code="bad_request")
        if error.status_code == 405:
            ours = BadRequest(f"{request.method} is not allowed here.", code="method_not_allowed")
    response = await _render(request, ours)
    response.status_code = error.status_code
    return response


async def _render_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return await _render(request, BadRequest(f"{where}: {first['msg']}.", param=where))
