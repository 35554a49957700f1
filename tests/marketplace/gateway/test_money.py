"""Exact under concurrency, nothing lost when a process is killed or a client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from sqlmodel import select
from support.market import SEED, TITLE, Market, environment_of, wait_until

from catalog.ground.database import Database
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint
from marketplace.ledger.tables import Hold, UsageEvent
from marketplace.ledger.verify import verify
from marketplace.prices.components import Components

PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=10_000)
MESSAGES = [{"role": "user", "content": TITLE}]


def test_64_calls_at_once_on_money_for_10_serve_10(market: Market) -> None:
    slug = market.listing(PER_CALL)
    org_id, key = market.organisation(voucher_u=100_000)

    async def one(client: openai.AsyncOpenAI) -> str:
        try:
            await client.chat.completions.create(model=slug, messages=MESSAGES, max_tokens=4)
        except openai.APIStatusError as error:
            told = error.response.json()["error"]
            assert told["required_u"] == 10_000
            return f"{error.status_code} {told['code']}"
        return "served"

    async def race() -> Counter[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{market.url}/v1", api_key=key, max_retries=0, timeout=60
        ) as client:
            return Counter(await asyncio.gather(*(one(client) for _ in range(64))))

    assert asyncio.run(race()) == {"served": 10, "402 insufficient_quota": 54}
    database = market.database
    with database.reading() as session:
        events = session.exec(select(UsageEvent).where(UsageEvent.org_id == org_id)).all()
    database.dispose()
    assert [event.cost_u for event in events] == [10_000] * 10


def test_a_client_that_leaves_stops_the_engine_and_pays_for_what_was_made(market: Market) -> None:
    # The seed engine makes all tokens in a quarter of a second: on a busy machine it may have ended
    # before the client has gone, so leave until one call was really cut off.
    for _ in range(5):
        before = market.metric("tokenmart_engine_generation_tokens_total")
        event = _call_and_leave(market)
        if event.outcome == "cancelled":
            break
    assert event.outcome == "cancelled"
    assert 1 <= event.output < _LONG
    made = market.metric("tokenmart_engine_generation_tokens_total") - before
    assert event.output <= made < _LONG


_LONG = 440


def _call_and_leave(market: Market) -> UsageEvent:
    """Read the first event of a long stream, close the connection, return what was settled."""
    org_id, key = market.organisation(voucher_u=5_000_000)
    where = urlsplit(market.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    fields = {"stream": True, "max_tokens": _LONG, "ignore_eos": True, "temperature": 0}
    asked = json.dumps({"model": SEED, "messages": MESSAGES} | fields)
    connection.request("POST", "/v1/chat/completions", asked, {"authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    while not answer.fp.readline().startswith(b"data:"):
        pass
    answer.close()
    connection.close()
    events: list[UsageEvent] = []

    def settled() -> bool:
        with database.reading() as session:
            events[:] = session.exec(select(UsageEvent).where(UsageEvent.org_id == org_id)).all()
        return bool(events)

    database = market.database
    wait_until(settled)
    database.dispose()
    return events[0]


@pytest.mark.parametrize("engines", [1, 2])
def test_who_leaves_before_an_engine_has_heard_of_him_pays_nothing(
    market: Market, engines: int
) -> None:
    """Connecting to the first takes a while; it takes him when he has left, or the other is not asked."""
    with _unreachable() as (url, server):
        price = Components(input_u_per_m=1_000_000, output_u_per_m=0)
        slug = market.listing(price, url=url, context_length=100_000)
        database = market.database
        if engines == 2:
            _put_beside(database, slug)
        org_id, key = market.organisation(voucher_u=5_000_000)
        where = urlsplit(market.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port)
        asked = json.dumps({"model": slug, "messages": MESSAGES, "max_tokens": 4})
        connection.request(
            "POST", "/v1/chat/completions", asked, {"authorization": f"Bearer {key}"}
        )

        def held() -> bool:
            with database.reading() as session:
                return session.exec(select(Hold).where(Hold.org_id == org_id)).first() is not None

        def gone() -> bool:
            with contextlib.suppress(BlockingIOError):
                while engines == 1:
                    server.accept()[0].close()
            return not held()

        wait_until(held)
        connection.close()
        wait_until(gone)
    with database.reading() as session:
        assert session.exec(select(UsageEvent).where(UsageEvent.org_id == org_id)).all() == []
    database.dispose()


def _put_beside(database: Database, slug: str) -> None:
    """Give the listing a second engine: the seed's."""
    with database.session() as session:
        seed = session.get_one(Endpoint, "ept_seed")
        other = Endpoint(
            id=new_id("ept"), listing=slug, url=seed.url, model=SEED, api_key=seed.api_key,
            priority=1, updated_at_us=seed.updated_at_us,
        )  # fmt: skip
        session.add(other)
        session.flush()
        raise_marker(session, ENDPOINTS)


@contextlib.contextmanager
def _unreachable() -> Iterator[tuple[str, socket.socket]]:
    """Yield a server that takes no more connections before it accepts some, and its URL."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        host, port = server.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        server.setblocking(False)
        yield f"http://{host}:{port}", server


def test_sigkill_in_the_middle_of_calls_leaves_a_ledger_that_verifies(
    database_url: str, tmp_path: Path
) -> None:
    environment = environment_of(tmp_path, database_url, TOKENMART_HOLD_TTL_S="5")
    market = Market(tmp_path, database_url, environment)
    market.start()
    _, key = market.organisation(voucher_u=50_000_000)
    delivered = Counter[str]()

    def caller() -> None:
        with openai.OpenAI(
            base_url=f"{market.url}/v1", api_key=key, max_retries=0, timeout=30
        ) as client:
            while True:
                try:
                    client.chat.completions.create(model=SEED, messages=MESSAGES, max_tokens=24)
                except openai.APIError:
                    return
                delivered["answers"] += 1

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: delivered["answers"] >= 8, 30)
    watched = Database(database_url)

    def held_for() -> bool:
        with watched.reading() as session:
            return session.exec(select(Hold)).first() is not None

    wait_until(held_for)
    market.kill()
    watched.dispose()
    for thread in threads:
        thread.join()
    database = Database(database_url)
    with database.reading() as session:
        held = session.exec(select(Hold)).all()
        settled = len(session.exec(select(UsageEvent)).all())
    report = verify(database)
    assert report.problems == []
    assert report.open_holds == len(held)
    assert delivered["answers"] <= settled
    market.start()

    def returned() -> bool:
        with database.reading() as session:
            return not session.exec(select(Hold)).all()

    wait_until(returned, 15)
    assert verify(database).problems == []
    database.dispose()
    market.stop()
