"""Python's side of the express lane: what compiled code asks of the gateway, and what it is told.

    Hot ─── a call was served ───► Express.learn ─► Terms ─► core: such calls are its own from now on
    Directory ─ news ────────────► Express.heard, .forgets ─► core
    core ─── limits, places, charges, calls that are given back ───► Hooks ─► Hot's own objects

Whatever a call takes (limits, a place on an engine, a part of a reserve) is taken of the objects that
Python's calls use, in the event loop's thread, so nothing is known twice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from catalog.ground.clock import SECOND_US, now_us
from catalog.ground.driver import connect, sqlite_path
from marketplace.gateway.caps import KeyCaps
from marketplace.gateway.counters import Counters
from marketplace.gateway.door import Door
from marketplace.gateway.express.build import is_stale
from marketplace.gateway.express.hooks import Hooks
from marketplace.gateway.express.terms import Terms
from marketplace.gateway.hot import Hot
from marketplace.gateway.money import Call
from marketplace.gateway.options import Options
from marketplace.gateway.records import (
    FREE_SUFFIX,
    EndpointRecord,
    KeyRecord,
    ListingRecord,
    OrgLadder,
)
from marketplace.gateway.shapes import CHAT
from marketplace.gateway.upstream import Upstream, head_of
from marketplace.ledger.dialect import dialect_of
from marketplace.members.secrets import digest

if TYPE_CHECKING:
    from marketplace.gateway.express._core import Core

log = logging.getLogger(__name__)

BACKLOG = 2048
_LOOK_S = 0.1
_MOST_KNOWN = 20_000
_NAMED_US = 30 * SECOND_US
"""How long a name is taken to stand for the address to which Python's client had a connection."""


def core_type() -> type[Core] | None:
    """Return the compiled core; None where it was not built for this Python, or not of these sources."""
    try:
        from marketplace.gateway.express import _core
    except ImportError:
        return None
    if is_stale(_core):
        log.warning("the compiled code is of other sources, and is not used: make up")
        return None
    return _core.Core


def is_wanted(options: Options) -> bool:
    """Return whether compiled code may serve. It makes no traces."""
    return options.gateway_express == "auto" and not options.trace_ratio


def turn_of(options: Options) -> AbstractContextManager[Any] | None:
    """Return the turn that Python's writer takes where a compiled one books on the same database."""
    if not is_sqlite(options):
        return None
    from marketplace.gateway.express._core import Turn

    return Turn()


def is_sqlite(options: Options) -> bool:
    """Return whether the ledger is an SQLite file, for which there is a compiled writer."""
    return options.database_url.startswith("sqlite")


class _Records(NamedTuple):
    """What terms are made of, when they are."""

    key: KeyRecord
    record: ListingRecord
    payer: OrgLadder
    caps: KeyCaps
    until_us: int

    def are_of(self, call: Call, at_us: int) -> bool:
        """Return whether they are the same objects that a call has, and still good."""
        return (
            self.until_us > at_us
            and self.record is call.record
            and self.payer is call.payer
            and self.key is call.key
            and self.caps is call.caps
        )


class Express:
    """The core of one worker, and its place in the event loop. It owns the listener and all connections."""

    def __init__(self, core: type[Core], hot: Hot, door: Door, listener: socket.socket) -> None:
        self._hot = hot
        self._loop = door.loop
        self._listener = listener
        self._known: dict[tuple[str, str], _Records] = {}
        """By key and name: what was looked at last, whether the core was taught anything of it or not."""
        self._payers: set[int] = set()
        """By `id`: the ladders among them."""
        self._share = 0
        self._leaving = False
        self._timer: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        listener.listen(BACKLOG)
        options = hot.options
        self._hooks = Hooks(hot, door)
        self._core = core(
            self._hooks,
            listener=listener.fileno(),
            body_limit=options.body_limit_bytes,
            connect_s=options.upstream_connect_s,
            silence_s=options.upstream_silence_s,
        )
        self._fileno = self._core.fileno()
        hot.directory.followed_by(self)
        hot.learn = self.learn

    async def start(self) -> None:
        """Open the compiled writer of charges where there is one for the database, and serve."""
        options = self._hot.options
        if is_sqlite(options):
            path = sqlite_path(options.database_url)
            lane = await asyncio.to_thread(
                _open_lane, options.database_url, f"{options.lane}-express"
            )
            why = self._core.lane("charges", path, lane, options.books.clearing)
            self._hooks.books_itself = not why
            if why:
                log.warning("compiled code does not book its charges itself: %s", why)
        self._loop.add_reader(self._fileno, self._woken)

    # The event loop. While there are connections somebody looks around ten times a second, and otherwise
    # nothing runs.

    def _woken(self) -> None:
        self._core.poll()
        if self._timer is None and self._core.connections:
            self._attend()

    def _attend(self) -> None:
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        self._loop.add_reader(self._fileno, self._core.poll)

    def _look(self) -> None:
        self._timer = None
        try:
            self._core.look_around()
        finally:
            if self._core.connections:
                self._timer = self._loop.call_later(_LOOK_S, self._look)
            else:
                self._loop.add_reader(self._fileno, self._woken)

    def adopt(self, connection: socket.socket, read: bytes) -> None:
        """Serve a connection that another process has handed over."""
        self._core.adopt(connection.detach(), read)
        if self._timer is None:
            self._attend()

    # What it may serve.

    def learn(self, secret: str, name: str, call: Call) -> None:
        """Let calls like this one be served by compiled code, where everything about them is plain."""
        known = self._known.get((call.key.id, name))
        if known is not None and known.are_of(call, now_us()):
            return
        if self._leaving or not self._hot.reserves.stand_for(call):
            return
        try:
            if len(self._known) >= _MOST_KNOWN:
                self.forgets(None)
            self._payers.add(id(call.payer))
            ways = ways_of(self._hot, secret, name, call)
            if ways is None:
                return  # the next call may know more
            until_us = ways[0].until_us if ways else call.record.until_us
            self._known[(call.key.id, name)] = _Records(
                call.key, call.record, call.payer, call.caps, until_us
            )
            if ways:
                gate = self._hot.turns.gate(call.record)
                self._core.lane("learn", bytes.fromhex(digest(secret)), name, ways, gate)
        except Exception:  # the call that taught us has been served, and must not fail for it
            log.exception("calls of %s cannot be served by compiled code", name)

    def heard(self, at_us: int) -> None:
        """See `directory.Follower`."""
        self._core.lane("heard", at_us)

    def forgets(self, record: object | None) -> None:
        """See `directory.Follower`."""
        if self._known and (record is None or id(record) in self._payers):
            self._known.clear()
            self._payers.clear()
            self._core.lane("forget")

    def shared(self, workers: int) -> None:
        """Take note of how many workers there are: gates are measured anew when Python next asks for them."""
        if workers != self._share:
            self._share = workers
            self.forgets(None)

    # What is known of it.

    def count(self) -> None:
        """Add what it has counted to the worker's counters."""
        told = self._core.lane("told")
        if told:
            self._hot.counters.add(msgspec.convert(told, Counters))

    @property
    def running(self) -> int:
        """How many calls compiled code is serving."""
        return int(self._core.lane("running"))

    @property
    def queued(self) -> int:
        """How many charges wait for the compiled writer's next transaction."""
        return int(self._core.lane("queued"))

    @property
    def connections(self) -> int:
        """How many clients are connected, whoever serves them."""
        return self._core.connections

    # The end.

    def leave(self) -> None:
        """Take nothing more; idle connections are closed now, the others after their answer."""
        self._leaving = True
        self._core.stop_listening()
        self._listener.close()
        self._core.lane("draining")
        self._core.close_idle()

    def close(self) -> None:
        """Book what is still to be booked, and look after the connections no longer."""
        self._core.lane("close")
        self._loop.remove_reader(self._fileno)
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        """Close every connection that is still open; nothing can be asked of the lane any more."""
        self._core.close()


def ways_of(hot: Hot, secret: str, name: str, call: Call) -> tuple[Terms, ...] | None:
    """Return the terms of calls like this one, to each of the engines.

    `name` is what was called with the key `secret`; the call has just been served, so whoever makes another
    may call this listing. Nothing where anything about such calls is not plain, or is no longer good; None
    where not all engines have been reached yet.
    """
    key, record = call.key, call.record
    directory, endpoints = hot.directory, record.endpoints
    if (
        directory.known_key(secret) is not key
        or directory.known_listing(name) is not record
        or directory.known_ladder(key.org_id, name) is not call.payer
        or directory.known_caps(key) is not call.caps
    ):
        return ()  # something has changed since the call began
    if key.networks or any(engine.supports is not None for engine in endpoints):
        return ()
    if name.endswith(FREE_SUFFIX) and hot.turns.gate(record) is not None:
        return ()  # its turn comes behind those who pay
    if len(endpoints) == 1 and endpoints[0].weight <= 0:
        return ()  # among several the router sees to it
    hosts = [_plain_host(engine) for engine in endpoints]
    if None in hosts:
        return ()
    ends = [record.until_us, call.payer.good_until_us, call.caps.good_until_us]
    if key.expires_at_us is not None:
        ends.append(key.expires_at_us)
    if not all(_is_numeric(host) for host in hosts if host):
        ends.append(now_us() + _NAMED_US)
    quotas = hot.quotas.of(key, record)
    ways = []
    for engine in endpoints:
        address = _address(hot.upstream, engine)
        if address is None:
            return None
        ways.append(
            Terms(
                key,
                record,
                call.payer,
                call.caps,
                engine,
                quotas,
                min(ends),
                address,
                head_of(engine, CHAT),
            )
        )
    return tuple(ways)


def _plain_host(endpoint: EndpointRecord) -> str | None:
    """Return the host of an engine that is asked over plain HTTP, None for any other."""
    where = urlsplit(endpoint.url)
    return where.hostname if where.scheme == "http" else None


def _address(upstream: Upstream, endpoint: EndpointRecord) -> tuple[str, int] | None:
    """Return where an engine listens; None while nobody knows what its name stands for."""
    where = urlsplit(endpoint.url)
    host = where.hostname or ""
    return (host, where.port or 80) if _is_numeric(host) else upstream.reached_at(endpoint)


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _open_lane(url: str, name: str) -> int:
    """Return the id of a lane of the ledger, opened for this writer alone."""
    connection = connect(url)
    try:
        return dialect_of(connection).open_lane(name, now_us())
    finally:
        connection.close()
