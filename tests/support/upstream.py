"""An engine whose answers are scripted, and what a test needs to put it behind a listing.

It runs in a thread of the test, speaks chat/completions, completions, embeddings, moderations, responses
and messages, and keeps what it was asked. By default every answer says "Hello, world" and has 11 tokens of
input and 5 of output, whatever the request; `script` makes the next ones different.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import httptools
from sqlmodel import col, select
from support.market import Market
from support.upstream_answers import ANSWERS, Json

from catalog.ground.clock import now_us
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint
from marketplace.ledger.tables import Hold, UsageEvent

_RESET = struct.pack("ii", 1, 0)


@dataclass
class Asked:
    """One request that came in. `path` has no query."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Json:
        found: Json = json.loads(self.body)
        return found


@dataclass
class Reply:
    """What to do with a request: send `document`, or `events` one by one.

    With `fails` the connection ends after `after` events (for a document: at once, or in its middle when
    `after` is not 0). With `waits` nothing goes on, after so many events, before `Upstream.go`.
    """

    document: Json | None = None
    events: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    fails: Literal["", "reset", "close"] = ""
    after: int = 0
    waits: bool = False


Answerer = Callable[[Asked], Reply]


def usual(asked: Asked) -> Reply:
    """Return the answer that the path and `stream` call for."""
    document, events = ANSWERS[asked.path]
    if asked.document.get("stream"):
        return Reply(events=events(asked.document))
    return Reply(document(asked.document))


def refuses(status: int, message: str = "no", **error: Any) -> Reply:
    """Return a refusal in OpenAI's shape."""
    return Reply({"error": {"message": message, **error}}, status=status)


class Upstream:
    """One engine on a port of its own. `asked` are the calls it got (not `/tokenize`), in order."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.counted = 0
        """How often it was asked how many tokens a prompt has."""
        self.aborted = 0
        self.running = 0
        self.most_running = 0
        self.answer: Answerer = usual
        self.tokens = 11
        self._script: deque[Reply | Answerer] = deque()
        self._loop = asyncio.new_event_loop()
        self._go = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: set[_Connection] = set()
        self.port = 0

    def script(self, *replies: Reply | Answerer) -> None:
        """Answer the next calls so."""
        self._script.extend(replies)

    def go(self) -> None:
        """Let everything that waits go on, now and from now on."""
        self._loop.call_soon_threadsafe(self._go.set)

    def wait_again(self) -> None:
        """Let what waits wait until the next `go`."""
        self._loop.call_soon_threadsafe(self._go.clear)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Forget what was asked and what is scripted."""
        self.asked.clear()
        self._script.clear()
        self.aborted = self.most_running = self.counted = 0
        self.answer = usual
        self.tokens = 11
        self.wait_again()

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._run(self._listen()).result(5)

    def down(self) -> None:
        """Refuse connections, and break off those that are open."""
        self._run(self._hush()).result(5)

    def stop(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _hush(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._open):
            connection.transport.abort()
        await asyncio.sleep(0)

    def reply(self, asked: Asked) -> Reply:
        """Return what to do with a request, and keep it."""
        self.asked.append(asked)
        following = self._script.popleft() if self._script else self.answer
        return following if isinstance(following, Reply) else following(asked)


class _Connection(asyncio.Protocol):
    def __init__(self, engine: Upstream) -> None:
        self._engine = engine
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._engine._open.add(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine._open.discard(self)
        if self._work is not None and not self._work.done():
            self._engine.aborted += 1
            self._work.cancel()

    def on_message_begin(self) -> None:
        self._url = self._body = b""
        self._headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path = self._url.decode().partition("?")[0]
        if path == "/tokenize":
            self._engine.counted += 1
            self._send(Reply({"count": self._engine.tokens}))
            return
        reply = self._engine.reply(Asked(path, self._headers, self._body))
        self._work = asyncio.ensure_future(self._answer(reply))

    async def _answer(self, reply: Reply) -> None:
        engine = self._engine
        engine.running += 1
        engine.most_running = max(engine.most_running, engine.running)
        try:
            if reply.events:
                await self._stream(reply)
                return
            if reply.waits:
                await engine._go.wait()
            if reply.fails:
                self._break(reply)
            else:
                self._send(reply)
        finally:
            engine.running -= 1

    async def _stream(self, reply: Reply) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for number, event in enumerate(reply.events):
            if number == reply.after:
                if reply.waits:
                    await self._engine._go.wait()
                if reply.fails:
                    self._break(reply)
                    return
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(0)
        self.transport.write(b"0\r\n\r\n")

    def _send(self, reply: Reply) -> None:
        body = json.dumps(reply.document, ensure_ascii=False).encode()
        headers = {"content-type": "application/json", "content-length": len(body)} | reply.headers
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 {reply.status} Status\r\n{head}\r\n".encode() + body)

    def _break(self, reply: Reply) -> None:
        if not reply.events and reply.after:
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
        if reply.fails == "reset":
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self.transport.close()


@contextlib.contextmanager
def upstreams(count: int) -> Iterator[list[Upstream]]:
    """Run so many engines."""
    made = [Upstream() for _ in range(count)]
    try:
        for engine in made:
            engine.start()
        yield made
    finally:
        for engine in made:
            engine.stop()


def add_endpoint(market: Market, listing: str, engine: Upstream, **columns: Any) -> str:
    """Put an engine behind a listing; return the endpoint's id."""
    made = Endpoint(
        id=new_id("ept"),
        listing=listing,
        url=engine.url,
        updated_at_us=now_us(),
        **({"model": "m"} | columns),
    )
    endpoint = made.id
    with market._database() as database, database.session() as session:
        session.add(made)
        session.flush()
        raise_marker(session, ENDPOINTS)
    return endpoint


def change_endpoints(market: Market, listing: str, **columns: Any) -> list[str]:
    """Set columns of all endpoints of a listing; return their ids. Gateways hear of it a moment later."""
    with market._database() as database, database.session() as session:
        query = select(Endpoint).where(Endpoint.listing == listing).order_by(col(Endpoint.id))
        found = session.exec(query).all()
        for row in found:
            for name, value in columns.items():
                setattr(row, name, value)
            session.add(row)
        session.flush()
        raise_marker(session, ENDPOINTS)
        return [row.id for row in found]


def events_of(market: Market, org_id: str) -> list[UsageEvent]:
    """Return an organisation's usage events in the order in which their calls began."""
    with market._database() as database, database.reading() as session:
        query = select(UsageEvent).where(UsageEvent.org_id == org_id)
        return list(session.exec(query.order_by(col(UsageEvent.started_at_us))).all())


def holds_of(market: Market, org_id: str) -> int:
    """Return how many holds of an organisation's calls are open; reserves are for calls to come."""
    with market._database() as database, database.reading() as session:
        open_ = session.exec(select(Hold.tx).where(Hold.org_id == org_id)).all()
        return len([tx for tx in open_ if not tx.startswith("res_")])
