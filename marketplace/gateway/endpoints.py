"""What the door tells about itself: models, single generations, the caller's balance and usage."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Header
from sqlalchemy import bindparam, text
from sqlmodel import Session, col, select

from catalog.ground.clock import SECOND_US, now_us, to_iso
from catalog.ground.database import Database
from catalog.ground.errors import NotFound, Unauthenticated
from catalog.listings.offer import callable_listings
from marketplace.gateway.cap_accounts import UNIT as CAP_UNIT
from marketplace.ledger.accounts import open_account
from marketplace.ledger.chart import Rule, wallet
from marketplace.ledger.holds import names_of
from marketplace.ledger.tables import Account, UsageEvent
from marketplace.members.identify import key_of
from marketplace.members.tables import ApiKey, Organisation
from marketplace.prices.service import price_at
from marketplace.vouchers.tables import Grant, Programme

Authorization = Annotated[str | None, Header()]

_LEGS = text(
    "SELECT a.code, a.unit, t.amount FROM ledger_transfer t "
    "JOIN ledger_account a ON a.id = t.debit_id WHERE t.tx IN :names AND t.code = 4 AND t.kind IN (1, 3) "
    "ORDER BY t.leg"
).bindparams(bindparam("names", expanding=True))


def gateway_router(database: Database) -> APIRouter:
    """Return the routes beside the hot path."""
    router = APIRouter(prefix="/v1", tags=["gateway"])

    def caller(session: Session, authorization: str | None) -> ApiKey:
        key = key_of(session, authorization, now_us())
        if key is None:
            raise Unauthenticated(
                "The request carries no key.",
                code="missing_api_key",
                remedy="Send it as Authorization: Bearer tm-…",
            )
        return key

    @router.get("/models")
    def models(authorization: Authorization = None) -> dict[str, Any]:
        """List what this caller may call, in OpenAI's shape with prices beside it."""
        with database.reading() as session:
            key = key_of(session, authorization, now_us())
            return {"object": "list", "data": _models(session, key)}

    @router.get("/models/{slug:path}")
    def model(slug: str, authorization: Authorization = None) -> dict[str, Any]:
        """Return one model."""
        with database.reading() as session:
            key = key_of(session, authorization, now_us())
            for found in _models(session, key):
                if found["id"] == slug:
                    return found
        raise NotFound(f"The model {slug!r} does not exist.", code="model_not_found")

    @router.get("/generation/{generation_id}")
    def generation(generation_id: str, authorization: Authorization = None) -> dict[str, Any]:
        """Return what one call used, what it cost and who paid; the caller's own calls only."""
        with database.reading() as session:
            key = caller(session, authorization)
            event = session.get(UsageEvent, generation_id)
            if event is None or event.org_id != key.org_id:
                raise NotFound(
                    f"There is no generation {generation_id!r}.",
                    remedy="A call that failed or is still running has none.",
                )
            return {"data": describe(session, event)}

    @router.get("/credits")
    def credits_(authorization: Authorization = None) -> dict[str, Any]:
        """Return the caller's wallet and vouchers."""
        with database.reading() as session:
            key = caller(session, authorization)
            return {"data": credits_of(session, key.org_id)}

    return router


def _models(session: Session, key: ApiKey | None) -> list[dict[str, Any]]:
    at_us = now_us()
    found = []
    for listing in callable_listings(session, at_us):
        if listing.tier == "sandbox" and (key is None or key.org_id != listing.owner_org):
            continue
        price = price_at(session, listing.slug, at_us)
        if price is None:
            continue
        found.append(
            {
                "id": listing.slug,
                "object": "model",
                "created": 0,
                "owned_by": listing.slug.partition("/")[0],
                "context_length": listing.context_length,
                "max_output_tokens": listing.max_output_tokens,
                "prices_u_per_m": json.loads(price.text),
                "tier": listing.tier,
            }
        )
    return found


def describe(session: Session, event: UsageEvent) -> dict[str, Any]:
    """Return a usage event with its legs, for its owner."""
    legs = session.execute(_LEGS, {"names": names_of(event.id)}).all()
    return {
        "id": event.id,
        "model": event.listing,
        "created": event.started_at_us // SECOND_US,
        "started_at": to_iso(event.started_at_us),
        "latency_ms": (event.ended_at_us - event.started_at_us) // 1000,
        "time_to_first_token_ms": event.first_token_us // 1000 or None,
        "streamed": bool(event.streamed),
        "outcome": event.outcome,
        "tokens": {
            "input_uncached": event.input_uncached,
            "cache_read": event.cache_read,
            "cache_write": event.cache_write,
            "output": event.output,
            "reasoning": event.reasoning,
        },
        "usage_source": event.usage_source,
        "price_version": event.price_version_id,
        "prices": json.loads(event.prices),
        "cost_u": event.cost_u,
        "voucher_u": event.voucher_u,
        "free_u": event.free_u,
        "wallet_u": event.wallet_u,
        "platform_u": event.overrun_u,
        "paid_by": [
            {"account": code, "unit": unit, "amount": amount, **_voucher(session, code)}
            for code, unit, amount in legs
            if amount and unit != CAP_UNIT
        ],
        "route": json.loads(event.route),
    }


def _voucher(session: Session, account_code: str) -> dict[str, str]:
    kind, _, grant_id = account_code.partition(":")
    if kind != "grant":
        return {}
    grant = session.get_one(Grant, grant_id)
    return {"voucher": grant_id, "programme": session.get_one(Programme, grant.programme_id).code}


def credits_of(session: Session, org_id: str) -> dict[str, Any]:
    """Return an organisation's wallet and its vouchers in force."""
    org = session.get_one(Organisation, org_id)
    account = session.exec(select(Account).where(Account.code == wallet(org_id))).first()
    rows = session.exec(
        select(Grant, Programme, Account)
        .where(Grant.org_id == org_id, Grant.state == "active")
        .where(col(Grant.expires_at_us) > now_us())
        .join(Programme, col(Programme.id) == Grant.programme_id)
        .join(Account, col(Account.id) == Grant.account_id)
        .order_by(col(Grant.priority), col(Grant.expires_at_us))
    ).all()
    return {
        "organisation": org.slug,
        "wallet_u": available_u(account) if account else 0,
        "vouchers": [
            {
                "id": grant.id,
                "programme": f"{programme.code}@{programme.version}",
                "unit": grant.unit,
                "amount": grant.amount,
                "available": available_u(balance),
                "held": balance.dr_pending,
                "used": balance.dr_posted - grant.returned - grant.refunded,
                "expires_at": to_iso(min(grant.expires_at_us, 253_370_764_800_000_000)),
            }
            for grant, programme, balance in rows
        ],
    }


def available_u(account: Account) -> int:
    """Return what an account may still promise."""
    return account.cr_posted - account.dr_posted - account.dr_pending


def open_wallet(session: Session, org_id: str) -> int:
    """Return the account id of an organisation's wallet, opening it when there is none."""
    return open_account(session, wallet(org_id), Rule.DEBITS_WITHIN_CREDITS)
