"""A key's limits and its organisation's, told in headers that the SDK's own retry understands."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.market import Market, environment_of, wait_until
from support.upstream import Reply, Upstream, events_of, holds_of, refuses, usual

from catalog.ground.clock import now_us
from marketplace.members.keys import create_key
from marketplace.members.people import add_member
from marketplace.prices.components import Components

# What is counted is in the workers' memory, whatever the database is.
pytestmark = pytest.mark.parametrize("market", ["sqlite"], indirect=True)
PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=100)
ASK: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def slug(market: Market, engine: Upstream) -> str:
    return market.listing(PER_CALL, url=engine.url, model="m", context_length=100_000)


def _key(market: Market, org_id: str, **limits: Any) -> str:
    with market._database() as database, database.session() as session:
        _, secret = create_key(session, org_id, "limited", now_us(), **limits)
    return secret


def _client(market: Market, key: str, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=retries)


def _at_once(market: Market, keys: list[str], slug: str, count: int, **fields: Any) -> list[str]:
    """Call so often at once, with the keys in turn; return 'served' or the rule that refused."""

    async def one(client: openai.AsyncOpenAI) -> str:
        try:
            await client.chat.completions.create(model=slug, messages=ASK, **fields)
        except openai.RateLimitError as error:
            told: dict[str, str] = error.response.json()["error"]
            return told["rule"] if "retry-after" in error.response.headers else "no retry-after"
        return "served"

    async def calls() -> list[str]:
        made = [
            openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0)
            for key in keys
        ]
        try:
            return await asyncio.gather(*(one(made[n % len(made)]) for n in range(count)))
        finally:
            for client in made:
                await client.close()

    return asyncio.run(calls())


def test_requests_per_minute(market: Market, slug: str, engine: Upstream) -> None:
    org_id, _ = market.organisation(voucher_u=1_000_000)
    key = _key(market, org_id, rpm=5, tpm=1_000_000)
    with _client(market, key) as client:
        left = []
        for _ in range(5):
            raw = client.chat.completions.with_raw_response.create(model=slug, messages=ASK)
            assert raw.headers["x-ratelimit-limit-requests"] == "5"
            assert raw.headers["x-ratelimit-limit-tokens"] == "1000000"
            left.append(int(raw.headers["x-ratelimit-remaining-requests"]))
            assert raw.headers["x-ratelimit-reset-requests"].endswith("s")
        assert left[0] == 4
        assert left == sorted(left, reverse=True)
        with pytest.raises(openai.RateLimitError) as error:
            for _ in range(3):  # one more may have become free meanwhile
                client.chat.completions.create(model=slug, messages=ASK)
    told, headers = error.value.response.json()["error"], error.value.response.headers
    assert (told["rule"], told["code"]) == ("limits.key.rpm", "rate_limit_exceeded")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(headers["retry-after-ms"]) <= 12_000
    assert int(headers["retry-after"]) == math.ceil(int(headers["retry-after-ms"]) / 1000)
    assert len(engine.asked) == len(events_of(market, org_id))
    assert holds_of(market, org_id) == 0


def test_the_sdk_waits_as_long_as_it_is_told(market: Market, slug: str) -> None:
    """A hundred a minute is one in 600 ms, which the SDK waits; without the header it would wait less."""
    org_id, _ = market.organisation(voucher_u=1_000_000)
    key = _key(market, org_id, rpm=100)
    assert Counter(_at_once(market, [key], slug, 130))["served"] >= 100
    with _client(market, key, retries=2) as client:
        for _ in range(3):
            client.chat.completions.create(model=slug, messages=ASK)
    assert holds_of(market, org_id) == 0


def test_tokens_per_minute_are_given_back_when_they_are_not_used(market: Market, slug: str) -> None:
    """A call reserves its bound (some hundred tokens) and uses 16."""
    org_id, _ = market.organisation(voucher_u=1_000_000)
    key = _key(market, org_id, tpm=1_000)
    with _client(market, key) as client:
        for _ in range(10):
            raw = client.chat.completions.with_raw_response.create(
                model=slug, messages=ASK, max_tokens=500
            )
            assert raw.headers["x-ratelimit-limit-tokens"] == "1000"
    counted = Counter(_at_once(market, [key], slug, 6, max_tokens=800))
    assert counted["limits.key.tpm"] >= 4
    assert counted["served"] + counted["limits.key.tpm"] == 6


def test_a_failed_call_uses_no_tokens(market: Market, slug: str, engine: Upstream) -> None:
    org_id, _ = market.organisation(voucher_u=1_000_000)
    key = _key(market, org_id, tpm=1_000)
    engine.answer = lambda asked: refuses(400)
    with _client(market, key) as client:
        for _ in range(5):
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model=slug, messages=ASK, max_tokens=800)


def test_a_call_that_is_refused_before_its_engine_uses_no_tokens(market: Market, slug: str) -> None:
    """For its wish, and then for want of money; the third would not fit beside what they might have used."""
    org_id, _ = market.organisation()
    key = _key(market, org_id, tpm=1_000)
    wish = {"provider": {"only": ["nobody"]}}
    with _client(market, key) as client:
        for _ in range(2):
            with pytest.raises(openai.BadRequestError, match="No endpoint"):
                client.chat.completions.create(
                    model=slug, messages=ASK, max_tokens=600, extra_body=wish
                )
            with pytest.raises(openai.APIStatusError) as error:
                client.chat.completions.create(model=slug, messages=ASK, max_tokens=600)
            assert error.value.status_code == 402


@pytest.mark.parametrize("stream", [False, True])
def test_calls_at_once(market: Market, slug: str, engine: Upstream, stream: bool) -> None:
    org_id, _ = market.organisation(voucher_u=1_000_000)
    key = _key(market, org_id, concurrency=3)

    def waits(asked: Any) -> Reply:
        reply = usual(asked)
        reply.waits = True
        return reply

    engine.answer = waits

    async def calls() -> Counter[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{market.url}/v1", api_key=key, max_retries=0
        ) as client:

            async def one() -> str:
                try:
                    answer: Any = await client.chat.completions.create(
                        model=slug, messages=ASK, stream=stream
                    )
                    if stream:
                        async for _ in answer:
                            pass
                except openai.RateLimitError as error:
                    return str(error.code)
                return "served"

            asking = [asyncio.ensure_future(one()) for _ in range(10)]
            while sum(task.done() for task in asking) < 7:
                await asyncio.sleep(0.01)
            engine.go()
            return Counter(await asyncio.gather(*asking))

    assert asyncio.run(calls()) == {"served": 3, "concurrency_limit_exceeded": 7}
    with _client(market, key) as client:
        client.chat.completions.create(model=slug, messages=ASK)
    assert engine.most_running <= 3
    assert holds_of(market, org_id) == 0


def test_who_leaves_gives_his_place_back(market: Market, slug: str, engine: Upstream) -> None:
    org_id, _ = market.organisation(voucher_u=1_000_000)
    key = _key(market, org_id, concurrency=1)
    engine.script(Reply({}, waits=True))
    with (
        _client(market, key).with_options(timeout=0.5) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(model=slug, messages=ASK)

    def served() -> bool:
        try:
            with _client(market, key) as client:
                client.chat.completions.create(model=slug, messages=ASK)
        except openai.RateLimitError:
            return False
        return True

    wait_until(served)
    wait_until(lambda: engine.aborted == 1)
    assert holds_of(market, org_id) == 0


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A marketplace that grants an organisation 20 requests a minute and 4 calls at once, a member 5."""
    data_dir = tmp_path_factory.mktemp("strict")
    url = f"sqlite:///{data_dir / 'tokenmart.db'}"
    limits = {
        "TOKENMART_ORG_RPM": "20",
        "TOKENMART_ORG_CONCURRENCY": "4",
        "TOKENMART_MEMBER_RPM": "5",
    }
    market = Market(data_dir, url, environment_of(data_dir, url, **limits))
    market.start()
    yield market
    market.stop()
    assert market.problems() == []


@pytest.mark.parametrize("keys", [2, 8])
def test_more_keys_give_nothing_more(
    market: Market, strict: Market, engine: Upstream, keys: int
) -> None:
    slug = strict.listing(PER_CALL, url=engine.url, model="m", context_length=100_000)
    org_id, _ = strict.organisation(voucher_u=1_000_000)
    secrets = [_key(strict, org_id) for _ in range(keys)]
    began = time.monotonic()
    seen: Counter[str] = Counter()
    for _ in range(10):
        seen += Counter(_at_once(strict, secrets, slug, 4))
    # One more every three seconds.
    most = 20 + math.ceil((time.monotonic() - began) / 3)
    assert 20 <= seen["served"] <= most
    assert seen["served"] + seen["limits.organisation.rpm"] == 40
    assert len(events_of(strict, org_id)) == seen["served"]
    other_id, other = strict.organisation(voucher_u=1_000_000)
    with _client(strict, other) as client:
        client.chat.completions.create(model=slug, messages=ASK)
    assert len(events_of(strict, other_id)) == 1


def test_an_organisations_calls_at_once(market: Market, strict: Market, engine: Upstream) -> None:
    slug = strict.listing(PER_CALL, url=engine.url, model="m", context_length=100_000)
    org_id, _ = strict.organisation(voucher_u=1_000_000)
    secrets = [_key(strict, org_id) for _ in range(3)]
    engine.answer = lambda asked: Reply(refuses(400).document, status=400, waits=True)

    async def calls() -> Counter[str]:
        async def one(secret: str) -> str:
            async with openai.AsyncOpenAI(
                base_url=f"{strict.url}/v1", api_key=secret, max_retries=0
            ) as client:
                try:
                    await client.chat.completions.create(model=slug, messages=ASK)
                except openai.RateLimitError as error:
                    return str(error.response.json()["error"]["rule"])
                except openai.BadRequestError:
                    return "reached"
            return "served"

        asking = [asyncio.ensure_future(one(secrets[n % 3])) for n in range(9)]
        while sum(task.done() for task in asking) < 5:
            await asyncio.sleep(0.01)
        engine.go()
        return Counter(await asyncio.gather(*asking))

    assert asyncio.run(calls()) == {"reached": 4, "limits.organisation.concurrency": 5}
    assert events_of(strict, org_id) == []


def test_a_members_keys_share_his_limit_and_nobody_else_does(
    market: Market, strict: Market, engine: Upstream
) -> None:
    """Two keys of one member; then his namesake elsewhere, and a machine's key, which is nobody's."""
    slug = strict.listing(PER_CALL, url=engine.url, model="m", context_length=100_000)
    served = []
    for _ in range(2):
        org_id, _ = strict.organisation(voucher_u=1_000_000)
        with strict._database() as database, database.session() as session:
            add_member(session, org_id, "li", "dev", "test", now_us())
        keys = [_key(strict, org_id, member="li") for _ in range(2)]
        counted = _one_by_one(strict, keys, slug, 8)
        assert counted["served"] + counted["limits.member.rpm"] == 8
        served.append(counted["served"])
        assert _one_by_one(strict, [_key(strict, org_id)], slug, 8) == {"served": 8}
    assert all(5 <= count <= 6 for count in served)


def _one_by_one(market: Market, keys: list[str], slug: str, count: int) -> Counter[str]:
    return sum(
        (Counter(_at_once(market, [keys[n % len(keys)]], slug, 1)) for n in range(count)), Counter()
    )
