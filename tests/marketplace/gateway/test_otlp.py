"""The exporter against a real receiver: what it sends, when it tries again, what it drops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.collector import Collector, collector

from marketplace.gateway import otlp
from marketplace.gateway.call_log import line, words
from marketplace.gateway.otlp import Exporter, collector_of
from marketplace.gateway.seen import Attempt, Seen
from marketplace.gateway.spans import spans_of


@pytest.fixture
def told() -> Iterator[Collector]:
    with collector() as running:
        yield running


def seen(number: int = 1) -> Seen:
    at_us = 1_700_000_000_000_000
    engine = Attempt(
        "ept_1", "https://engine.example/base", "m", "acme", at_us + 20, at_us + 90, "", "b" * 16
    )
    return Seen(
        f"gen_{number}",
        "/v1/embeddings",
        200,
        "",
        at_us,
        at_us + 100,
        waited_us=5,
        hold_from_us=at_us + 10,
        held_at_us=at_us + 20,
        answered_at_us=at_us + 90,
        settled_at_us=at_us + 99,
        attempts=[engine],
        trace_id=f"{number:032x}",
        span_id="a" * 16,
    )


def run(told: Collector, *batches: int, url: str = "") -> Exporter:
    """Send so many requests' spans at a time, then close."""

    async def work() -> Exporter:
        exporter = Exporter(url or f"{told.url}/v1/traces", {}, {"service.name": "t"})
        exporter.start()
        for count in batches:
            for number in range(count):
                exporter.add(spans_of(seen(number)))
        await exporter.close()
        return exporter

    return asyncio.run(work())


def test_the_phases_of_a_call(told: Collector) -> None:
    assert run(told, 1).sent == 5
    names = [span.name for span in told.spans]
    assert names == ["POST /v1/embeddings", "queue", "hold", "embeddings m", "settle"]
    at_ns = 1_700_000_000_000_000_000
    assert [tuple(t - at_ns for t in span.from_to) for span in told.spans] == [
        (0, 100_000),
        (5_000, 10_000),
        (10_000, 20_000),
        (20_000, 90_000),
        (90_000, 99_000),
    ]
    assert told.spans[3].told["server.port"] == 443
    assert told.spans[3].plain["spanId"] == "b" * 16


def test_a_batch_is_sent_whole(told: Collector) -> None:
    exporter = run(told, 500)
    assert (exporter.sent, exporter.dropped, exporter.waiting) == (2500, 0, 0)
    assert len(told.texts) == 3


def test_a_busy_collector_is_asked_again(told: Collector) -> None:
    async def work() -> Exporter:
        told.answers += [503, 429]
        exporter = Exporter(f"{told.url}/v1/traces", {}, {})
        exporter._sleep = lambda seconds: asyncio.sleep(0)  # type: ignore[method-assign]
        exporter.start()
        exporter.add(spans_of(seen()))
        while not exporter.sent:
            await asyncio.sleep(0.01)
        await exporter.close()
        return exporter

    exporter = asyncio.run(work())
    assert (exporter.sent, exporter.dropped) == (5, 0)
    assert len(told.spans) == 5


@pytest.mark.parametrize("status", [400, 404, 500])
def test_what_is_refused_for_good_is_counted(told: Collector, status: int) -> None:
    told.answers.append(status)
    exporter = run(told, 1)
    assert (exporter.sent, exporter.dropped) == (0, 5)


def test_nobody_there(told: Collector) -> None:
    exporter = run(told, 1, url="http://127.0.0.1:9/v1/traces")
    assert (exporter.sent, exporter.dropped) == (0, 5)


def test_the_queue_is_bounded() -> None:
    async def work() -> None:
        exporter = Exporter("http://127.0.0.1:9/v1/traces", {}, {})
        for _ in range(otlp.MOST_WAITING // 5 + 10):
            exporter.add(spans_of(seen()))
        assert (exporter.waiting, exporter.dropped) == (otlp.MOST_WAITING, 50)

    asyncio.run(work())


def test_where_the_collector_is() -> None:
    base = "OTEL_EXPORTER_OTLP_ENDPOINT"
    whole = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    assert collector_of("", {}) is None
    found = collector_of("", {base: "http://c:4318/"})
    assert found is not None
    assert found[0] == "http://c:4318/v1/traces"
    found = collector_of("", {base: "http://c:4318", whole: "http://d:4318/x"})
    assert found is not None
    assert found[0] == "http://d:4318/x"
    told = {base: "http://c", "OTEL_RESOURCE_ATTRIBUTES": "service.name=a,zone=b%2Cc"}
    found = collector_of("http://ours:4318", told)
    assert found is not None
    assert found[0] == "http://ours:4318/v1/traces"
    assert (found[2]["service.name"], found[2]["zone"]) == ("a", "b,c")
    assert collector_of("", {base: "http://c", "OTEL_SDK_DISABLED": "true"}) is None


def test_a_line_leaves_out_what_there_is_nothing_to_say_of() -> None:
    refused = Seen("gen_1", "/v1/completions", 401, "invalid_api_key", 10, 60)
    assert line(refused, slow=False) == (
        b'{"time":"1970-01-01T00:00:00.000Z","level":"info","event":"call","generation":"gen_1",'
        b'"path":"/v1/completions","status":401,"error":"invalid_api_key","total_ms":0.05}\n'
    )
    assert words(seen()) == (
        "slow call gen_1: 0.00 s (queue 0.0 ms, hold 0.0 ms, upstream 0.1 ms, settle 0.0 ms); "
        "/v1/embeddings on ept_1, status 200"
    )
