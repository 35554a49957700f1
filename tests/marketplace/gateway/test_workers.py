"""Several workers on PostgreSQL: exact together, one may die, all may leave, and connections change hands."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from support.market import Market, environment_of, wait_until
from support.upstream import Asked, Reply, Upstream, events_of, holds_of, usual
from support.upstream_answers import TEXT
from support.workers import market_on_postgres, workers_of

from marketplace.prices.components import Components

PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=10_000)
WORKERS = 3
ASK: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def three(
    postgres_server: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """A marketplace with three workers whose holds expire after five seconds."""
    settings = {"TOKENMART_WORKERS": str(WORKERS), "TOKENMART_HOLD_TTL_S": "5"}
    with market_on_postgres(
        postgres_server, tmp_path_factory.mktemp("three"), **settings
    ) as market:
        yield market


@pytest.fixture
def slug(three: Market, engine: Upstream) -> str:
    return three.listing(PER_CALL, url=engine.url, model="m", context_length=100_000)


def _client(market: Market, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0)


def _body(slug: str, **fields: Any) -> bytes:
    return json.dumps({"model": slug, "messages": ASK} | fields).encode()


def test_64_calls_at_once_on_a_voucher_for_ten_serve_ten(
    three: Market, slug: str, engine: Upstream
) -> None:
    org_id, key = three.organisation(voucher_u=10 * PER_CALL.request_u)

    async def one(client: openai.AsyncOpenAI) -> str:
        try:
            await client.chat.completions.create(model=slug, messages=ASK)
        except openai.APIStatusError as error:
            return f"{error.status_code} {error.code}"
        return "served"

    async def calls() -> Counter[str]:
        # Calls at once are connections of their own, which the kernel spreads over the workers.
        async with _client(three, key) as client:
            return Counter(await asyncio.gather(*(one(client) for _ in range(64))))

    assert asyncio.run(calls()) == {"served": 10, "402 insufficient_quota": 54}
    events = events_of(three, org_id)
    assert [(event.cost_u, event.voucher_u, event.overrun_u) for event in events] == [
        (10_000, 10_000, 0)
    ] * 10
    assert len(engine.asked) == 10
    assert holds_of(three, org_id) == 0


def test_the_calls_reach_more_than_one_worker(three: Market, slug: str) -> None:
    """Each worker writes the ledger in a lane of its own."""
    org_id, key = three.organisation(voucher_u=1_000_000)

    async def calls() -> None:
        async with _client(three, key) as client:
            asking = [client.chat.completions.create(model=slug, messages=ASK) for _ in range(48)]
            await asyncio.gather(*asking)

    def more_than_one() -> bool:
        # Which worker accepts a connection is the kernel's affair: a busy machine may leave it to one.
        asyncio.run(calls())
        return len({event.lane for event in events_of(three, org_id)}) > 1

    wait_until(more_than_one)
    assert len({event.lane for event in events_of(three, org_id)}) <= WORKERS


def test_one_worker_is_killed(three: Market, slug: str, engine: Upstream) -> None:
    """Its calls break off and cost nothing; the others serve on; it comes back."""
    org_id, key = three.organisation(voucher_u=1_000_000)
    before = workers_of(three)
    assert len(before) == WORKERS

    def waits(asked: Asked) -> Reply:
        return Reply(events=usual(asked).events, waits=True, after=2)

    engine.answer = waits

    async def one() -> str:
        async with _client(three, key) as client:
            try:
                stream = await client.chat.completions.create(model=slug, messages=ASK, stream=True)
                parts = [c.choices[0].delta.content or "" async for c in stream if c.choices]
            except (openai.APIError, httpx2.HTTPError):
                return "broken"
            return "served" if "".join(parts) == TEXT else "short"

    async def story() -> Counter[str]:
        asking = []
        while len(asking) < 24:
            # One after another: connections that come in one burst may all be accepted by one worker.
            asking.append(asyncio.ensure_future(one()))
            while len(engine.asked) < len(asking):
                await asyncio.sleep(0.01)
        os.kill(min(before), signal.SIGKILL)
        # Whoever it served has gone from the engine, too.
        while workers_of(three) & {min(before)}:
            await asyncio.sleep(0.01)
        engine.go()
        return Counter(await asyncio.gather(*asking))

    seen = asyncio.run(story())
    assert set(seen) <= {"served", "broken"}
    assert seen["served"] > 0
    engine.answer = usual
    _ask(three, key, slug)
    wait_until(lambda: len(workers_of(three)) == WORKERS)
    assert len(workers_of(three) - before) == 1
    for _ in range(6):
        _ask(three, key, slug)
    wait_until(lambda: holds_of(three, org_id) == 0)
    assert len(events_of(three, org_id)) == seen["served"] + 7
    assert three.problems() == []


def _ask(market: Market, key: str, slug: str) -> None:
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=4) as client:
        assert client.chat.completions.create(model=slug, messages=ASK).choices


def test_a_worker_is_killed_under_an_idempotency_key(
    three: Market, slug: str, engine: Upstream
) -> None:
    """Until the hold has expired the repeat is told to wait; then it is served."""
    org_id, key = three.organisation(voucher_u=1_000_000)
    engine.script(Reply({}, waits=True))
    headers = {"idempotency-key": "k", "authorization": f"Bearer {key}"}

    async def broken() -> None:
        async with httpx2.AsyncClient(base_url=three.url, headers=headers) as client:
            asking = asyncio.ensure_future(
                client.post("/v1/chat/completions", content=_body(slug), timeout=30)
            )
            while not engine.asked:
                await asyncio.sleep(0.01)
            for pid in workers_of(three):
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(httpx2.HTTPError):
                await asking

    asyncio.run(broken())
    seen: Counter[str] = Counter()

    def ask() -> httpx2.Response:
        with httpx2.Client(base_url=three.url, headers=headers) as client:
            return client.post("/v1/chat/completions", content=_body(slug), timeout=30)

    def served() -> bool:
        try:
            told = ask()
        except httpx2.HTTPError:
            return False  # no worker is there yet
        seen[told.json().get("error", {}).get("code", "served")] += 1
        return told.status_code == 200

    wait_until(served, 30)
    assert set(seen) == {"idempotency_key_in_use", "served"}
    assert ask().headers["idempotent-replayed"] == "true"
    assert len(engine.asked) == 2
    (event,) = events_of(three, org_id)
    assert event.cost_u == 10_000
    assert holds_of(three, org_id) == 0
    wait_until(lambda: len(workers_of(three)) == WORKERS)


def test_a_connection_that_changes_hands_a_hundred_times(three: Market, slug: str) -> None:
    """Calls are a worker's, everything else is the office's; the client sees one connection."""
    org_id, key = three.organisation(voucher_u=2_000_000)
    host, port = three.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.connect()
    connection.auto_open = 0  # a connection that was closed would now be an error
    padding = "x" * 300_000
    for turn in range(100):
        connection.request("GET", "/v1/models", headers=headers)
        answer = connection.getresponse()
        assert slug in {model["id"] for model in json.loads(answer.read())["data"]}
        body = _body(slug, x_padding=padding if turn % 10 == 0 else "", stream=turn % 3 == 0)
        connection.request("POST", "/v1/chat/completions", body=body, headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200
        assert TEXT in answer.read().decode() or turn % 3 == 0
        if turn % 25 == 5:
            # An upload that is refused before it has been read: the rest of it is no request.
            connection.request("PUT", "/api/nothing", body=b"POST /v1/" * 400_000, headers=headers)
            answer = connection.getresponse()
            assert answer.read()
            assert 400 <= answer.status < 500
    connection.close()
    assert len(events_of(three, org_id)) == 100
    assert holds_of(three, org_id) == 0


def test_sqlite_has_one_writer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tokenmart.db'}"
    done = subprocess.run(
        [sys.executable, "-m", "marketplace.cli", "up", "--port", "0"],
        env=environment_of(tmp_path, url, TOKENMART_WORKERS="2"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode not in (0, -signal.SIGKILL)
    assert "TOKENMART_WORKERS=2 needs PostgreSQL" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tokenmart.db").exists()


def test_an_operator_stops_it_while_streams_run(three: Market, slug: str, engine: Upstream) -> None:
    """The last test of the file: afterwards the marketplace is started again."""
    org_id, key = three.organisation(voucher_u=1_000_000)
    assert three.process is not None
    process = three.process

    def waits(asked: Asked) -> Reply:
        return Reply(events=usual(asked).events, waits=True, after=2)

    engine.answer = waits

    async def one(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model=slug, messages=ASK, stream=True)
        parts = [c.choices[0].delta.content or "" async for c in stream if c.choices]
        return "".join(parts)

    async def refused(client: openai.AsyncOpenAI) -> bool:
        try:
            await client.chat.completions.create(model=slug, messages=ASK)
        except openai.APIConnectionError:
            return True
        except openai.InternalServerError as error:
            return error.status_code == 503
        return False

    async def story() -> list[str]:
        async with _client(three, key) as client:
            asking = [asyncio.ensure_future(one(client)) for _ in range(12)]
            while len(engine.asked) < 12:
                await asyncio.sleep(0.01)
            engine.answer = usual
            process.send_signal(signal.SIGTERM)
            while not await refused(client):
                await asyncio.sleep(0.05)
            assert not any(task.done() for task in asking)
            engine.go()
            return await asyncio.gather(*asking)

    try:
        assert asyncio.run(story()) == [TEXT] * 12
        process.wait(30)
        assert process.returncode == 0
        events = [event for event in events_of(three, org_id) if event.streamed]
        assert Counter(event.outcome for event in events) == {"ok": 12}
        assert holds_of(three, org_id) == 0
        assert three.problems() == []
    finally:
        engine.go()
        three.stop()
        three.start()
