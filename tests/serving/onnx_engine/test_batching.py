"""Rows that join and leave while others decode: every answer is the one it would be alone."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from openai import AsyncOpenAI


def _ask(title: str, limit: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": title}]
    return {"messages": messages, "temperature": 0, "max_tokens": limit}


def test_batched_equals_single(engine: Any, titles: list[str]) -> None:
    chance = random.Random(5)
    asks = [_ask(title, chance.choice([3, 9, 20, 60])) for title in titles]
    asks[3]["messages"][0]["content"] = titles[3] * 4  # One long prompt: several chunks.
    alone = [
        engine.client.chat.completions.create(model=engine.model, **ask).choices[0].message.content
        for ask in asks
    ]

    async def crowd() -> list[str | None]:
        async with AsyncOpenAI(
            base_url=f"{engine.url}/v1", api_key=engine.client.api_key, max_retries=0
        ) as client:

            async def one(ask: dict[str, Any]) -> str | None:
                await asyncio.sleep(chance.random() * 0.1)
                answer = await client.chat.completions.create(model=engine.model, **ask)
                content: str | None = answer.choices[0].message.content
                return content

            return await asyncio.gather(*map(one, asks))

    assert asyncio.run(crowd()) == alone


def test_a_full_house_says_when_to_come_back(start: Any, titles: list[str]) -> None:
    engine = start("--max-rows", "1", "--max-waiting", "1")
    ask = _ask(titles[0], 300) | {"extra_body": {"ignore_eos": True}}

    async def crowd() -> list[Any]:
        async with AsyncOpenAI(
            base_url=f"{engine.url}/v1", api_key=engine.client.api_key, max_retries=0
        ) as client:
            calls = (client.chat.completions.create(model=engine.model, **ask) for _ in range(8))
            return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(crowd())
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert len(answers) - len(refused) >= 2
    assert refused
    for error in refused:
        assert getattr(error, "status_code", None) == 429
        assert error.code == "rate_limit_exceeded"
        assert int(error.response.headers["retry-after"]) >= 1
