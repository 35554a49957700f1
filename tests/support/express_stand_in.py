"""A gateway in the test's own process, and a stand-in for the compiled lane that gives every call up.

The stand-in does what compiled code does with a call (takes limits, a place, its part of the reserves, asks
the engine, sends on what comes of a stream) and then hands it to Python, as the lane does when anything is
unusual. What comes of that call must be what would have come of it had Python served it from its first byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import text
from support.market import Market

from catalog.ground.clock import now_us
from catalog.ground.driver import connect
from catalog.ground.errors import TokenMartError
from catalog.ground.ids import new_id
from marketplace.app import _books
from marketplace.gateway.directory import Directory
from marketplace.gateway.door import Door
from marketplace.gateway.express.hooks import Hooks
from marketplace.gateway.express.lane import Express
from marketplace.gateway.express.terms import Terms
from marketplace.gateway.flight import Answer, Flight
from marketplace.gateway.hot import Hot
from marketplace.gateway.lookup import InThreads, Lookup
from marketplace.gateway.money import Call
from marketplace.gateway.options import Options
from marketplace.gateway.request import ClientGone
from marketplace.gateway.reserves import BUSY, PLENTY
from marketplace.gateway.seen import Watcher
from marketplace.gateway.shapes import CHAT, Talk
from marketplace.gateway.sse import StreamReader
from marketplace.gateway.upstream import Upstream, head_of
from marketplace.gateway.wire import WireError
from marketplace.ledger.writer import LedgerWriter

if TYPE_CHECKING:
    from marketplace.gateway.express._core import Core

SILENCE_S = 0.3
_TEMPLATE_TOKENS = 64
_BYTES_A_TOKEN = 4
_NUMERIC = ("dr_pending", "dr_posted", "cr_pending", "cr_posted")


@dataclass
class Caller:
    """An organisation with a key, and what it calls."""

    org_id: str
    key: str
    slug: str

    def request(self, **fields: Any) -> bytes:
        document = {"model": self.slug, "messages": [{"role": "user", "content": "hello"}]}
        body = json.dumps(document | fields).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Gateway:
    """Hot path and door as a worker has them. With `lane` set, connections are taken by the stand-in."""

    def __init__(self, market: Market, hot: Hot, door: Door) -> None:
        self.market, self.hot, self.door = market, hot, door
        self.hooks = Hooks(hot, door)
        self.lane = False
        self.charges_first = False
        """Whether the stand-in books the charge itself, and does not know that it has."""
        self.leaves_after: bool | None = None
        """Let the client leave instead of asking an engine, after that may have heard of it or before."""
        self.port = 0
        self.express: Express | None = None
        """The compiled lane, which takes the stand-in's part where there is one."""
        self.express_port = 0

    def protocol(self) -> asyncio.Protocol:
        return StandIn(self) if self.lane else self.door.connection()

    async def told(self, request: bytes, until: Callable[[bytes], bool] | None = None) -> bytes:
        """Send a request and return the whole answer; or leave when `until` says so of what has come."""
        port = self.express_port if self.lane and self.express is not None else self.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        told = b""
        while not _is_whole(told) if until is None else not until(told):
            try:
                piece = await asyncio.wait_for(reader.read(65536), 0.02 if until else 10)
            except TimeoutError:
                if until is None:
                    raise
                continue
            if not piece:
                break
            told += piece
        if until is not None:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return told

    async def busy(self, caller: Caller) -> None:
        """Let the caller have a reserve."""
        lane, self.lane = self.lane, False
        await asyncio.gather(*(self.told(caller.request()) for _ in range(BUSY)))
        while self.hot.reserves._tasks:
            await asyncio.gather(*self.hot.reserves._tasks)
        await self.quiet()
        before = self.hot.counters.promised
        await self.told(caller.request())
        await self.quiet()
        assert self.hot.counters.promised == before + 1
        self.lane = lane

    async def quiet(self) -> None:
        """Wait until nothing runs."""
        for _ in range(500):
            others = self.express.running if self.express is not None else 0
            others += sum(one.busy for one in StandIn.alive)
            if not self.hot.running and not others:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("a call does not end")

    def rows(self, sql: str, **named: Any) -> list[dict[str, Any]]:
        with self.market._database() as database, database.reading() as session:
            found = session.connection().execute(text(sql), named)
            return [dict(row) for row in found.mappings()]

    def standing(self, caller: Caller) -> dict[str, Any]:
        """Return all that a call may have changed, without the names and instants that differ each time."""
        hot = self.hot
        ladder = hot.directory.known_ladder(caller.org_id, caller.slug)
        assert ladder is not None
        accounts = {
            number: self.rows(
                f"SELECT {', '.join(_NUMERIC)} FROM ledger_account WHERE id = :id", id=account
            )
            for number, account in enumerate(ladder.accounts)
        }
        events = self.rows(
            "SELECT * FROM usage_event WHERE org_id = :org ORDER BY started_at_us",
            org=caller.org_id,
        )
        transfers = [
            self.rows(
                "SELECT leg, kind, code, amount FROM ledger_transfer WHERE tx = :tx ORDER BY seq",
                tx=event["id"],
            )
            for event in events[BUSY:]
        ]
        for event in events:
            for name in (
                *("id", "lane", "seq", "org_id", "key_id", "project_id", "listing_id", "listing"),
                *("started_at_us", "settled_at_us", "ended_at_us", "owner_org", "price_version_id"),
                *("request_sha256", "price_version", "project", "key"),
            ):
                event.pop(name, None)
            for name in [name for name in event if name.endswith("_us") or name == "endpoint_id"]:
                event[name] = bool(event[name])
            event["route"] = re.sub(r"ept_\w+", "ENDPOINT", str(event["route"]))
        holds = self.rows("SELECT tx FROM ledger_hold WHERE org_id = :org", org=caller.org_id)
        health = [hot.router._known[e.id] for e in self._record(caller).endpoints]
        meters = [
            meter for subject, meter in hot.limits._meters.items() if not subject.startswith("list")
        ]
        return {
            "accounts": accounts,
            "events": events,
            "transfers": transfers,
            "holds": [hold["tx"] for hold in holds if not hold["tx"].startswith("res_")],
            "reserved": [
                (reserve.out, reserve.calls, reserve.most, reserve.amount)
                for reserve in hot.reserves._open.values()
                if reserve.org_id == caller.org_id
            ],
            "open": dict(hot.open_calls),
            "engines": [
                (
                    *(each.in_flight, each.successes, len(each.errors), each.open, each.trips),
                    *(bool(each.shut_until_s), len(each.rates), len(each.first_tokens)),
                )
                for each in health
            ],
            "turns": [
                (gate.running, gate.admitted, gate._usual_output, gate._paid.last.counter)
                for gate in [hot.turns.gate(self._record(caller))]
                if gate is not None
            ],
            "running": [meter.running for meter in meters if meter.running],
        }

    def _record(self, caller: Caller) -> Any:
        record = self.hot.directory.known_listing(caller.slug)
        assert record is not None
        return record

    def terms(self, caller: Caller) -> tuple[Terms, ...]:
        """Return the terms that the lane would have been taught."""
        directory = self.hot.directory
        key, record = directory.known_key(caller.key), self._record(caller)
        assert key is not None
        payer, caps = directory.known_ladder(key.org_id, caller.slug), directory.known_caps(key)
        assert payer is not None
        assert caps is not None
        quotas = self.hot.quotas.of(key, record)
        return tuple(
            Terms(
                key, record, payer, caps, engine, quotas, 1 << 62,
                ("127.0.0.1", int(engine.url.rpartition(":")[2])), head_of(engine, CHAT),
            )
            for engine in record.endpoints
        )  # fmt: skip

    def caller_of(self, request: bytes) -> Caller:
        head, _, body = request.partition(b"\r\n\r\n")
        key = head.partition(b"Bearer ")[2].partition(b"\r\n")[0].decode()
        return Caller("", key, json.loads(body)["model"])


class StandIn(asyncio.Protocol):
    """One connection: its first request is begun here and given up to Python."""

    alive: set[StandIn] = set()  # noqa: RUF012

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._read = b""
        self._flight: Flight | None = None
        self._left = False
        self._task: asyncio.Task[None] | None = None
        self.reader = StreamReader()
        self.raw: list[bytes] = []
        self.began = self.failed = False
        self.first_token_us = 0

    @property
    def busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.alive.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = True
        if self._flight is not None:
            self._flight.cut_off(ClientGone())

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if end and len(body) >= length and self._task is None:
            self._task = asyncio.ensure_future(self._take(body))

    async def _take(self, body: bytes) -> None:
        gateway, hot = self._gateway, self._gateway.hot
        began_us = now_us()
        ways = gateway.terms(gateway.caller_of(self._read))
        way = ways[0]
        talk = Talk(CHAT, body)
        asked = talk.envelope.asked_max_tokens or way.record.listing.max_output_tokens
        self._call = call = Call(
            id=new_id("gen"), key=way.key, record=way.record, payer=way.payer, books=hot.books,
            input_tokens=len(body) + _TEMPLATE_TOKENS, choices=1, max_tokens=asked or 4096,
            started_at_us=began_us, streamed=bool(talk.envelope.stream), request_sha256="",
            endpoint=way.endpoint, caps=way.caps,
        )  # fmt: skip
        open_accounts = tuple(a for a in call.accounts if a in hot.reserves._open)
        assert hot.reserves.promise(call)
        most = call.input_tokens + call.max_tokens
        ticket = hot.limits.enter(way.quotas, most, began_us)
        lines = b"".join(b"%b: %b\r\n" % header for header in ticket.headers())
        if len(ways) > 1:
            choice = gateway.hooks.choose(ways, body, "")
            assert choice is not None
            way = next(each for each in ways if each.endpoint is choice.candidate)
        else:
            choice = hot.router.choose(way.record.endpoints, caller=way.key.org_id)
        self._choice, self._lines = choice, lines
        gate, place = hot.turns.gate(way.record), None
        if gate is not None:
            place = gate.enter_now(way.key.org_id, call.input_tokens // _BYTES_A_TOKEN)
            assert place is not None
        hot.counters.promised += 1
        kind, answer = await self._ask(way, talk)
        sent = self._flight is not None and self._flight.sent
        if gateway.leaves_after is not None:
            sent = gateway.leaves_after
        answered_us = now_us() if kind in ("answer", "left") else 0
        if gateway.charges_first:
            await self._charge()
        streamed = call.streamed and answer.status in (0, 200)
        resumed = gateway.hooks.resumed(
            way, ticket, choice, call.promised, open_accounts, call.id, began_us, began_us,
            self.first_token_us, answered_us, call.input_tokens, call.max_tokens, call.streamed,
            cast(Any, kind), sent, self.began,
            answer.status, answer.headers, self.tail() if streamed else answer.body, gate, place,
            lines,
        )  # fmt: skip
        self._give_up(resumed)

    async def _ask(self, way: Terms, talk: Talk) -> tuple[str, Answer]:
        call = self._call
        path, body = talk.request_for(way.endpoint, call)
        assert path == CHAT
        framing = f"x-request-id: {call.id}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        self._flight = flight = Flight(self._piece if call.streamed else None)
        # With kept connections, as Python's call would have it.
        pool = self._gateway.hot.upstream._pools[way.endpoint.url]
        nothing = Answer(0, {}, b"")
        if self._gateway.leaves_after is not None:
            self._transport.abort()
            while not self._left:
                await asyncio.sleep(0)
            return "left", nothing
        try:
            answer = await pool.request(way.head + framing + body, flight)
        except ClientGone:
            return "left", nothing
        except TimeoutError:
            return "silent", nothing
        except WireError:
            return "broken", nothing
        except OSError:
            return "unreachable", nothing
        return "answer", answer

    def _piece(self, data: bytes) -> None:
        hot, call = self._gateway.hot, self._call
        self.raw.append(data)
        forward = b""
        try:
            forward = self.reader.feed(data)
        except TokenMartError:
            self.failed = True
        if forward:
            hot.counters.chunks += 1
            if not self.began:
                self.began = True
                hot.router.answered(self._choice)
                self.first_token_us = now_us() - call.started_at_us
                self._transport.write(self._head())
            self._transport.write(b"%x\r\n%b\r\n" % (len(forward), forward))
        if (self.failed or self.reader.failed is not None) and self._flight is not None:
            self._flight.cut_off(WireError("it has failed", reached=True))

    def _head(self) -> bytes:
        generation = self._call.id.encode()
        named = (b"x-tm-generation", b"x-request-id", b"request-id")
        lines = [b"HTTP/1.1 200 OK", b"content-type: text/event-stream; charset=utf-8"]
        lines += [b"cache-control: no-cache", b"x-accel-buffering: no"]
        lines += [name + b": " + generation for name in named]
        lines.append(b"x-tm-price-version: " + self._call.record.price_version_id.encode())
        return b"\r\n".join([*lines, self._lines + b"transfer-encoding: chunked\r\n\r\n"])

    def tail(self) -> bytes:
        """Return what `StreamReader::tail` returns of what has come."""
        reader = self.reader
        if reader.usage is None or self.failed or reader.failed is not None:
            return b"".join(self.raw)
        events = [reader.usage]
        if reader.usage_chunk is not None and reader.usage_chunk is not reader.usage:
            events.insert(0, reader.usage_chunk)
        if reader.done:
            events.append(b"data: [DONE]")
        whole = b"".join(event + b"\n\n" for event in events)
        return whole + b"".join([*reader._events._held, reader._events._edge])

    async def _charge(self) -> None:
        """Book what Python will book again."""
        from marketplace.gateway.usage import usage_of
        from marketplace.prices.usage import read_usage

        call, hot = self._call, self._gateway.hot
        assert self.reader.usage is not None
        usage, raw = usage_of(self.reader.usage)
        assert usage is not None
        used = call.bounded(read_usage(usage))
        plan = call.draw(
            call.max_tokens, dict.fromkeys([r.account_id for r, _ in call.promised], PLENTY)
        )
        call.plan = plan
        bill = call.settle(used.buckets, raw, "engine", "ok", now_us())
        done = asyncio.get_running_loop().create_future()
        charge = bill.charge(call)
        await hot.writer.apply(charge)
        # As where a compiled writer has booked it and cannot tell.
        self._gateway.hooks.books_itself = True
        self._gateway.hooks.charge(
            charge.tx, cast(Any, charge.legs), cast(Any, charge.entries), charge.usage, charge.at_us, done
        )  # fmt: skip
        await done

    def _give_up(self, resumed: Any) -> None:
        connection = self._gateway.door.connection()
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        assert connection.idle
        connection.resumed = resumed
        connection.data_received(self._read)
        assert not connection.idle
        if self._left:
            connection.connection_lost(None)


@asynccontextmanager
async def gateway_on(
    market: Market, core: type[Core] | None = None, **options: Any
) -> AsyncIterator[Gateway]:
    """Serve a seeded marketplace's calls from this process; with a `core` there is the compiled lane, too."""
    with market._database() as database:
        with database.session() as session:
            books = _books(session)
        told: dict[str, Any] = {"upstream_silence_s": SILENCE_S, "log": "off", "key_rpm": 10_000}
        told_all = told | options
        given = Options(database_url=database.url, lane=new_id("gateway"), books=books, **told_all)
        directory = Directory(InThreads(Lookup(database)))
        upstream = Upstream(1.0, SILENCE_S)
        writer = await asyncio.to_thread(
            LedgerWriter, lambda: connect(given.database_url), given.lane
        )
        hot = Hot(given, directory, writer, upstream, books, cast(Any, None))
        if Watcher.wanted(given):
            hot.watcher = Watcher(given, hot.clock, lambda _: None, lambda: 0)
        door = Door(hot.serve, hot.turned_away, None, 1_000_000, frozenset())
        gateway = Gateway(market, hot, door)
        server = await asyncio.get_running_loop().create_server(gateway.protocol, "127.0.0.1", 0)
        gateway.port = server.sockets[0].getsockname()[1]
        if core is not None:
            listener = socket.create_server(("127.0.0.1", 0))
            gateway.express_port = listener.getsockname()[1]
            gateway.express = Express(core, hot, door, listener)
            await gateway.express.start()
        try:
            yield gateway
        finally:
            server.close()
            door.close()
            if gateway.express is not None:
                gateway.express.leave()
                gateway.express.close()
            await upstream.close()
            await hot.reserves.close()
            await asyncio.to_thread(writer.close)


def _is_whole(told: bytes) -> bool:
    head, end, body = told.partition(b"\r\n\r\n")
    if not end:
        return False
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])


def unchunked(told: bytes) -> tuple[list[str], bytes]:
    """Return an answer's head, line by line, and its body without framing."""
    head, _, body = told.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            if not size.strip() or not int(size, 16):
                break
            whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
        body = whole
    return head.decode().split("\r\n"), body
