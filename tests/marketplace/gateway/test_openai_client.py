"""The OpenAI SDK, as an OPC has it, works unchanged; token counts and costs are true."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
from jinja2.sandbox import ImmutableSandboxedEnvironment
from support.market import SEED, TITLE, Market
from tokenizers import Tokenizer

import catalog

VARIANT = Path(catalog.__file__).parent / "seed/listing_translator_mini/onnx"


def ask(title: str = TITLE) -> list[dict[str, str]]:
    return [{"role": "user", "content": title}]


def tokens_of(title: str) -> int:
    """Count with the tokenizer and template of the model itself."""
    template = (VARIANT / "chat_template.jinja").read_text()
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(template).render(messages=ask(title), add_generation_prompt=True)
    tokenizer = Tokenizer.from_file(str(VARIANT / "tokenizer.json"))
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_plain_answer_costs_what_its_headers_say(market: Market, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=SEED, messages=ask())
    answer = raw.parse()
    assert answer._request_id == raw.headers["x-tm-generation"]
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == tokens_of(TITLE)
    price_u = answer.usage.prompt_tokens * 500_000 + answer.usage.completion_tokens * 2_000_000
    assert int(raw.headers["x-tm-cost-u"]) == (price_u + 500_000) // 1_000_000
    assert raw.headers["x-tm-voucher-u"] == raw.headers["x-tm-cost-u"]
    told = client.get(f"/generation/{raw.headers['x-tm-generation']}", cast_to=object)
    assert isinstance(told, dict)
    assert told["data"]["cost_u"] == int(raw.headers["x-tm-cost-u"])
    assert told["data"]["paid_by"][0]["programme"] == "starter"
    assert told["data"]["tokens"]["output"] == answer.usage.completion_tokens


def test_a_stream_has_the_same_text_and_usage(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model=SEED, messages=ask(), temperature=0)
    stream = client.chat.completions.create(
        model=SEED,
        messages=ask(),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_without_the_wish_for_usage_has_none(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=SEED, messages=ask(), stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_the_async_client_and_many_at_once(market: Market) -> None:
    async def calls() -> list[str | None]:
        async with openai.AsyncOpenAI(
            base_url=f"{market.url}/v1", api_key=market.demo_key, max_retries=0
        ) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(model=SEED, messages=ask(), temperature=0)
                    for _ in range(8)
                )
            )
            return [answer.choices[0].message.content for answer in answers]

    assert len(set(asyncio.run(calls()))) == 1


def test_completions_and_models(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=SEED, prompt="红色", max_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 3
    assert SEED in {model.id for model in client.models.list()}
    assert client.models.retrieve(SEED).owned_by == "tokenmart"


def test_the_free_name_is_paid_by_the_free_quota(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=f"{SEED}:free", messages=ask())
    assert raw.headers["x-tm-free-u"] == raw.headers["x-tm-cost-u"] != "0"
    assert raw.headers["x-tm-voucher-u"] == raw.headers["x-tm-wallet-u"] == "0"
