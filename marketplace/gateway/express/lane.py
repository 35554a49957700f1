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
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from catalog.ground.clock import now_us
from catalog.ground.driver import connect, sqlite_path
from catalog.ground.errors import RateLimited
from marketplace.gateway.counters import Counters
from marketplace.gateway.door import Connection, Door
from marketplace.gateway.express.resumed import Kind, Resumed
from marketplace.gateway.express.terms import Terms
from marketplace.gateway.hot import Hot
from marketplace.gateway.limits import Ticket
from marketplace.gateway.meters import Quota
from marketplace.gateway.money import Books, Call
from marketplace.gateway.options import Options
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.reserves import Promised, Reserve
from marketplace.gateway.seen import NEVER_US, Attempt, Seen
from marketplace.gateway.shapes import CHAT
from marketplace.gateway.upstream import head_of
from marketplace.ledger.chart import Code
from marketplace.ledger.dialect import dialect_of
from marketplace.ledger.operations import Charge, Entry, Leg
from marketplace.members.secrets import digest
from serving.routing import Choice

if TYPE_CHECKING:
    from marketplace.gateway.express._core import Core

log = logging.getLogger(__name__)

BACKLOG = 2048
_LOOK_S = 0.1
_MOST_KNOWN = 20_000
_LOCAL = "localhost"


def core_type() -> type[Core] | None:
    """Return the compiled core; None where it was not built for this Python."""
    try:
        from marketplace.gateway.express._core import Core
    except ImportError:
        return None
    return Core


def is_wanted(options: Options, hot: Hot) -> bool:
    """Return whether compiled code may serve: nobody is to be told of each call, and time is the system's."""
    told_of_each = options.log == "json" or options.trace_ratio > 0
    return options.gateway_express == "auto" and not told_of_each and hot.clock is now_us


class Hooks:
    """What the core asks of Python; all of it in the event loop's thread, and none of it waits."""

    def __init__(self, hot: Hot, door: Door) -> None:
        self._hot = hot
        self._door = door
        self._enter = hot.limits.enter
        self._only = hot.router.only
        self.loop = door.loop
        self.books: Books = hot.books
        self.default_max_tokens = hot.options.default_max_tokens
        self.open_reserves: dict[int, Reserve] = hot.reserves.open
        self.slow_us = hot.watcher.slow_us if hot.watcher is not None else NEVER_US
        self.answered = hot.router.answered
        self.ended = hot.router.ended
        self.abandoned = hot.router.abandoned

    @property
    def empty_until_us(self) -> dict[int, int]:
        """See `Reserves.empty_until_us`."""
        return self._hot.reserves.empty_until_us

    def connection(self, transport: Any) -> Connection:
        """Return Python's side of a connection."""
        made = self._door.connection()
        made.connection_made(transport)
        return made

    def enter(
        self, quotas: tuple[Quota, ...], tokens: int, at_us: int
    ) -> tuple[Ticket, bytes] | None:
        """Take a request and so many tokens of every quota; return its ticket and its header lines.

        None where a limit refuses: nothing has been taken, and Python will say why.
        """
        try:
            ticket = self._enter(quotas, tokens, at_us)
        except RateLimited:
            return None
        return ticket, b"".join([b"%b: %b\r\n" % header for header in ticket.headers()])

    def choose(self, terms: Terms) -> Choice[EndpointRecord] | None:
        """Take a place on the engine; None where anything is the matter with it."""
        return self._only(terms.endpoint, terms.key.org_id)

    def charge(
        self,
        tx: str,
        legs: tuple[tuple[int, int, int], ...],
        entries: tuple[tuple[int, int, int, int], ...],
        usage: tuple[Any, ...],
        at_us: int,
        waiting: Any,
    ) -> None:
        """Book a charge beside the reserves with Python's writer; `waiting` is told as a future would be."""
        self._hot.writer.enqueue(
            Charge(
                tx,
                tuple([Leg(*leg) for leg in legs]),
                tuple([Entry(Code(code), *rest) for code, *rest in entries]),
                tuple(usage),
                at_us,
            ),
            waiting,
        )

    def resumed(
        self,
        terms: Terms,
        ticket: Ticket,
        choice: Choice[EndpointRecord],
        promised: Promised,
        open_accounts: tuple[int, ...],
        generation_id: str,
        began_us: int,
        held_at_us: int,
        first_token_us: int,
        answered_at_us: int,
        input_tokens: int,
        max_tokens: int,
        streamed: bool,
        kind: Kind,
        sent: bool,
        began: bool,
        status: int,
        headers: Any,
        body: bytes,
    ) -> Resumed:
        """Return what a call has come to, for `door.Connection.resumed`; see `Resumed` for the arguments.

        `headers` may be a dict or pairs.
        """
        return Resumed(
            terms,
            ticket,
            choice,
            promised,
            open_accounts,
            generation_id,
            began_us,
            held_at_us,
            first_token_us,
            answered_at_us,
            input_tokens,
            max_tokens,
            streamed,
            kind,
            sent,
            began,
            status,
            dict(headers),
            body,
        )

    def seen(
        self,
        terms: Terms,
        generation_id: str,
        began_us: int,
        held_at_us: int,
        first_token_us: int,
        answered_at_us: int,
        settled_at_us: int,
        ended_us: int,
        max_tokens: int,
        streamed: bool,
        input_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        cost_u: int,
    ) -> None:
        """Take note of a call that took `slow_us` or longer; `first_token_us` is since its beginning."""
        watcher, engine = self._hot.watcher, terms.endpoint
        if watcher is None:
            return
        attempt = Attempt(
            engine.id, engine.url, engine.model, engine.provider, held_at_us, answered_at_us
        )
        seen = Seen(
            generation=generation_id,
            path=CHAT,
            status=200,
            error="",
            started_at_us=began_us,
            ended_at_us=ended_us,
            org=terms.key.org_id,
            key=terms.key.id,
            listing=terms.record.listing.slug,
            why="only",
            streamed=streamed,
            outcome="ok",
            usage_source="engine",
            max_tokens=max_tokens,
            input_tokens=input_tokens,
            cached_tokens=cached_tokens,
            output_tokens=output_tokens,
            cost_u=cost_u,
            hold_from_us=held_at_us,
            held_at_us=held_at_us,
            first_token_us=first_token_us,
            answered_at_us=answered_at_us,
            settled_at_us=settled_at_us,
            attempts=[attempt],
        )
        watcher.add(seen)


class Express:
    """The core of one worker, and its place in the event loop. It owns the listener and all connections."""

    def __init__(self, core: type[Core], hot: Hot, door: Door, listener: socket.socket) -> None:
        self._hot = hot
        self._loop = door.loop
        self._known: dict[tuple[str, str], Terms] = {}
        self._payers: set[int] = set()
        """By `id`: the ladders that terms hold."""
        self._leaving = False
        self._timer: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        listener.listen(BACKLOG)
        options = hot.options
        self._core = core(
            Hooks(hot, door),
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
        if options.database_url.startswith("sqlite"):
            path = sqlite_path(options.database_url)
            lane = await asyncio.to_thread(
                _open_lane, options.database_url, f"{options.lane}-express"
            )
            why = self._core.lane("charges", path, lane, options.books.clearing)
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
        """Let calls like this one be served by compiled code, where everything about them is plain.

        `name` is what was called with the key `secret`. The call has just been served, so whoever makes
        another may call this listing.
        """
        known = self._known.get((call.key.id, name))
        if known is not None and _is_of(known, call):
            return
        if self._leaving or not self._hot.reserves.stand_for(call):
            return
        try:
            terms = self._terms(secret, name, call)
            if terms is None:
                return
            if len(self._known) >= _MOST_KNOWN:
                self.forgets(None)
            self._known[(call.key.id, name)] = terms
            self._payers.add(id(terms.payer))
            self._core.lane("learn", bytes.fromhex(digest(secret)), name, terms)
        except Exception:
            log.exception("calls of %s cannot be served by compiled code", name)

    def _terms(self, secret: str, name: str, call: Call) -> Terms | None:
        """Return the terms of calls like this one; None where they are not plain, or no longer good."""
        hot, key, record = self._hot, call.key, call.record
        directory = hot.directory
        if (
            directory.known_key(secret) is not key
            or directory.known_listing(name) is not record
            or directory.known_ladder(key.org_id, name) is not call.payer
            or directory.known_caps(key) is not call.caps
        ):
            return None  # something has changed since the call began
        if key.networks or len(record.endpoints) != 1 or hot.turns.gate(record) is not None:
            return None
        (endpoint,) = record.endpoints
        if (
            endpoint.supports is not None
            or endpoint.max_concurrency is not None
            or endpoint.weight <= 0
        ):
            return None
        address = self._address(endpoint)
        if address is None:
            return None
        ends = [record.until_us, call.payer.good_until_us, call.caps.good_until_us]
        if key.expires_at_us is not None:
            ends.append(key.expires_at_us)
        return Terms(
            key,
            record,
            call.payer,
            call.caps,
            endpoint,
            hot.quotas.of(key, record),
            min(ends),
            address,
            head_of(endpoint, CHAT),
        )

    def _address(self, endpoint: EndpointRecord) -> tuple[str, int] | None:
        """Return where an engine listens, if that is plain HTTP to an address that cannot change.

        `localhost` may be two; the one that counts has a connection of Python's client.
        """
        where = urlsplit(endpoint.url)
        host = where.hostname or ""
        if where.scheme != "http" or (host != _LOCAL and not _is_numeric(host)):
            return None
        return self._hot.upstream.address_of(endpoint)

    def heard(self, at_us: int) -> None:
        """See `directory.Follower`."""
        self._core.lane("heard", at_us)

    def forgets(self, record: object | None) -> None:
        """See `directory.Follower`."""
        if self._known and (record is None or id(record) in self._payers):
            self._known.clear()
            self._payers.clear()
            self._core.lane("forget")

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
        self._core.lane("draining")
        self._core.close_idle()

    def close(self) -> None:
        """Book what is still to be booked, and look after the connections no longer."""
        self._core.lane("close")
        self._loop.remove_reader(self._fileno)
        if self._timer is not None:
            self._timer.cancel()


def _is_of(terms: Terms, call: Call) -> bool:
    """Return whether terms are made of the records that a call has."""
    return (
        terms.record is call.record
        and terms.payer is call.payer
        and terms.key is call.key
        and terms.caps is call.caps
    )


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
