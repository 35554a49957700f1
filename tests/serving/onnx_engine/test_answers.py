"""What a caller with the openai SDK gets: text, chunks, counts, ends."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from tokenizers import Tokenizer

from serving.onnx_engine.template import ChatTemplate
from serving.onnx_engine.text import BROKEN

LONG = {"ignore_eos": True}


def _asked(title: str) -> list[Any]:
    return [{"role": "user", "content": title}]


def _whole(engine: Any, title: str, **options: Any) -> Any:
    return engine.client.chat.completions.create(
        model=engine.model,
        messages=_asked(title),
        temperature=options.pop("temperature", 0),
        **options,
    )


def _chunks(engine: Any, title: str, **options: Any) -> list[Any]:
    with _whole(engine, title, stream=True, **options) as stream:
        return list(stream)


def _text(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.fixture(scope="module")
def tokenizer(variant: Path) -> Tokenizer:
    return Tokenizer.from_file(str(variant / "tokenizer.json"))


@pytest.fixture(scope="module")
def template(variant: Path) -> ChatTemplate:
    return ChatTemplate((variant / "chat_template.jinja").read_text(encoding="utf-8"), {})


def test_streamed_and_whole_answers_are_the_same(engine: Any, titles: list[str]) -> None:
    for title in titles[:10]:
        whole = _whole(engine, title, max_tokens=80)
        chunks = _chunks(engine, title, max_tokens=80)
        assert _text(chunks) == whole.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert chunks[0].choices[0].delta.role == "assistant"
        assert len({chunk.id for chunk in chunks}) == 1


def test_usage_is_what_the_tokenizer_counts(
    engine: Any, titles: list[str], tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    for title in titles[:10]:
        answer = _whole(engine, title, max_tokens=120)
        prompt = tokenizer.encode(template.render(_asked(title)), add_special_tokens=False)
        assert answer.usage.prompt_tokens == len(prompt.ids)
        if answer.choices[0].finish_reason == "stop":
            written = tokenizer.encode(answer.choices[0].message.content, add_special_tokens=False)
            assert answer.usage.completion_tokens == len(written.ids) + 1, "the end token counts"
        else:
            assert answer.usage.completion_tokens == 120
        assert (
            answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        )


def test_usage_comes_last_when_asked_for(engine: Any, titles: list[str]) -> None:
    whole = _whole(engine, titles[0], max_tokens=40)
    plain = _chunks(engine, titles[0], max_tokens=40)
    assert all(chunk.usage is None for chunk in plain)
    *rest, last = _chunks(engine, titles[0], max_tokens=40, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in rest)
    assert last.choices == []
    assert last.usage == whole.usage


def test_every_chunk_carries_usage_when_asked_for(engine: Any, titles: list[str]) -> None:
    chunks = _chunks(
        engine,
        titles[0],
        max_tokens=40,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == _whole(engine, titles[0], max_tokens=40).usage.completion_tokens


def test_max_tokens_and_ignore_eos_give_exactly_so_many(engine: Any, titles: list[str]) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = _whole(engine, titles[0], **{name: 33}, extra_body=LONG)
        assert answer.usage.completion_tokens == 33
        assert answer.choices[0].finish_reason == "length"


def test_min_tokens_puts_the_end_off(engine: Any, titles: list[str]) -> None:
    short = _whole(engine, titles[0], extra_body={}).usage.completion_tokens
    longer = _whole(engine, titles[0], max_tokens=200, extra_body={"min_tokens": short + 5})
    assert longer.usage.completion_tokens >= short + 5


def test_stop_strings_end_the_text_and_never_show(engine: Any, titles: list[str]) -> None:
    text = _whole(engine, titles[0], max_tokens=30, extra_body=LONG).choices[0].message.content
    for start in range(2, min(len(text) - 4, 20), 3):
        stop = text[start : start + 4]
        for given in (stop, ["never to be found", stop]):
            options = {"stop": given, "max_tokens": 30, "extra_body": LONG}
            whole = _whole(engine, titles[0], **options)
            assert whole.choices[0].message.content == text[: text.index(stop)]
            assert whole.choices[0].finish_reason == "stop"
            chunks = _chunks(engine, titles[0], **options)
            assert _text(chunks) == text[: text.index(stop)]


def test_a_seed_gives_the_same_text_whatever_the_batch_mates(
    engine: Any, titles: list[str]
) -> None:
    hot = {"temperature": 1.8, "seed": 42, "max_tokens": 40, "extra_body": LONG}
    alone = _whole(engine, titles[0], **hot).choices[0].message.content
    assert _whole(engine, titles[0], **hot | {"seed": 43}).choices[0].message.content != alone

    async def crowd() -> list[str]:
        async with AsyncOpenAI(
            base_url=f"{engine.url}/v1", api_key=engine.client.api_key, max_retries=0
        ) as client:

            async def one(title: str, **options: Any) -> str:
                answer = await client.chat.completions.create(
                    model=engine.model, messages=_asked(title), **(hot | options)
                )
                return answer.choices[0].message.content or ""

            same = [one(titles[0]) for _ in range(5)]
            other = [one(title, max_tokens=5 + 3 * at) for at, title in enumerate(titles[1:9])]
            return await asyncio.gather(*other[:4], *same, *other[4:])

    assert set(asyncio.run(crowd())[4:9]) == {alone}


def test_n_choices_differ_under_one_seed_and_repeat(engine: Any, titles: list[str]) -> None:
    hot = {"temperature": 1.8, "seed": 7, "max_tokens": 30, "n": 3, "extra_body": LONG}
    first, second = (_whole(engine, titles[0], **hot) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) > 1, "a confident model may say the same twice, not thrice"
    assert texts == [choice.message.content for choice in second.choices]
    assert first.usage.completion_tokens == 90


def test_logprobs_belong_to_the_tokens(engine: Any, titles: list[str]) -> None:
    answer = _whole(engine, titles[0], logprobs=True, top_logprobs=3, max_tokens=8)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        assert entry.logprob <= 0
        assert entry.top_logprobs[0].token == entry.token, "greedy takes the most likely"
        assert len(entry.top_logprobs) == 3


def test_a_part_of_a_character_has_no_bytes_of_its_own(engine: Any) -> None:
    hot = {"temperature": 2, "seed": 1, "max_tokens": 60, "extra_body": LONG}
    answer = _whole(engine, "中文😀", logprobs=True, top_logprobs=20, **hot)
    seen = [top for entry in answer.choices[0].logprobs.content for top in entry.top_logprobs]
    assert any(top.bytes is None for top in seen)
    for top in seen:
        assert top.bytes == (None if BROKEN in top.token else list(top.token.encode()))


def test_text_completions_take_text_and_ids(
    engine: Any, titles: list[str], tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode(titles[0]).ids
    options: dict[str, Any] = {"model": engine.model, "temperature": 0, "max_tokens": 20}
    of_text = engine.client.completions.create(prompt=titles[0], **options)
    of_ids = engine.client.completions.create(prompt=ids, **options)
    assert of_text.choices[0].text == of_ids.choices[0].text
    assert of_text.usage.prompt_tokens == len(ids)
    several = engine.client.completions.create(prompt=[titles[0], titles[1]], **options)
    assert several.choices[0].text == of_text.choices[0].text
    with engine.client.completions.create(prompt=titles[0], stream=True, **options) as stream:
        streamed = "".join(chunk.choices[0].text for chunk in stream)
    assert streamed == of_text.choices[0].text


def test_biases_and_penalties_change_a_greedy_answer(engine: Any, titles: list[str]) -> None:
    plain = _whole(engine, titles[0], max_tokens=200, extra_body=LONG).choices[0].message.content
    for changes in (
        {"presence_penalty": 2},
        {"frequency_penalty": 2},
        {"extra_body": LONG | {"repetition_penalty": 2}},
    ):
        changed = _whole(engine, titles[0], max_tokens=200, **{"extra_body": LONG} | changes)
        assert changed.choices[0].message.content != plain
    neutral = {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}}
    more = LONG | {"repetition_penalty": 1, "min_p": 0}
    same = _whole(engine, titles[0], max_tokens=200, extra_body=more, **neutral)
    assert same.choices[0].message.content == plain
    only = _whole(engine, titles[0], max_tokens=4, logit_bias={"5": 100})
    assert only.choices[0].message.content == 4 * only.choices[0].message.content[:1] != ""


def test_unknown_fields_are_ignored(engine: Any, titles: list[str]) -> None:
    plain = _whole(engine, titles[0], max_tokens=20)
    odd = _whole(
        engine, titles[0], max_tokens=20, user="me", extra_body={"invented": {"later": [1]}}
    )
    assert odd.choices[0].message.content == plain.choices[0].message.content


def test_content_may_be_a_list_of_text_parts(engine: Any, titles: list[str]) -> None:
    parts = [{"type": "text", "text": titles[0]}]
    answer = engine.client.chat.completions.create(
        model=engine.model,
        messages=[{"role": "user", "content": parts}],
        temperature=0,
        max_tokens=20,
    )
    plain = _whole(engine, titles[0], max_tokens=20)
    assert answer.choices[0].message.content == plain.choices[0].message.content


def test_characters_of_several_tokens_come_out_whole(engine: Any, tokenizer: Tokenizer) -> None:
    """At a high temperature a byte-level model writes all kinds of bytes: no chunk may hold half a one."""
    for seed in range(5):
        options = {"temperature": 2, "seed": seed, "max_tokens": 60, "extra_body": LONG}
        chunks = _chunks(engine, "中文😀", **options)
        whole = _whole(engine, "中文😀", **options)
        assert _text(chunks) == whole.choices[0].message.content


def test_tokenize_counts_as_usage_does(engine: Any, titles: list[str]) -> None:
    counted = _post(engine, "/tokenize", {"model": engine.model, "messages": _asked(titles[0])})
    answer = _whole(engine, titles[0], max_tokens=1)
    assert counted["count"] == len(counted["tokens"]) == answer.usage.prompt_tokens
    assert counted["max_model_len"] == engine.context_length
    of_text = _post(engine, "/tokenize", {"model": engine.model, "prompt": titles[0]})
    assert 0 < of_text["count"] < counted["count"]


def test_a_long_text_is_encoded_beside_everything_else(engine: Any) -> None:
    digits = {"model": engine.model, "prompt": "1" * 2_000_000}
    with ThreadPoolExecutor(1) as pool:
        counted, meanwhile = pool.submit(_post, engine, "/tokenize", digits), 0
        while not counted.done():
            _whole(engine, "红色", max_tokens=1)
            meanwhile += 1
    assert counted.result()["count"] == 2_000_000
    assert meanwhile > 20, "everybody else had to wait"


def test_many_long_texts_take_the_memory_of_one(start: Any) -> None:
    engine = start()
    digits = {"model": engine.model, "prompt": "1" * 500_000}
    peaks = []
    for several in (1, 8):
        with ThreadPoolExecutor(several) as pool:
            list(pool.map(lambda _: _post(engine, "/tokenize", digits), range(several)))
        status = Path(f"/proc/{engine.process.pid}/status").read_text()
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]))
    assert peaks[1] < 2 * peaks[0]


def test_models_are_listed(engine: Any) -> None:
    assert [card.id for card in engine.client.models.list()] == [engine.model]
    assert engine.client.models.retrieve(engine.model).id == engine.model


def test_several_served_names_answer_alike(start: Any, titles: list[str]) -> None:
    engine = start("--served-model-name", "first", "second")
    answers = [
        engine.client.chat.completions.create(
            model=name, messages=_asked(titles[0]), temperature=0, max_tokens=10
        )
        for name in ("first", "second")
    ]
    assert [answer.model for answer in answers] == ["first", "second"]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def _post(engine: Any, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        engine.url + path,
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {engine.client.api_key}"},
    )
    with closing(urllib.request.urlopen(request)) as answer:
        return json.load(answer)
