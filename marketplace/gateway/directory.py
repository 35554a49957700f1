"""What the hot path looks up, kept in memory and thrown away when the database says it has changed.

A key, a listing or an organisation's ladder is loaded on first use. Somebody reads the change markers a
few times a second and calls `notice`; a raised marker empties the cache behind it, so that a revoked key
or a suspended listing stops at once and a new voucher pays at once, on every replica, without a message
bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from catalog.ground.clock import Clock, now_us
from catalog.ground.errors import NotFound, TokenMartError, Unauthenticated, Unavailable
from marketplace.gateway.caps import NO_CAPS, KeyCaps
from marketplace.gateway.records import FREE_SUFFIX, KeyRecord, ListingRecord, OrgLadder
from marketplace.members.secrets import digest

KEYS, LISTINGS, PRICES = "keys", "listings", "prices"
VOUCHERS, FACTS, ENDPOINTS = "vouchers", "facts", "endpoints"
BEHIND = {
    KEYS: ("key", "caps"),
    LISTINGS: ("listing", "ladder"),
    PRICES: ("listing",),
    ENDPOINTS: ("listing",),
    VOUCHERS: ("ladder",),
    FACTS: ("ladder",),
}
"""By change marker: what is stale when it is raised."""
_STRANGERS = 10_000
_STALE_US = 30_000_000
"""Without news of the markers for this long, nothing that is kept may be trusted any more."""

Value = TypeVar("Value")


class Loader(Protocol):
    """Where records come from. Each raises what is wrong with the name."""

    async def key(self, sha256: str) -> KeyRecord: ...
    async def listing(self, slug: str) -> ListingRecord: ...
    async def ladder(self, name: str) -> OrgLadder: ...
    async def caps(self, key_id: str) -> KeyCaps: ...


class _Cache(Generic[Value]):
    """A dictionary that loads what is missing, once for all who wait.

    That there is nothing under a name is kept as well: strangers' guesses do not reach the database
    twice. Any other failure is told to those who wait and forgotten.
    """

    def __init__(self, load: Callable[[str], Awaitable[Value]]) -> None:
        self._load = load
        self._known: dict[str, Value | TokenMartError] = {}
        self._loading: dict[str, asyncio.Future[Value | TokenMartError]] = {}
        self._generation = 0

    def peek(self, name: str) -> Value | None:
        found = self._known.get(name)
        return None if isinstance(found, TokenMartError) else found

    async def get(self, name: str) -> Value:
        found = self._known.get(name)
        if found is None:
            waiting = self._loading.get(name)
            if waiting is None:
                waiting = asyncio.ensure_future(self._fill(name))
                self._loading[name] = waiting
            found = await asyncio.shield(waiting)
        if isinstance(found, TokenMartError):
            raise found.with_traceback(None)
        return found

    async def _fill(self, name: str) -> Value | TokenMartError:
        generation = self._generation
        value: Value | TokenMartError
        try:
            value = await self._load(name)
        except (NotFound, Unauthenticated) as nothing:
            value = nothing
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
        # Who asks from now on must not get what was read before the change.
        self._loading = {}


class Directory:
    """Keys, listings and ladders by name."""

    def __init__(self, loader: Loader, clock: Clock = now_us) -> None:
        self._clock = clock
        self._keys: _Cache[KeyRecord] = _Cache(loader.key)
        self._listings: _Cache[ListingRecord] = _Cache(loader.listing)
        self._ladders: _Cache[OrgLadder] = _Cache(loader.ladder)
        self._caps: _Cache[KeyCaps] = _Cache(loader.caps)
        self._caches: dict[str, _Cache[Any]] = {
            "key": self._keys,
            "listing": self._listings,
            "ladder": self._ladders,
            "caps": self._caps,
        }
        self._versions: dict[str, int] = {}
        self._heard_at_us = clock()

    def notice(self, versions: dict[str, int]) -> None:
        """Take note of the change markers; what they say has changed is forgotten."""
        late = self._clock() - self._heard_at_us > _STALE_US
        for name, version in versions.items():
            if late or self._versions.get(name, version) != version:
                for cache in BEHIND[name]:
                    self._caches[cache].clear()
        self._versions = versions
        self._heard_at_us = self._clock()

    def check_fresh(self, now_us: int) -> None:
        """Raise `Unavailable` when nobody has told us of changes for too long: a revoked key may be here."""
        if now_us - self._heard_at_us > _STALE_US:
            raise Unavailable(
                "This gateway cannot reach its database; nothing was charged.",
                code="directory_stale",
                rule="gateway.fresh",
                retry_after_s=5,
            )

    async def key(self, secret: str) -> KeyRecord:
        """Return the key with this secret; `Unauthenticated` when there is none."""
        return await self._keys.get(digest(secret))

    async def listing(self, model: str) -> ListingRecord:
        """Return the listing that `model` calls (`slug` or `slug:free`); `NotFound` if it may not be."""
        slug = model.removesuffix(FREE_SUFFIX)
        known = self._listings.peek(slug)
        if known is not None and known.until_us <= self._clock():
            self._listings.forget(slug)
        return await self._listings.get(slug)

    async def ladder(self, org_id: str, model: str, *, fresher_than_us: int = 0) -> OrgLadder:
        """Return who pays, built after `fresher_than_us` and not past its own end."""
        name = f"{org_id} {model}"
        found = self._ladders.peek(name)
        if found is not None:
            if found.good_until_us > self._clock() and found.built_at_us >= fresher_than_us:
                return found
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
