"""Outside providers behind the gateway: the OpenAI SDK, billed by what the provider reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from sqlmodel import select
from support.adapter import CLAUDE, GPT, Adapter, adapter, needs_litellm
from support.market import Market, wait_until
from support.providers import CACHED_TOKENS, COMPLETION_TOKENS, PROMPT_TOKENS, WORDS, Provider

from marketplace.ledger.tables import UsageEvent
from marketplace.prices.components import Components

PRICE = Components(input_u_per_m=2_000_000, output_u_per_m=8_000_000)
MESSAGES: Any = [{"role": "user", "content": "Translate: 夏季女士纯棉短袖T恤 白色 L码 2件装"}]
BOTH = pytest.mark.parametrize("model", [GPT, CLAUDE])
pytestmark = needs_litellm


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapter]:
    with adapter(tmp_path_factory.mktemp("adapter")) as running:
        yield running


def listed(
    market: Market, outside: Adapter, model: str
) -> tuple[str, str, openai.OpenAI, Provider]:
    """List a provider's model; return (listing, organisation, its client, the provider)."""
    slug = market.listing(PRICE, model=model, url=outside.url)
    org_id, key = market.organisation(voucher_u=5_000_000)
    provider = outside.openai if model == GPT else outside.anthropic
    provider.behave()
    client = openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0, timeout=30)
    return slug, org_id, client, provider


def settled(market: Market, org_id: str, count: int) -> list[UsageEvent]:
    """Wait until so many calls are settled, and return them."""
    events: list[UsageEvent] = []
    database = market.database

    def arrived() -> bool:
        with database.reading() as session:
            asked = select(UsageEvent).where(UsageEvent.org_id == org_id)
            events[:] = session.exec(asked).all()
        return len(events) >= count

    wait_until(arrived)
    database.dispose()
    return events


@BOTH
def test_billed_with_the_providers_usage(market: Market, outside: Adapter, model: str) -> None:
    slug, org_id, client, _ = listed(market, outside, model)
    with client:
        asked: Any = {"model": slug, "messages": MESSAGES, "max_tokens": 60}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == "".join(WORDS)
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == "".join(WORDS)
        message = client.responses.create(
            model=slug, input="Translate: 夏季女士纯棉短袖T恤 白色 L码"
        )
        assert message.output_text == "".join(WORDS)
    for event in settled(market, org_id, 3):
        assert event.usage_source == "engine"
        assert event.cache_read == CACHED_TOKENS
        assert event.input_uncached + event.cache_read == PROMPT_TOKENS
        assert event.output == COMPLETION_TOKENS
        assert event.cost_u == 2 * PROMPT_TOKENS + 8 * COMPLETION_TOKENS
    assert market.problems() == []


@BOTH
def test_a_client_that_leaves_ends_the_providers_work(
    market: Market, outside: Adapter, model: str
) -> None:
    slug, org_id, client, provider = listed(market, outside, model)
    provider.behave(endless=True, pause_s=0.02)
    with client:
        chat = client.chat.completions
        stream = chat.create(model=slug, messages=MESSAGES, max_tokens=64, stream=True)
        for _ in range(5):
            next(stream)
        stream.close()
    assert provider.aborted.wait(15)
    (event,) = settled(market, org_id, 1)
    assert (event.outcome, event.usage_source) == ("cancelled", "counted")
    assert event.output >= 3
    assert market.problems() == []


@BOTH
def test_what_a_provider_fails_at_costs_nothing(
    market: Market, outside: Adapter, model: str
) -> None:
    slug, org_id, client, provider = listed(market, outside, model)
    asked: Any = {"model": slug, "messages": MESSAGES, "max_tokens": 60}
    with client:
        provider.refuse(401, {"error": {"message": "bad key"}})
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**asked)
        assert caught.value.status_code == 502
        provider.behave(stop_after=4)
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(**asked, stream=True))
        provider.refuse(400, {"error": {"message": "prompt is too long: 9 tokens > 8 maximum"}})
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**asked)
        assert refused.value.code == "context_length_exceeded"
    assert settled(market, org_id, 0) == []
    assert market.problems() == []


def test_usage_that_a_provider_keeps_to_itself_is_counted(market: Market, outside: Adapter) -> None:
    slug, org_id, client, provider = listed(market, outside, GPT)
    provider.behave(usage=False)
    with client:
        asked: Any = {"model": slug, "messages": MESSAGES, "max_tokens": 60}
        list(client.chat.completions.create(**asked, stream=True))
        client.chat.completions.create(**asked)
    for event in settled(market, org_id, 2):
        assert event.usage_source == "counted"
        assert event.output == 9
    assert market.problems() == []
