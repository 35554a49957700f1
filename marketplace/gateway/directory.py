"""What the hot path looks up, kept in memory and thrown away when the database says it has changed.

A key, a listing or an organisation's ladder is loaded on first use. Somebody reads the change markers a
few times a second and calls `notice`; a raised marker empties the cache behind it, so that a revoked key
or a suspended listing stops at once and a new voucher pays at once, on every replica, without a message
bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
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
_NOTHING_US = 5_000_000
"""How long it is believed that there is nothing under a name: a price may begin, which raises no marker."""
_STALE_US = 30_000_000
"""Without news of the markers for this long, nothing that is kept may be trusted any more."""

Value = TypeVar("Value")


class Loader(Protocol):
    """Where records come from. Each raises what is wrong with the name."""

    async def key(self, sha256: str) -> KeyRecord: ...
    async def listing(self, slug: str) -> ListingRecord: ...
    async def ladder(self, name: str) -> OrgLadder: ...
    async def caps(self, key_id: str) -> KeyCaps: ...


class Follower(Protocol):
    """Who keeps something of what the directory has, and must not keep it for longer."""

    def heard(self, at_us: int) -> None:
        """Take note that what is not forgotten now was good at this instant."""

    def forgets(self, record: object | None) -> None:
        """Forget this record, which is still within its time; None is all of them."""


class _Cache(Generic[Value]):
    """A dictionary that loads what is missing, once for all who wait.

    That there is nothing under a name is kept for a while as well: strangers who repeat a guess do not
    reach the database each time. Any other failure is told to those who wait and forgotten.
    """

    def __init__(self, load: Callable[[str], Awaitable[Value]], clock: Clock) -> None:
        self._load = load
        self._clock = clock
        self._known: dict[str, Value] = {}
        self._nothing: dict[str, tuple[TokenMartError, int]] = {}
        self._loading: dict[str, asyncio.Future[Value]] = {}
        self._generation = 0

    def peek(self, name: str) -> Value | None:
        return self._known.get(name)

    async def get(self, name: str) -> Value:
        found = self._known.get(name)
        if found is not None:
            return found
        nothing = self._nothing.get(name)
        if nothing is not None and self._clock() < nothing[1]:
            raise copy(nothing[0])
        waiting = self._loading.get(name)
        if waiting is None:
            waiting = asyncio.ensure_future(self._fill(name))
            self._loading[name] = waiting
        return await asyncio.shield(waiting)

    async def _fill(self, name: str) -> Value:
        generation = self._generation
        try:
            value = await self._load(name)
        except (NotFound, Unauthenticated) as nothing:
            if generation == self._generation:
                # Not the error itself: it would keep the frames that it comes through, and in them the
                # whole request of whoever has asked.
                _keep(self._nothing, name, (copy(nothing), self._clock() + _NOTHING_US))
            raise
        finally:
            if generation == self._generation:
                self._loading.pop(name, None)
        if generation == self._generation:
            _keep(self._known, name, value)
        return value

    def forget(self, name: str) -> None:
        self._known.pop(name, None)

    def clear(self) -> None:
        self._generation += 1
        self._known.clear()
        self._nothing.clear()
        # Who asks from now on must not get what was read before the change.
        self._loading = {}


def _keep(known: dict[str, Any], name: str, value: object) -> None:
    if len(known) >= _STRANGERS:
        known.clear()
    known[name] = value


class Directory:
    """Keys, listings and ladders by name."""

    def __init__(self, loader: Loader, clock: Clock = now_us) -> None:
        self._clock = clock
        self._keys: _Cache[KeyRecord] = _Cache(loader.key, clock)
        self._listings: _Cache[ListingRecord] = _Cache(loader.listing, clock)
        self._ladders: _Cache[OrgLadder] = _Cache(loader.ladder, clock)
        self._caps: _Cache[KeyCaps] = _Cache(loader.caps, clock)
        self._caches: dict[str, _Cache[Any]] = {
            "key": self._keys,
            "listing": self._listings,
            "ladder": self._ladders,
            "caps": self._caps,
        }
        self._versions: dict[str, int] = {}
        self._heard_at_us = clock()
        self._follower: Follower | None = None

    def followed_by(self, follower: Follower) -> None:
        """Tell somebody from now on what is forgotten, and when the markers were heard of."""
        self._follower = follower
        follower.heard(self._heard_at_us)

    def notice(self, versions: dict[str, int]) -> None:
        """Take note of the change markers; what they say has changed is forgotten."""
        late = self._clock() - self._heard_at_us > _STALE_US
        changed = False
        for name, version in versions.items():
            # What was loaded before the first news may be older than they are.
            if late or self._versions.get(name) != version:
                changed = True
                for cache in BEHIND[name]:
                    self._caches[cache].clear()
        self._versions = versions
        self._heard_at_us = self._clock()
        if self._follower is not None:
            if changed:
                self._follower.forgets(None)
            self._follower.heard(self._heard_at_us)

    def check_fresh(self, now_us: int) -> None:
        """Raise `Unavailable` when nobody has told us of changes for too long: a revoked key may be here."""
        if now_us - self._heard_at_us > _STALE_US:
            raise Unavailable(
                "This gateway cannot reach its database; nothing was charged.",
                code="directory_stale",
                rule="gateway.fresh",
                retry_after_s=5,
            )

    # What is in memory and good is returned at once by the functions with `known_`; None says that
    # it must be waited for. A call of an organisation that calls often waits for nothing.

    def known_key(self, secret: str) -> KeyRecord | None:
        """Return the key with this secret, if it is in memory."""
        return self._keys.peek(digest(secret))

    async def key(self, secret: str) -> KeyRecord:
        """Return the key with this secret; `Unauthenticated` when there is none."""
        return await self._keys.get(digest(secret))

    def known_listing(self, model: str) -> ListingRecord | None:
        """Return the listing that `model` calls, if it is in memory and its price still in force."""
        found = self._listings.peek(model.removesuffix(FREE_SUFFIX))
        return found if found is not None and found.until_us > self._clock() else None

    async def listing(self, model: str) -> ListingRecord:
        """Return the listing that `model` calls (`slug` or `slug:free`); `NotFound` if it may not be."""
        slug = model.removesuffix(FREE_SUFFIX)
        if self.known_listing(model) is None and self._listings.peek(slug) is not None:
            self._listings.forget(slug)
        return await self._listings.get(slug)

    def known_ladder(self, org_id: str, model: str, fresher_than_us: int = 0) -> OrgLadder | None:
        """Return who pays, if it is in memory, built after `fresher_than_us` and not past its own end."""
        found = self._ladders.peek(f"{org_id} {model}")
        if (
            found is not None
            and found.built_at_us >= fresher_than_us
            and found.good_until_us > self._clock()
        ):
            return found
        return None

    async def ladder(self, org_id: str, model: str, *, fresher_than_us: int = 0) -> OrgLadder:
        """Return who pays, built after `fresher_than_us` and not past its own end."""
        found = self.known_ladder(org_id, model, fresher_than_us)
        if found is None:
            name = f"{org_id} {model}"
            old = self.known_ladder(org_id, model)
            self._ladders.forget(name)
            if old is not None and self._follower is not None:
                self._follower.forgets(old)
            found = await self._ladders.get(name)
        return found

    def known_caps(self, key: KeyRecord) -> KeyCaps | None:
        """Return what the key may spend in the windows that it is in now, if that is in memory."""
        if key.daily_u is None and key.monthly_u is None:
            return NO_CAPS
        found = self._caps.peek(key.id)
        return found if found is not None and found.good_until_us > self._clock() else None

    async def caps(self, key: KeyRecord) -> KeyCaps:
        """Return what the key may spend in the windows that it is in now."""
        found = self.known_caps(key)
        if found is None:
            self._caps.forget(key.id)
            found = await self._caps.get(key.id)
        return found
