"""What is seen from outside of a call: its trace, its line in the log, its metrics. Never its words."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from support.collector import Collector, Span, collector
from support.market import Market, environment_of, wait_until
from support.upstream import Asked, Reply, Upstream, add_endpoint, refuses, usual
from support.workers import workers_of

from marketplace.prices.components import Components

PRICE = Components(input_u_per_m=1_000_000, output_u_per_m=2_000_000)
SECRET = "四十二号提示词"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 40}


@pytest.fixture(scope="module")
def told() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def watched(told: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A marketplace that logs every call, sends traces, and finds half a second slow."""
    data_dir = tmp_path_factory.mktemp("watched")
    url = f"sqlite:///{data_dir / 'tokenmart.db'}"
    more = {
        "TOKENMART_LOG": "json",
        "TOKENMART_SLOW_REQUEST_S": "0.5",
        "OTEL_EXPORTER_OTLP_ENDPOINT": told.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20park",
        "OTEL_SERVICE_NAME": "our-market",
    }
    market = Market(data_dir, url, environment_of(data_dir, url, **more))
    market.start()
    yield market
    market.stop()
    assert market.problems() == []
    assert SECRET not in "".join(market.printed)
    assert not any(SECRET in text for text in told.texts)


class Caller:
    """An organisation that calls one listing."""

    def __init__(self, market: Market, engine: Upstream) -> None:
        self.market = market
        self.listing = market.listing(PRICE, url=engine.url, model="m", context_length=100_000)
        self.org_id, self.key = market.organisation(voucher_u=1_000_000)

    def ask(self, path: str = "chat/completions", **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"} | more.pop("headers", {})
        return httpx.post(
            f"{self.market.url}/v1/{path}",
            json={"model": self.listing, **ASK, **more},
            headers=headers,
            timeout=30,
        )

    def line(self, generation: str) -> dict[str, Any]:
        """Return the line of a call, once it is there."""
        wait_until(lambda: any(one.get("generation") == generation for one in lines(self.market)))
        (found,) = [one for one in lines(self.market) if one.get("generation") == generation]
        return found


def lines(market: Market) -> list[dict[str, Any]]:
    """Return what has been logged so far; everything must be JSON."""
    return [json.loads(text) for text in list(market.printed) if text.startswith("{")]


@pytest.fixture
def caller(watched: Market, engine: Upstream) -> Caller:
    return Caller(watched, engine)


def _late(engine: Upstream) -> Callable[[Asked], Reply]:
    """Return an answer that comes later than what is slow."""

    def answer(asked: Asked) -> Reply:
        engine._loop.call_later(0.6, engine._go.set)
        reply = usual(asked)
        reply.waits = True
        return reply

    return answer


def spans_of(told: Collector, trace_id: str, count: int) -> dict[str, Span]:
    """Return the spans of a trace by name, once so many are there."""
    wait_until(lambda: len(told.of(trace_id)) >= count)
    return {span.name: span for span in told.of(trace_id)}


def test_a_trace_goes_on_to_the_engine(caller: Caller, engine: Upstream, told: Collector) -> None:
    answer = caller.ask(headers={"traceparent": GIVEN, "tracestate": "vendor=1"})
    assert answer.status_code == 200
    found = spans_of(told, TRACE, 4)
    assert set(found) == {"POST /v1/chat/completions", "hold", "chat m", "settle"}
    request, upstream = found["POST /v1/chat/completions"], found["chat m"]
    assert request.plain["parentSpanId"] == PARENT
    for name in ("hold", "chat m", "settle"):
        assert found[name].plain["parentSpanId"] == request.plain["spanId"]
        begin, end = found[name].from_to
        assert request.from_to[0] <= begin <= end <= request.from_to[1]
    asked = engine.asked[-1].headers
    assert asked["traceparent"] == f"00-{TRACE}-{upstream.plain['spanId']}-01"
    assert asked["tracestate"] == "vendor=1"
    assert [found[n].plain["kind"] for n in ("POST /v1/chat/completions", "hold", "chat m")] == [
        2,
        1,
        3,
    ]
    assert request.resource["service.name"] == "our-market"
    assert told.headers[-1]["x-tenant"] == "a park"
    assert upstream.told["gen_ai.operation.name"] == "chat"
    assert upstream.told["gen_ai.request.max_tokens"] == 40
    assert upstream.told["gen_ai.usage.input_tokens"] == 11
    assert upstream.told["gen_ai.usage.output_tokens"] == 5
    assert upstream.told["server.address"] == "127.0.0.1"
    assert upstream.told["server.port"] == engine.port
    assert request.told["gen_ai.request.model"] == caller.listing
    assert request.told["http.response.status_code"] == 200
    assert request.told["tokenmart.generation_id"] == answer.headers["x-tm-generation"]
    assert request.told["tokenmart.org_id"] == caller.org_id
    assert request.told["tokenmart.cost_u"] == int(answer.headers["x-tm-cost-u"])
    assert caller.key not in json.dumps([span.plain for span in told.spans])


def test_a_call_without_a_trace_begins_one(
    caller: Caller, engine: Upstream, told: Collector
) -> None:
    answer = caller.ask(stream=True)
    parent = engine.asked[-1].headers["traceparent"].split("-")
    found = spans_of(told, parent[1], 4)
    assert "parentSpanId" not in found["POST /v1/chat/completions"].plain
    assert parent[2] == found["chat m"].plain["spanId"]
    upstream = found["chat m"].told
    assert upstream["gen_ai.request.stream"] is True
    assert 0 < upstream["gen_ai.response.time_to_first_chunk"] < 30
    line = caller.line(answer.headers["x-tm-generation"])
    assert line["trace"] == parent[1]
    assert line["stream"] is True
    assert line["first_token_ms"] > 0


@pytest.mark.parametrize(
    "given",
    [
        f"00-{TRACE}-{PARENT}-00",
        f"cc-{TRACE[::-1]}-{PARENT}-00-more",
    ],
)
def test_what_the_caller_does_not_record_is_passed_on_as_it_came(
    caller: Caller, engine: Upstream, told: Collector, given: str
) -> None:
    before = len(told.of(given.split("-")[1]))
    caller.ask(headers={"traceparent": given})
    assert engine.asked[-1].headers["traceparent"] == given
    generation = caller.ask().headers["x-tm-generation"]
    caller.line(generation)
    assert len(told.of(given.split("-")[1])) == before


@pytest.mark.parametrize(
    "given",
    [
        "nonsense",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
    ],
)
def test_a_malformed_parent_counts_as_none(caller: Caller, engine: Upstream, given: str) -> None:
    caller.ask(headers={"traceparent": given})
    sent = engine.asked[-1].headers["traceparent"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", sent)
    assert TRACE not in sent


def test_the_next_engine_has_a_span_of_its_own(
    caller: Caller, engines: list[Upstream], told: Collector
) -> None:
    add_endpoint(caller.market, caller.listing, engines[1])
    trace = TRACE[::-1]

    def tried() -> bool:
        engines[0].script(refuses(500))
        engines[1].script(refuses(500))
        caller.ask(headers={"traceparent": f"00-{trace}-{PARENT}-01"})
        return bool(engines[0].asked) and bool(engines[1].asked)

    wait_until(tried)
    wait_until(lambda: sum(s.name == "chat m" for s in told.of(trace)) >= 2)
    sent = {e.headers["traceparent"].split("-")[2] for x in engines[:2] for e in x.asked}
    upstream = [s for s in told.of(trace) if s.name == "chat m"]
    assert {s.plain["spanId"] for s in upstream} <= sent
    assert any(s.told.get("error.type") == "status" for s in upstream)


def test_a_line_for_every_call(caller: Caller) -> None:
    answer = caller.ask()
    line = caller.line(answer.headers["x-tm-generation"])
    assert line["event"] == "call"
    assert line["level"] == "info"
    assert (line["status"], line["path"]) == (200, "/v1/chat/completions")
    assert (line["org"], line["listing"], line["why"]) == (caller.org_id, caller.listing, "only")
    assert line["key"].startswith("key_")
    assert line["endpoint"].startswith("ept_")
    assert (line["input_tokens"], line["output_tokens"]) == (11, 5)
    assert line["cost_u"] == int(answer.headers["x-tm-cost-u"])
    assert (line["outcome"], line["usage_source"]) == ("ok", "engine")
    parts = [line[name] for name in ("hold_ms", "upstream_ms", "settle_ms")]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= line["total_ms"]


def test_a_line_for_every_refusal(caller: Caller, engine: Upstream) -> None:
    for more, status, code in (
        ({"model": "nobody/nothing"}, 404, "model_not_found"),
        ({"headers": {"authorization": "Bearer tm-nobody"}}, 401, "invalid_api_key"),
        ({"max_tokens": -1}, 400, "invalid_value"),
        ({"model": SECRET}, 404, "model_not_found"),
    ):
        answer = caller.ask(**more)
        assert answer.status_code == status
        line = caller.line(answer.headers["x-tm-generation"])
        assert (line["status"], line["error"]) == (status, code)
        assert line.get("org", "") == ("" if status == 401 else caller.org_id)
    for made_up in (f"made up {SECRET}", SECRET):
        engine.script(refuses(400, SECRET, code=made_up))
        answer = caller.ask()
        assert answer.json()["error"]["code"] == made_up
        line = caller.line(answer.headers["x-tm-generation"])
        told = (line["error"], line["failed_endpoints"][0][1])
        assert told == ("engine_refused", "engine_refused")


def test_a_stream_that_breaks_off(caller: Caller, engine: Upstream) -> None:
    engine.script(lambda asked: Reply(events=usual(asked).events, fails="close", after=2))
    answer = caller.ask(stream=True)
    line = caller.line(answer.headers["x-tm-generation"])
    assert (line["status"], line["error"]) == (200, "upstream_failed")
    assert "cost_u" not in line


def test_a_slow_call_is_a_warning_with_its_phases(caller: Caller, engine: Upstream) -> None:
    engine.script(_late(engine))
    answer = caller.ask()
    line = caller.line(answer.headers["x-tm-generation"])
    assert (line["event"], line["level"]) == ("slow_call", "warning")
    assert line["upstream_ms"] > 500
    assert line["total_ms"] >= line["upstream_ms"]


def test_the_metrics_tell_where_the_time_went(caller: Caller, engine: Upstream) -> None:
    caller.ask(model="nobody/nothing")
    caller.ask()
    names = ("hold", "upstream", "settle", "call", "added")

    def read() -> dict[str, float]:
        with urllib.request.urlopen(f"{caller.market.url}/metrics") as answer:
            rows = [row.rsplit(" ", 1) for row in answer.read().decode().splitlines()]
        return {name: float(value) for name, value in rows if not name.startswith("#")}

    def counted() -> bool:
        found = read()
        return found.get(f'tokenmart_gateway_calls_total{{listing="{caller.listing}"}}') == 1.0

    wait_until(counted)
    found = read()
    counts = {found[f"tokenmart_gateway_{name}_seconds_count"] for name in names[1:]}
    assert len(counts) == 1
    sums = {name: found[f"tokenmart_gateway_{name}_seconds_sum"] for name in names}
    assert 0 < sums["added"] < sums["call"]
    assert sums["settle"] <= sums["added"]
    assert found['tokenmart_gateway_errors_total{code="model_not_found"}'] >= 1
    assert found["tokenmart_gateway_holds_open"] == 0
    assert found["tokenmart_gateway_spans_sent_total"] > 0
    assert found['tokenmart_gateway_worker_resident_memory_bytes{worker="0"}'] > 1_000_000
    assert found['tokenmart_gateway_dropped_total{what="span"}'] == 0
    assert found["process_resident_memory_bytes"] > 1_000_000


def test_every_metric_is_on_its_page(caller: Caller) -> None:
    caller.ask()
    with urllib.request.urlopen(f"{caller.market.url}/metrics") as answer:
        text = answer.read().decode()
    families = re.findall(r"^# TYPE tokenmart_gateway_(\w+) (\w+)$", text, re.MULTILINE)
    page = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    ends = {"counter": "_total", "histogram": "_seconds", "gauge": ""}
    told = {name.removesuffix(ends.get(kind, "")) for name, kind in families}
    assert len(told) > 30
    assert {name for name in told if f"`{name}`" not in page} == set()


def test_by_default_only_slow_calls_are_logged_and_a_parent_passes_through(
    tmp_path: Path, engine: Upstream
) -> None:
    url = f"sqlite:///{tmp_path / 'tokenmart.db'}"
    more = {"TOKENMART_SLOW_REQUEST_S": "0.5"}
    market = Market(tmp_path, url, environment_of(tmp_path, url, **more))
    market.start()
    try:
        caller = Caller(market, engine)
        quick = caller.ask(headers={"traceparent": GIVEN})
        assert engine.asked[-1].headers["traceparent"] == GIVEN
        caller.ask()
        assert "traceparent" not in engine.asked[-1].headers

        engine.script(_late(engine))
        slow = caller.ask()
    finally:
        market.stop()
    printed = "".join(market.printed)
    assert SECRET not in printed
    assert quick.headers["x-tm-generation"] not in printed
    (line,) = [t for t in market.printed if slow.headers["x-tm-generation"] in t]
    assert "WARNING slow call" in line
    assert re.search(r"hold [0-9.]+ ms, upstream [0-9.]+ ms, settle [0-9.]+ ms", line)


def test_what_cannot_be_logged_fails_nobody_who_says_it() -> None:
    """A file's name may be no UTF-8, and its half characters no JSON."""
    told = """
import logging
from marketplace.gateway.call_log import set_up
set_up("json")
for words in (("half \\udcff",), ("%d", "x"), ("whole",)):
    logging.getLogger("test").warning(*words)
"""
    ran = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]
    assert [line["message"] for line in lines] == ["whole"]
    assert ran.stderr.count("Logging error") == 2


def test_a_log_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    market = Market(tmp_path, "", environment_of(tmp_path, ""))
    reads, writes = os.pipe()
    market.process = process = subprocess.Popen(
        [sys.executable, "-m", "marketplace.cli", "up", "--port", "0"],
        env=market.environment,
        stdout=subprocess.DEVNULL,
        stderr=writes,
        text=True,
        start_new_session=True,
    )
    try:
        said = b""
        while b"tokenmart usage\n" not in said:  # the last that it has to say
            said += os.read(reads, 4096)
        market.url = said.decode().split()[4]
        # Opened anew: what does not block here still blocks there.
        full = os.open(f"/proc/self/fd/{writes}", os.O_WRONLY | os.O_NONBLOCK)
        for size in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while os.write(full, b"x" * size):
                    pass
        (worker,) = workers_of(market)
        os.kill(worker, signal.SIGKILL)  # the office has something to say
        wait_until(lambda: bool(workers_of(market) - {worker}))
        assert httpx.get(f"{market.url}/healthz").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        os.close(full)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(reads)
        os.close(writes)
