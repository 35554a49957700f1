"""Load from the database what `directory` keeps: keys, listings, who pays, what a key may still spend.

Runs in the office, in threads; answers are `records`.
"""

from __future__ import annotations

import asyncio
import json

from sqlalchemy import bindparam, text
from sqlmodel import Session, col, select

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.marker import read_marker
from catalog.listings.offer import callable_listing
from marketplace.gateway import answers
from marketplace.gateway.cap_accounts import open_caps
from marketplace.gateway.caps import KeyCaps
from marketplace.gateway.directory import BEHIND
from marketplace.gateway.idempotency import Answer, answer_gone
from marketplace.gateway.records import (
    FREE_SUFFIX,
    EndpointRecord,
    KeyRecord,
    ListingRecord,
    OrgLadder,
    model_not_found,
    no_such_key,
)
from marketplace.gateway.replays import Asked, Kept, Tried
from marketplace.gateway.tables import Endpoint
from marketplace.ledger.accounts import open_account
from marketplace.ledger.chart import Rule, owner_unsettled, wallet
from marketplace.ledger.holds import LATE, names_of
from marketplace.ledger.tables import UsageEvent
from marketplace.members.tables import ApiKey, Organisation
from marketplace.payouts.fees import fee_at
from marketplace.prices.components import Components
from marketplace.prices.service import price_at
from marketplace.vouchers.service import ladder_for

_FOREVER_US = 2**62
_TRIES = text(
    "SELECT DISTINCT tx FROM ledger_transfer WHERE kind = 2 AND leg = 0 AND tx IN :names"
).bindparams(bindparam("names", expanding=True))
_OPEN = text("SELECT count(*) FROM ledger_hold WHERE tx IN :names").bindparams(
    bindparam("names", expanding=True)
)


class Lookup:
    """The loaders, by what they load. Each raises `NotFound` or `Unauthenticated` when there is nothing."""

    def __init__(self, database: Database, clock: Clock = now_us) -> None:
        self._database = database
        self._clock = clock

    def markers(self) -> dict[str, int]:
        """Return the change markers that a directory watches."""
        with self._database.reading() as session:
            return {name: read_marker(session, name) for name in BEHIND}

    def key(self, sha256: str) -> KeyRecord:
        """Return the key whose secret has this digest."""
        with self._database.reading() as session:
            key = session.exec(select(ApiKey).where(ApiKey.sha256 == sha256)).first()
            if key is None:
                raise no_such_key()
            org = session.get_one(Organisation, key.org_id)
            return KeyRecord(
                id=key.id,
                org_id=org.id,
                org_slug=org.slug,
                org_active=org.status == "active",
                project_id=key.project_id,
                operator=key.operator,
                listings=None if key.listings is None else frozenset(json.loads(key.listings)),
                networks=tuple(json.loads(key.cidrs or "[]")),
                rpm=key.rpm,
                tpm=key.tpm,
                concurrency=key.concurrency,
                daily_u=key.daily_u,
                monthly_u=key.monthly_u,
                expires_at_us=key.expires_at_us,
                revoked_at_us=key.revoked_at_us,
                member_id=key.member,
            )

    def listing(self, slug: str) -> ListingRecord:
        """Return what may be called under this name, with its price and engines."""
        with self._database.session() as session:
            at_us = self._clock()
            listing = callable_listing(session, slug, at_us)
            price = price_at(session, slug, at_us) if listing else None
            if listing is None or price is None:
                raise model_not_found(slug)
            owner = open_account(session, owner_unsettled(listing.owner_org), Rule.PROJECTION)
            fee = fee_at(session, slug, listing.owner_org, at_us)
            ends = (price.until_us, listing.until_us, fee.until_us)
            return ListingRecord(
                listing=listing,
                price_version_id=price.id,
                components=price.components,
                components_text=price.text,
                until_us=min(end or _FOREVER_US for end in ends),
                owner_account_id=owner,
                fee_bp=fee.fee_bp,
                endpoints=_endpoints(session, slug, price.components),
            )

    def caps(self, key_id: str) -> KeyCaps:
        """Return what the key may spend in the windows that it is in now."""
        with self._database.session() as session:
            key = session.get_one(ApiKey, key_id)
            return open_caps(session, key_id, key.daily_u, key.monthly_u, self._clock())

    def ladder(self, name: str) -> OrgLadder:
        """Return who pays; `name` is the organisation's id, a space, and the model as it was called."""
        org_id, model = name.split(" ", 1)
        slug = model.removesuffix(FREE_SUFFIX)
        at_us = self._clock()
        with self._database.session() as session:
            listing = callable_listing(session, slug, at_us)
            if listing is None:
                raise model_not_found(slug)
            wallet_id = open_account(session, wallet(org_id), Rule.DEBITS_WITHIN_CREDITS)
            found = ladder_for(
                session, org_id, listing, wallet_id, at_us, free=model.endswith(FREE_SUFFIX)
            )
        accounts = (*(step.account_id for step in found.ladder.steps), wallet_id)
        return OrgLadder(found.ladder, accounts, found.sinks, found.good_until_us, at_us)

    def recall(self, asked: Asked) -> Answer | None:
        """Return the answer that is kept of a generation, if it was settled; 422 for another request."""
        with self._database.reading() as session:
            found = answers.recall(
                session, asked.generation_id, asked.org_id, asked.request_sha256, asked.at_us
            )
            settled = session.get(UsageEvent, asked.generation_id) is not None
        if settled and found is None:
            # Charged, and its answer could not be kept: it must not be made and answered anew.
            raise answer_gone(asked.generation_id)
        return found if settled else None

    def remember(self, kept: Kept) -> None:
        """Keep an answer. One of an earlier try that was never settled gives way."""
        asked = kept.asked
        answer = Answer(asked.request_sha256, 200, kept.content_type, kept.body, asked.at_us)
        with self._database.session() as session:
            if answers.remember(session, asked.generation_id, asked.org_id, answer):
                return
            if session.get(UsageEvent, asked.generation_id) is None:
                answers.forget(session, asked.generation_id)
                answers.remember(session, asked.generation_id, asked.org_id, answer)

    def tried(self, generation_id: str) -> Tried:
        """Return what the ledger knows of a generation that may have been tried before."""
        with self._database.reading() as session:
            names = {"names": names_of(generation_id)}
            # A settlement takes the hold away and leaves the event in one step. Whether it is open is
            # asked first, so whoever is not open any more is seen as settled below.
            still = session.execute(_OPEN, names).scalar_one()
            tries = [tx for (tx,) in session.execute(_TRIES, names) if not tx.endswith(LATE)]
            settled = session.get(UsageEvent, generation_id) is not None
        return Tried(bool(still), settled, len(tries))


class InThreads:
    """The same for an event loop: a `directory.Loader` that reads in threads."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def key(self, sha256: str) -> KeyRecord:
        """See `Lookup.key`; so with the others."""
        return await asyncio.to_thread(self._lookup.key, sha256)

    async def listing(self, slug: str) -> ListingRecord:
        return await asyncio.to_thread(self._lookup.listing, slug)

    async def ladder(self, name: str) -> OrgLadder:
        return await asyncio.to_thread(self._lookup.ladder, name)

    async def caps(self, key_id: str) -> KeyCaps:
        return await asyncio.to_thread(self._lookup.caps, key_id)


def _endpoints(session: Session, slug: str, components: Components) -> tuple[EndpointRecord, ...]:
    query = (
        select(Endpoint)
        .where(Endpoint.listing == slug, Endpoint.state == "up")
        .order_by(col(Endpoint.priority), col(Endpoint.id))
    )
    return tuple(_endpoint(row, components) for row in session.exec(query))


def _endpoint(row: Endpoint, components: Components) -> EndpointRecord:
    return EndpointRecord(
        id=row.id,
        url=row.url,
        model=row.model,
        provider=row.provider,
        weight=row.weight,
        priority=row.priority,
        quantization=row.quantization,
        data_collection="deny" if row.data_collection == "deny" else "allow",
        zdr=row.zdr,
        supports=frozenset(json.loads(row.supports)) if row.supports else None,
        max_concurrency=row.max_concurrency,
        # Callers pay the listing's price wherever the call goes.
        input_u_per_m=components.input_u_per_m,
        output_u_per_m=components.output_u_per_m,
        api_key=row.api_key,
        speaks=frozenset(json.loads(row.speaks)) if row.speaks else frozenset(),
    )
