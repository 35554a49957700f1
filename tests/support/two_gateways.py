"""The same calls through two gateways, with compiled code and without: what came of them, made comparable.

Compiled code serves busy accounts alone. So each gateway has a caller of its own in the background, who keeps
the account busy by calls to another listing, and a call is tried again until it was served as it should be.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlmodel import col, select
from support.market import Market, environment_of
from support.upstream import Asked, Upstream

from catalog.ground.ids import ulid
from marketplace.ledger.chart import Kind
from marketplace.ledger.tables import Lane, Transfer, UsageEvent
from marketplace.prices.components import Components

PATH = "/v1/chat/completions"
PRICE = Components(
    input_u_per_m=3_000_000,
    output_u_per_m=9_000_000,
    cache_read_u_per_m=300_000,
    reasoning_u_per_m=11_000_000,
)
VOUCHER_U = 10**12
_PACE_S = 0.03
"""Between two calls of the background: some 30 a second, of which 8 keep a reserve."""
_PATIENCE_S = 30
_UNLIKE = ("id", "lane", "seq", "org_id", "key_id", "listing", "endpoint_id", "owner_org_id")
_UNLIKE_TOO = ("price_version_id", "started_at_us", "first_token_us", "ended_at_us")
_GENERATION = re.compile(rb"gen_[0-9A-Z]{26}")
_ENDPOINT = re.compile(r"ept_[0-9A-Z]{26}")
_SAID = ("event", "level", "status", "error", "why", "stream", "outcome", "usage_source", "cost_u")
_PHASES_NOT_ALWAYS = ("hold_ms",)
"""A promise may take less than a microsecond."""
_MOVING = ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens")
_MOVING_TOO = ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-tm-price-version")


@dataclass
class Outcome:
    """What a call came to, without what differs from call to call."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    asked: list[tuple[dict[str, str], bytes]]
    """What the engine was asked; once, where it hung up on a kept connection and was asked again."""
    event: dict[str, Any]
    """The usage event; nothing where there is none."""
    moved: list[tuple[int, int, int]]
    """The charge or settlement: code, kind of transfer and amount."""
    compiled: bool = field(default=False, compare=False)
    """Whether compiled code has booked it."""
    generation: str = field(default="", compare=False)
    line: dict[str, Any] = field(default_factory=dict)
    """What the log says of it, where it was looked up; of times only which there are."""

    @property
    def charged(self) -> bool:
        """Whether it was booked without a hold of its own."""
        return bool(self.moved) and all(kind == Kind.POSTED for _, kind, _ in self.moved)

    def unlike(self, other: Outcome) -> dict[str, tuple[Any, Any]]:
        """Return what is not the same: this one's and the other's."""
        mine, yours = (
            {
                "status": o.status,
                "headers": o.headers,
                "body": o.body,
                "asked": o.asked,
                "moved": o.moved,
                "line": o.line,
            }
            | o.event
            for o in (self, other)
        )
        return {
            name: (mine.get(name), yours.get(name))
            for name in {**mine, **yours}
            if mine.get(name) != yours.get(name)
        }


class Gateway:
    """A marketplace with two listings on scripted engines, and an organisation that is busy."""

    def __init__(
        self, market: Market, engine: Upstream, background: Upstream, listings: int
    ) -> None:
        self.market = market
        self.engine = engine
        self._org, self.key = market.organisation(VOUCHER_U)
        like = {"model": "m", "context_length": 100_000}
        made = [market.listing(PRICE, url=engine.url, **like) for _ in range(listings)]
        self._models = deque(made)
        self._other = market.listing(PRICE, url=background.url, **like)
        where = urlsplit(market.url)
        self._place = (where.hostname or "", where.port or 0)
        self._stop = threading.Event()
        self._caller = threading.Thread(target=self._keep_busy, daemon=True)
        self._caller.start()
        self._connection: http.client.HTTPConnection | None = None

    @property
    def model(self) -> str:
        """The listing that is called."""
        return self._models[0]

    @contextlib.contextmanager
    def calling(self, listing: str) -> Iterator[None]:
        """Call this listing meanwhile."""
        self._models.appendleft(listing)
        try:
            yield
        finally:
            self._models.remove(listing)

    def turn(self) -> None:
        """Go on with the next listing, whose engine has not failed for the longest time."""
        self._models.rotate(-1)

    def close(self) -> None:
        """End the background's calls."""
        self._stop.set()
        self._caller.join()
        if self._connection is not None:
            self._connection.close()

    def _keep_busy(self) -> None:
        connection = http.client.HTTPConnection(*self._place)
        body = _body({"model": self._other, "messages": [], "max_tokens": 5})
        while not self._stop.wait(_PACE_S):
            connection.request("POST", PATH, body, self._headers({}))
            connection.getresponse().read()
        connection.close()

    def _headers(self, more: dict[str, str]) -> dict[str, str]:
        named = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        return named | more

    def call(self, body: bytes, more: dict[str, str] | None = None) -> Outcome:
        """Make one call with a body in which `MODEL` stands for the listing's name."""
        self.engine.asked.clear()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._place, timeout=30)
        sent = body.replace(b"MODEL", self.model.encode())
        self._connection.request("POST", PATH, sent, self._headers(more or {}))
        answer = self._connection.getresponse()
        try:
            told = answer.read()
        except http.client.IncompleteRead as cut:
            told = cut.partial + b" (broken off)"
        if answer.will_close:
            self._connection.close()
            self._connection = None
        generation = answer.headers.get("x-tm-generation", "")
        event, moved, compiled = self._booked(generation)
        return Outcome(
            answer.status,
            [
                (name, self._plain_header(name.lower(), value))
                for name, value in answer.headers.items()
            ],
            self._plain(told),
            self._asked(),
            event,
            moved,
            compiled,
            generation,
        )

    def wait_until_busy(self, served: Callable[[Outcome], bool]) -> None:
        """Wait until an ordinary call is served so."""
        body = _body({"model": "MODEL", "messages": [{"role": "user", "content": "hello"}]})
        deadline = time.monotonic() + _PATIENCE_S
        while not served(self.call(body)):
            assert time.monotonic() < deadline, "the account does not get busy"
            time.sleep(_PACE_S)

    def _asked(self) -> list[tuple[dict[str, str], bytes]]:
        asked: list[tuple[dict[str, str], bytes]] = []
        for one in self.engine.asked:
            told = (_heads(one, self.engine), self._plain(one.body))
            asked += [told] if asked[-1:] != [told] else []
        return asked

    def logged(self, generation: str) -> dict[str, Any]:
        """Return the line of a call, which comes a moment after it; nothing for one without a generation."""
        if not generation:
            return {}
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            found = [
                line for line in list(self.market.printed) if generation in line and line[0] == "{"
            ]
            if found:
                told = json.loads(found[-1])
                return {
                    name: name.endswith("_ms") or (value if name in _SAID else "…")
                    for name, value in told.items()
                    if name not in _PHASES_NOT_ALWAYS
                }
            assert time.monotonic() < deadline, f"nothing is said of {generation}"
            time.sleep(_PACE_S)

    def _plain(self, told: bytes) -> bytes:
        return _GENERATION.sub(b"gen_0", told).replace(self.model.encode(), b"MODEL")

    def _plain_header(self, name: str, value: str) -> str:
        if name in (*_MOVING, *_MOVING_TOO, "date"):
            return "…"
        return self._plain(value.encode()).decode()

    def _booked(self, generation: str) -> tuple[dict[str, Any], list[tuple[int, int, int]], bool]:
        with self.market._database() as database, database.reading() as session:
            event = session.get(UsageEvent, generation)
            if event is None:
                return {}, [], False
            query = select(Transfer).where(Transfer.tx == generation).order_by(col(Transfer.leg))
            moved = [(row.code, row.kind, row.amount) for row in session.exec(query)]
            lane = session.get_one(Lane, event.lane).name
            told = event.model_dump(exclude={*_UNLIKE, *_UNLIKE_TOO, "request_sha256"})
            told["first_token"] = event.first_token_us > 0
            told["route"] = _ENDPOINT.sub("ept_0", event.route)
            return told, moved, lane.endswith("-express")


def _body(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _heads(asked: Asked, engine: Upstream) -> dict[str, str]:
    told = {}
    for name, value in asked.headers.items():
        plain = _GENERATION.sub(b"gen_0", value.encode("latin-1")).decode("latin-1")
        told[name] = plain.replace(str(engine.port), "PORT")
    del told["content-length"]  # the listings' names are as long as each other, not as `MODEL`
    return told


@dataclass
class Two:
    """A gateway with compiled code, and one without."""

    compiled: Gateway
    plain: Gateway

    def both(
        self, body: bytes, prepare: Callable[[Upstream], None] = lambda _: None, **headers: str
    ) -> tuple[Outcome, Outcome]:
        """Make the call through both; return what came of it with and without compiled code.

        They are asked when the call before this was served as busy accounts are, so that this one is, too.
        """
        self.compiled.wait_until_busy(lambda outcome: outcome.compiled)
        self.plain.wait_until_busy(lambda outcome: outcome.charged)
        outcomes = []
        for gateway in (self.compiled, self.plain):
            prepare(gateway.engine)
            outcomes.append(
                gateway.call(body, {k.replace("_", "-"): v for k, v in headers.items()})
            )
        for gateway, outcome in zip((self.compiled, self.plain), outcomes, strict=True):
            outcome.line = gateway.logged(outcome.generation)
        return outcomes[0], outcomes[1]


@contextlib.contextmanager
def two_gateways(
    folder: Path, url_of: Callable[[str], str], engines: list[Upstream], listings: int = 1
) -> Iterator[Two]:
    """Run them, each on a database of its own and with one of the first two engines behind it.

    The third engine serves the background. `listings` is how many listings each has.
    """
    *used, background = engines
    with contextlib.ExitStack() as stack:
        made = []
        for engine, mode in zip(used, ("auto", "off"), strict=True):
            data_dir = folder / mode
            data_dir.mkdir()
            url = url_of(f"two_{mode}_{ulid().lower()}")
            more = {f"TOKENMART_{name}": "0" for name in ("ORG_RPM", "ORG_CONCURRENCY")}
            more |= {"TOKENMART_GATEWAY_EXPRESS": mode, "TOKENMART_LOG": "json"}
            environment = environment_of(data_dir, url, **more)
            market = Market(data_dir, url, environment)
            market.start()
            stack.callback(market.stop)
            gateway = Gateway(market, engine, background, listings)
            stack.callback(gateway.close)
            made.append(gateway)
        yield Two(*made)
    for gateway in made:
        assert gateway.market.problems() == []
