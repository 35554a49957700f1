"""`/metrics` is for Prometheus, says what the usage events say, and outlives a worker."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.market import Market, wait_until
from support.upstream import Reply, Upstream, events_of, refuses, usual
from support.workers import workers_of

from marketplace.prices.components import Components

# What is counted is in the workers' memory, whatever the database is.
pytestmark = pytest.mark.parametrize("market", ["sqlite"], indirect=True)
PRICE = Components(input_u_per_m=10_000_000, output_u_per_m=20_000_000)
P = "tokenmart_gateway_"
ASK: list[Any] = [{"role": "user", "content": "hello"}]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(market: Market) -> Samples:
    """Return every sample by its name and labels."""
    with urllib.request.urlopen(f"{market.url}/metrics") as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum over what has these labels."""
    wanted = set(labels.items())
    return sum(v for (n, has), v in samples.items() if n == P + name and wanted <= set(has))


def caught_up(market: Market, engine: Upstream, key: str) -> Samples:
    """Return what is told once the worker has reported everything before this moment."""
    marker = market.listing(PRICE, url=engine.url, model="m", context_length=100_000)
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0) as client:
        client.chat.completions.create(model=marker, messages=ASK)
    wait_until(lambda: of(read(market), "calls_total", listing=marker) == 1)
    return read(market)


@pytest.fixture
def slug(market: Market, engine: Upstream) -> str:
    return market.listing(PRICE, url=engine.url, model="m", context_length=100_000)


def test_the_counters_say_what_the_usage_events_say(
    market: Market, slug: str, engine: Upstream
) -> None:
    org_id, key = market.organisation(voucher_u=1_000_000)
    before = caught_up(market, engine, key)
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0) as client:
        for _ in range(3):
            client.chat.completions.create(model=slug, messages=ASK)
        for _ in range(2):
            list(client.chat.completions.create(model=slug, messages=ASK, stream=True))
        client.embeddings.create(model=slug, input="x", encoding_format="float")
        client.moderations.create(model=slug, input="x")
        engine.script(refuses(400), refuses(500))
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=slug, messages=ASK)
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model=slug, messages=ASK)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nobody/nothing", messages=ASK)
        engine.script(_waits)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).chat.completions.create(model=slug, messages=ASK)
    wait_until(lambda: len(events_of(market, org_id)) == 9)
    engine.go()
    wait_until(lambda: of(read(market), "calls_total", listing=slug) == 8)
    events, after = events_of(market, org_id)[1:], read(market)

    def more(name: str, **labels: str) -> float:
        return of(after, name, **labels) - of(before, name, **labels)

    assert of(after, "cost_u_total", listing=slug) == sum(e.cost_u for e in events)
    assert of(after, "output_tokens_total", listing=slug) == sum(e.output for e in events)
    inputs = sum(e.input_uncached + e.cache_read for e in events)
    assert of(after, "input_tokens_total", listing=slug) == inputs
    chat = "/v1/chat/completions"
    assert more("requests_total", path=chat, status="200") == 5
    assert more("requests_total", path=chat, status="400") == 1
    assert more("requests_total", path=chat, status="404") == 1
    assert more("requests_total", path=chat, status="499") == 1
    assert more("requests_total", path=chat, status="502") == 1
    assert more("requests_total", path="/v1/embeddings", status="200") == 1
    assert (more("voided_total"), more("cancelled_total")) == (2, 1)
    assert more("estimated_total") == 2  # the moderation, and the one that was cut off
    assert more("chunks_total") > 0
    assert more("call_seconds_count") == 8
    assert more("call_seconds_bucket", le="+Inf") == 8
    assert more("first_token_seconds_count") == 2
    assert more("hold_seconds_count") + more("promised_total") == 10
    assert of(after, "running") == 0


def _waits(asked: Any) -> Reply:
    reply = usual(asked)
    reply.waits = True
    return reply


def _address(market: Market) -> tuple[str, int]:
    host, _, port = market.url.removeprefix("http://").partition(":")
    return host, int(port)


def test_what_the_door_refuses_is_counted_and_told_in_its_shape(
    market: Market, slug: str, engine: Upstream
) -> None:
    anthropic = pytest.importorskip("anthropic")
    _, key = market.organisation(voucher_u=1_000_000)
    before = caught_up(market, engine, key)
    long = [{"role": "user", "content": "x" * 9 * 1024 * 1024}]
    with (
        anthropic.Anthropic(base_url=market.url, api_key=key, max_retries=0) as client,
        pytest.raises(anthropic.RequestTooLargeError) as told,
    ):
        client.messages.create(model=slug, max_tokens=8, messages=long)
    assert told.value.response.json()["error"]["type"] == "request_too_large"
    for sent, status in (
        (b"POST /v1/messages HTTP/1.1\r\nx: " + b"y" * 300_000, b"431"),
        (b"POST /v1/embeddings HTTP/1.1\r\nno header\r\n\r\n", b"400"),
    ):
        with socket.create_connection(_address(market), 10) as line:
            line.sendall(sent)
            assert line.recv(100).startswith(b"HTTP/1.1 " + status)
    after = caught_up(market, engine, key)

    def more(name: str, **labels: str) -> float:
        return of(after, name, **labels) - of(before, name, **labels)

    assert more("requests_total", path="/v1/messages", status="413") == 1
    assert more("requests_total", path="/v1/messages", status="431") == 1
    assert more("requests_total", path="/v1/embeddings", status="400") == 1
    codes = ("payload_too_large", "head_too_long", "invalid_http")
    assert [more("errors_total", code=code) for code in codes] == [1, 1, 1]


def test_the_gauges(market: Market, slug: str, engine: Upstream) -> None:
    samples = read(market)
    assert of(samples, "workers") == len(workers_of(market)) == 1
    assert of(samples, "ledger_queue") == 0


def test_nothing_private_is_told(market: Market, slug: str) -> None:
    org_id, key = market.organisation(voucher_u=1_000_000)
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "a-secret-prompt"}]
        client.chat.completions.create(model=slug, messages=messages)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="a-secret-name", messages=messages)
    wait_until(lambda: of(read(market), "calls_total", listing=slug) == 1)
    with urllib.request.urlopen(f"{market.url}/metrics") as answer:
        text = answer.read().decode()
    for secret in (org_id, key, "a-secret"):
        assert secret not in text


def test_what_a_killed_worker_counted_is_kept(market: Market, slug: str) -> None:
    _, key = market.organisation(voucher_u=1_000_000)

    def ask() -> None:
        with openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=5) as client:
            client.chat.completions.create(model=slug, messages=ASK)

    for _ in range(4):
        ask()
    wait_until(lambda: of(read(market), "calls_total", listing=slug) == 4)
    before = read(market)
    (worker,) = workers_of(market)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: bool(workers_of(market) - {worker}))

    def served() -> bool:
        try:
            ask()
        except openai.APIConnectionError:
            return False
        return True

    wait_until(served)
    wait_until(lambda: of(read(market), "calls_total", listing=slug) == 5)
    after = read(market)
    fell = [
        (name, labels)
        for (name, labels), value in before.items()
        if name.endswith(("_total", "_count", "_bucket", "_sum"))
        and name.startswith(P)
        and after.get((name, labels), 0) < value
    ]
    assert fell == []
