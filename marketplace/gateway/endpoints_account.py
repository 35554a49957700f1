"""What a caller may ask about itself: its key, its free quotas, its usage, and what a call would cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import APIRouter, Header, Query, Request
from sqlmodel import Session

from catalog.ground.clock import now_us
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, TokenMartError, Unauthenticated, Unavailable
from catalog.ground.ids import new_id
from marketplace.gateway.directory import Directory
from marketplace.gateway.endpoints import describe
from marketplace.gateway.quote import Asked, Payer, quote
from marketplace.gateway.records import ListingRecord
from marketplace.gateway.request import MAX_CHOICES
from marketplace.gateway.schemas import KeyInfo, Quota, Quote, QuoteRequest, UsagePage
from marketplace.gateway.standing import key_info, quotas
from marketplace.gateway.usage_log import Filters, instant, page, sums
from marketplace.members.identify import key_of
from marketplace.members.projects import project
from marketplace.members.tables import ApiKey
from marketplace.settings import Settings

if TYPE_CHECKING:
    from marketplace.gateway.upstream import Upstream

_TEMPLATE_TOKENS = 64
"""As the hot path has it: what a chat template adds at most, beyond the bytes that were sent."""
_MOST = 1000

Authorization = Annotated[str | None, Header()]


class Running(Protocol):
    """What a quote needs of the running office."""

    @property
    def directory(self) -> Directory: ...
    @property
    def upstream(self) -> Upstream: ...


class Door(Protocol):
    """What these routes need of the marketplace. `desk` is there between startup and shutdown."""

    settings: Settings
    database: Database

    @property
    def desk(self) -> Running | None: ...


def account_router(door: Door) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/v1", tags=["account"])
    database = door.database

    @router.get("/key")
    def key(authorization: Authorization = None) -> KeyInfo:
        """Return the key that asks: whose it is, what it may do, and what is left of its caps."""
        with database.reading() as session:
            return key_info(session, _key(session, authorization), door.settings, now_us())

    @router.get("/me/quota")
    def quota(authorization: Authorization = None) -> dict[str, list[Quota]]:
        """Return what is left of the organisation's free quotas, and when they are whole again."""
        with database.reading() as session:
            org_id = _key(session, authorization).org_id
            return {"data": quotas(session, org_id, now_us())}

    @router.get("/usage")
    def usage(
        authorization: Authorization = None,
        since: Annotated[str | None, Query(alias="from", description="day or instant")] = None,
        until: Annotated[str | None, Query(alias="to", description="exclusive")] = None,
        model: Annotated[str | None, Query(description="a listing's slug")] = None,
        project_: Annotated[str | None, Query(alias="project", description="name or id")] = None,
        key_id: Annotated[str | None, Query(alias="key", description="a key's id")] = None,
        outcome: Annotated[str | None, Query(description="ok or cancelled")] = None,
        totals: Annotated[bool, Query(description="whether to sum over all pages")] = True,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 50,
        cursor: str | None = None,
    ) -> UsagePage:
        """Return the organisation's calls, newest first, with who paid each."""
        with database.reading() as session:
            org_id = _key(session, authorization).org_id
            filters = Filters(
                org_id=org_id,
                from_us=instant(since, "from"),
                until_us=instant(until, "to"),
                listing=model,
                project_id=None if project_ is None else project(session, org_id, project_).id,
                key_id=key_id,
                outcome=outcome,
            )
            events, following = page(session, filters, limit, cursor)
            return UsagePage(
                data=[describe(session, event) for event in events],
                totals=sums(session, filters) if totals else None,
                next_cursor=following,
            )

    @router.post("/quote")
    async def quote_(
        asked: QuoteRequest, request: Request, authorization: Authorization = None
    ) -> Quote:
        """Return what a call would cost and who would pay, leg by leg; nothing is promised or charged."""
        desk = door.desk
        if desk is None:
            raise Unavailable("This gateway is not running.", retry_after_s=1)
        client = request.client.host if request.client else None
        return await quote_for(database, desk, asked, _secret(authorization), client)

    return router


async def quote_for(
    database: Database, desk: Running, asked: QuoteRequest, secret: str, client: str | None
) -> Quote:
    """Return the quote for whoever holds the key."""
    at_us = now_us()
    key = await desk.directory.key(secret)
    key.check(at_us, client)
    record = await desk.directory.listing(asked.model)
    bounds = await _bounds(desk, record, asked)
    payer = Payer(
        key, await desk.directory.ladder(key.org_id, asked.model), await desk.directory.caps(key)
    )
    with database.reading() as session:
        return quote(session, record, payer, bounds, asked.model, at_us)


async def _bounds(desk: Running, record: ListingRecord, asked: QuoteRequest) -> Asked:
    """Return the token bounds: as given, as the engine counts them, or by the body's length."""
    body: dict[str, Any] = asked.model_dump(exclude={"input_tokens", "output_tokens"})
    output = asked.output_tokens or body.get("max_completion_tokens") or body.get("max_tokens")
    output = output or record.listing.max_output_tokens or Settings().default_max_tokens
    choices = body.get("n") or 1
    for name, value, most in (("max_tokens", output, 10_000_000), ("n", choices, MAX_CHOICES)):
        if type(value) is not int or not 1 <= value <= most:
            raise BadRequest(f"{name} must be a whole number from 1 to {most}.", param=name)
    if asked.input_tokens is not None:
        return Asked(asked.input_tokens, "given", output, choices)
    if not ({"messages", "prompt"} & body.keys()):
        raise BadRequest(
            "There is nothing to price.",
            param="messages",
            rule="quote.input",
            remedy="Send messages or prompt as for the call itself, or input_tokens.",
        )
    for endpoint in record.endpoints[:1]:
        try:
            counted = await desk.upstream.count_tokens(endpoint, body, new_id("quo"))
            return Asked(counted, "engine", output, choices)
        except BadRequest:
            raise
        except TokenMartError:
            break  # an engine that is away must not keep anybody from learning the price
    length = len(json.dumps(body, ensure_ascii=False).encode())
    return Asked(length + _TEMPLATE_TOKENS, "bytes", output, choices)


def _secret(authorization: str | None) -> str:
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise _missing()
    return secret.strip()


def _key(session: Session, authorization: str | None) -> ApiKey:
    key = key_of(session, authorization, now_us())
    if key is None:
        raise _missing()
    return key


def _missing() -> Unauthenticated:
    return Unauthenticated(
        "The request carries no key.",
        code="missing_api_key",
        remedy="Send it as Authorization: Bearer tm-…",
    )
