"""What the hot path looks up, kept in memory and thrown away when the database says it has changed.

A key, a listing or an organisation's ladder is loaded on first use. A watcher reads the change markers a
few times a second; a raised marker empties the cache behind it, so that a revoked key or a suspended
listing stops at once and a new voucher pays at once, on every replica, without a message bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlmodel import Session, col, select

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.errors import Forbidden, NotFound, Unauthenticated
from catalog.ground.marker import LISTINGS, read_marker
from catalog.listings.offer import CallableListing, callable_listing
from marketplace.gateway.caps import NO_CAPS, KeyCaps, open_caps
from marketplace.gateway.tables import Endpoint
from marketplace.ledger.accounts import open_account
from marketplace.ledger.chart import Rule, owner_unsettled, wallet
from marketplace.members.keys import MARKER as KEYS
from marketplace.members.keys import digest
from marketplace.members.markers import FACTS
from marketplace.members.tables import ApiKey, Organisation
from marketplace.payouts.fees import fee_at
from marketplace.prices.components import Components
from marketplace.prices.service import MARKER as PRICES
from marketplace.prices.service import price_at
from marketplace.vouchers.ladder import Ladder
from marketplace.vouchers.service import MARKER as VOUCHERS
from marketplace.vouchers.service import ladder_for

ENDPOINTS = "endpoints"
FREE_SUFFIX = ":free"
"""`slug:free` calls the same model, paid by free quotas alone."""
_WATCH_S = 0.25
_STRANGERS = 10_000
_FOREVER_US = 2**62

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key that exists; whether it may be used is asked at each call."""

    id: str
    org_id: str
    org_slug: str
    org_active: bool
    project_id: str
    operator: bool
    listings: frozenset[str] | None
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    rpm: int | None
    concurrency: int | None
    daily_u: int | None
    monthly_u: int | None
    expires_at_us: int | None
    revoked_at_us: int | None

    @classmethod
    def of_organisation(cls, org_id: str, org_slug: str) -> KeyRecord:
        """Return what a key without any limit would be: for questions, never for calls."""
        return cls(
            id="",
            org_id=org_id,
            org_slug=org_slug,
            org_active=True,
            project_id="",
            operator=False,
            listings=None,
            networks=(),
            rpm=None,
            concurrency=None,
            daily_u=None,
            monthly_u=None,
            expires_at_us=None,
            revoked_at_us=None,
        )

    def check(self, at_us: int, client: str | None) -> None:
        """Raise what is wrong with using this key now, from `client` (an address)."""
        if self.revoked_at_us is not None:
            raise Unauthenticated(
                "This key has been revoked.", code="key_revoked", remedy="Use another key."
            )
        if self.expires_at_us is not None and self.expires_at_us <= at_us:
            raise Unauthenticated(
                "This key has expired.", code="key_expired", remedy="Make a new key."
            )
        if not self.org_active:
            raise Forbidden(
                f"The organisation {self.org_slug} is suspended.", code="organisation_suspended"
            )
        if self.networks and not self._from_known_network(client):
            raise Forbidden(
                "This key may not be used from this address.",
                code="address_not_allowed",
                rule="key.cidrs",
            )

    def _from_known_network(self, client: str | None) -> bool:
        if client is None:
            return False
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        return any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """One engine: `url` ends before `/v1`."""

    id: str
    url: str
    model: str
    api_key: str


@dataclass(frozen=True, slots=True)
class ListingRecord:
    """A listing that may be called, its price in force and the engines behind it."""

    listing: CallableListing
    price_version_id: str
    components: Components
    components_text: str
    until_us: int
    """When to look again: the price or the listing's grace ends."""
    owner_account_id: int
    fee_bp: int
    endpoints: tuple[EndpointRecord, ...]


@dataclass(frozen=True, slots=True)
class OrgLadder:
    """Who pays for an organisation's calls of one listing, until something changes."""

    ladder: Ladder
    accounts: tuple[int, ...]
    """Every account that the ladder may draw on; the wallet is the last."""
    sinks: Mapping[int, int]
    """By grant account: where its legs go that do not pay this call in money."""
    good_until_us: int
    built_at_us: int


class _Cache(Generic[Value]):
    """A dictionary that loads what is missing, once for all who wait, outside the event loop."""

    def __init__(self, load: Callable[[str], Value]) -> None:
        self._load = load
        self._known: dict[str, Value] = {}
        self._loading: dict[str, asyncio.Future[Value]] = {}
        self._generation = 0

    def peek(self, name: str) -> Value | None:
        return self._known.get(name)

    async def get(self, name: str) -> Value:
        found = self._known.get(name)
        if found is not None:
            return found
        waiting = self._loading.get(name)
        if waiting is None:
            waiting = asyncio.ensure_future(self._fill(name))
            self._loading[name] = waiting
        return await asyncio.shield(waiting)

    async def _fill(self, name: str) -> Value:
        generation = self._generation
        try:
            value = await asyncio.to_thread(self._load, name)
        finally:
            self._loading.pop(name, None)
        if generation == self._generation:
            if len(self._known) >= _STRANGERS:
                self._known.clear()
            self._known[name] = value
        return value

    def forget(self, name: str) -> None:
        self._known.pop(name, None)

    def clear(self) -> None:
        self._generation += 1
        self._known.clear()


class Directory:
    """Keys, listings and ladders by name; `watch` keeps them fresh."""

    def __init__(self, database: Database, clock: Clock = now_us) -> None:
        self._database = database
        self._clock = clock
        self._keys: _Cache[KeyRecord | Unauthenticated] = _Cache(self._load_key)
        self._listings: _Cache[ListingRecord | NotFound] = _Cache(self._load_listing)
        self._ladders: _Cache[OrgLadder] = _Cache(self._load_ladder)
        self._caps: _Cache[KeyCaps] = _Cache(self._load_caps)
        self._behind = {
            KEYS: (self._keys,),
            LISTINGS: (self._listings, self._ladders),
            PRICES: (self._listings,),
            ENDPOINTS: (self._listings,),
            VOUCHERS: (self._ladders,),
            FACTS: (self._ladders,),
        }
        self._versions: dict[str, int] = {}

    async def key(self, secret: str) -> KeyRecord:
        """Return the key with this secret; `Unauthenticated` when there is none."""
        found = await self._keys.get(digest(secret))
        if isinstance(found, Unauthenticated):
            raise found
        return found

    async def listing(self, model: str) -> ListingRecord:
        """Return the listing that `model` calls (`slug` or `slug:free`); `NotFound` if it may not be."""
        slug = model.removesuffix(FREE_SUFFIX)
        known = self._listings.peek(slug)
        if isinstance(known, ListingRecord) and known.until_us <= self._clock():
            self._listings.forget(slug)
        found = await self._listings.get(slug)
        if isinstance(found, NotFound):
            raise found
        return found

    async def ladder(self, org_id: str, model: str, *, fresher_than_us: int = 0) -> OrgLadder:
        """Return who pays, built after `fresher_than_us` and not past its own end."""
        name = f"{org_id} {model}"
        found = self._ladders.peek(name)
        if found is not None and (
            found.good_until_us <= self._clock() or found.built_at_us < fresher_than_us
        ):
            self._ladders.forget(name)
        return await self._ladders.get(name)

    async def caps(self, key: KeyRecord) -> KeyCaps:
        """Return what the key may spend in the windows that it is in now."""
        if key.daily_u is None and key.monthly_u is None:
            return NO_CAPS
        found = self._caps.peek(key.id)
        if found is not None and found.good_until_us <= self._clock():
            self._caps.forget(key.id)
        return await self._caps.get(key.id)

    async def watch(self) -> None:
        """Poll the change markers until cancelled."""
        while True:
            with contextlib.suppress(
                Exception
            ):  # a database that is away changes nothing meanwhile
                self._notice(await asyncio.to_thread(self._read_markers))
            await asyncio.sleep(_WATCH_S)

    def _read_markers(self) -> dict[str, int]:
        with self._database.reading() as session:
            return {name: read_marker(session, name) for name in self._behind}

    def _notice(self, versions: dict[str, int]) -> None:
        for name, version in versions.items():
            if self._versions.get(name, version) != version:
                for cache in self._behind[name]:
                    cache.clear()
        self._versions = versions

    def _load_key(self, sha256: str) -> KeyRecord | Unauthenticated:
        with self._database.reading() as session:
            key = session.exec(select(ApiKey).where(ApiKey.sha256 == sha256)).first()
            if key is None:
                return Unauthenticated(
                    "This is not a key of this marketplace.",
                    remedy="Check the key, or make one: tokenmart key create.",
                )
            org = session.get_one(Organisation, key.org_id)
            return KeyRecord(
                id=key.id,
                org_id=org.id,
                org_slug=org.slug,
                org_active=org.status == "active",
                project_id=key.project_id,
                operator=key.operator,
                listings=None if key.listings is None else frozenset(json.loads(key.listings)),
                networks=tuple(ipaddress.ip_network(n) for n in json.loads(key.cidrs or "[]")),
                rpm=key.rpm,
                concurrency=key.concurrency,
                daily_u=key.daily_u,
                monthly_u=key.monthly_u,
                expires_at_us=key.expires_at_us,
                revoked_at_us=key.revoked_at_us,
            )

    def _load_listing(self, slug: str) -> ListingRecord | NotFound:
        with self._database.session() as session:
            at_us = self._clock()
            listing = callable_listing(session, slug, at_us)
            price = price_at(session, slug, at_us) if listing else None
            if listing is None or price is None:
                return model_not_found(slug)
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
                endpoints=_endpoints(session, slug),
            )

    def _load_caps(self, key_id: str) -> KeyCaps:
        with self._database.session() as session:
            key = session.get_one(ApiKey, key_id)
            return open_caps(session, key_id, key.daily_u, key.monthly_u, self._clock())

    def _load_ladder(self, name: str) -> OrgLadder:
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


def model_not_found(slug: str) -> NotFound:
    """Return the error for a name that is no listing, or none that this caller may know of."""
    return NotFound(
        f"The model {slug!r} does not exist or is not listed.",
        code="model_not_found",
        param="model",
        remedy="GET /v1/models shows what can be called.",
    )


def _endpoints(session: Session, slug: str) -> tuple[EndpointRecord, ...]:
    query = (
        select(Endpoint)
        .where(Endpoint.listing == slug, Endpoint.state == "up")
        .order_by(col(Endpoint.priority), col(Endpoint.id))
    )
    return tuple(EndpointRecord(e.id, e.url, e.model, e.api_key) for e in session.exec(query))
