"""What a key may spend: exact under concurrency, by Beijing days and months, given back by failures."""

from __future__ import annotations

import asyncio
from collections import Counter

import openai
import pytest
from support.market import Market

from catalog.ground.clock import DAY_US, SECOND_US, now_us
from catalog.ground.database import Database
from marketplace.gateway.cap_accounts import account_code, open_caps
from marketplace.ledger.accounts import balance_u
from marketplace.members.keys import create_key
from marketplace.prices.components import Components

PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=10_000)
PER_TOKEN = Components(input_u_per_m=0, output_u_per_m=1_000_000_000)
MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "夏季女士纯棉短袖T恤"}
]
BEIJING_NOON_US = 1_763_784_000 * SECOND_US  # 2025-11-22 12:00 in Beijing


def _key(market: Market, org_id: str, **caps: int) -> str:
    database = market.database
    with database.session() as session:
        _, secret = create_key(
            session, org_id, "capped", now_us(), rpm=100_000, concurrency=1000, **caps
        )
    database.dispose()
    return secret


def test_64_calls_at_once_on_a_cap_for_10_serve_10(market: Market) -> None:
    slug = market.listing(PER_CALL)
    org_id, _ = market.organisation(voucher_u=10_000_000)
    key = _key(market, org_id, daily_u=105_000, monthly_u=1_000_000)

    async def one(client: openai.AsyncOpenAI) -> str:
        try:
            await client.chat.completions.create(model=slug, messages=MESSAGES, max_tokens=4)
        except openai.APIStatusError as error:
            told = error.response.json()["error"]
            assert (told["limit_u"], told["required_u"]) == (105_000, 10_000)
            assert told["available_u"] < 10_000
            return f"{error.status_code} {told['rule']}"
        return "served"

    async def race() -> Counter[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{market.url}/v1", api_key=key, max_retries=0, timeout=60
        ) as client:
            return Counter(await asyncio.gather(*(one(client) for _ in range(64))))

    assert asyncio.run(race()) == {"served": 10, "402 key.daily_u": 54}
    assert market.problems() == []


def test_a_cap_shortens_an_answer_before_it_refuses_one(market: Market) -> None:
    slug = market.listing(PER_TOKEN)
    org_id, _ = market.organisation(voucher_u=10_000_000)
    key = _key(market, org_id, monthly_u=20_000)
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0) as client:
        answer = client.chat.completions.with_raw_response.create(
            model=slug, messages=MESSAGES, max_tokens=60, extra_body={"ignore_eos": True}
        )
        assert answer.headers["x-tm-max-tokens"] == "20"
        assert answer.headers["x-tm-cost-u"] == "20000"
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model=slug, messages=MESSAGES, max_tokens=60)
    assert refused.value.status_code == 402
    assert refused.value.response.json()["error"]["rule"] == "key.monthly_u"


def test_a_window_is_a_beijing_day_and_opens_once(database: Database) -> None:
    with database.session() as session:
        first = open_caps(session, "key_1", 500, 9_000, BEIJING_NOON_US)
        again = open_caps(session, "key_1", 500, 9_000, BEIJING_NOON_US + 1)
        assert first == again
        assert [cap.limit_u for cap in first.caps] == [500, 9_000]
        assert first.good_until_us == BEIJING_NOON_US + DAY_US // 2
        assert balance_u(session, account_code("key_1", "2025-11-22")) == 500
        assert balance_u(session, account_code("key_1", "2025-11")) == 9_000
        later = open_caps(session, "key_1", 500, 9_000, first.good_until_us)
        assert balance_u(session, account_code("key_1", "2025-11-23")) == 500
        assert [a == b for a, b in zip(first.accounts, later.accounts, strict=True)] == [
            False,
            True,
        ]


def test_a_cap_of_nothing_allows_nothing(database: Database) -> None:
    with database.session() as session:
        caps = open_caps(session, "key_1", 0, None, BEIJING_NOON_US)
        assert balance_u(session, account_code("key_1", "2025-11-22")) == 0
        assert caps.room_u({}) == 0
