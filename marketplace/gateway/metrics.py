"""`/metrics`: what the workers have counted, in Prometheus' text format (see docs/operations.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from marketplace.gateway.counters import BOUNDS_S, Counters, Histogram
from marketplace.gateway.office import GatewayOffice

_P = "tokenmart_gateway_"
_BY_LABEL = {
    "requests": ("requests", "Answers.", ("path", "status")),
    "refused": ("errors", "Answers that are errors, by the error's code.", ("code",)),
    "failures": (
        "engine_failures",
        "Engines that were asked and did not answer.",
        ("endpoint", "failure"),
    ),
    "routes": ("routes", "Why engines were chosen, where there was a choice.", ("why",)),
    "calls": ("calls", "Settled calls.", ("listing",)),
    "input_tokens": ("input_tokens", "Tokens that went in.", ("listing",)),
    "output_tokens": ("output_tokens", "Tokens that came out.", ("listing",)),
    "cost_u": ("cost_u", "What calls cost, micro-yuan.", ("listing",)),
}
_PLAIN = {
    "chunks": "Pieces of streams sent on.",
    "promised": "Calls that were promised a part of a reserve and needed no hold of their own.",
    "express": "Calls that compiled code answered.",
    "resumed": "Calls that compiled code began, and Python ended.",
    "voided": "Holds and promises that ended without a charge.",
    "cancelled": "Calls that were cut off by their client and settled.",
    "estimated": "Calls whose tokens were not told by their engine.",
}
_HISTOGRAMS = {
    "queue_s": "Time that calls waited for their turn; only those that did.",
    "hold_s": "Time until the hold is there.",
    "first_token_s": "Time from the request to the first piece of a stream.",
    "upstream_s": "Time from the hold to the end of the engine's answer.",
    "settle_s": "Time until the settlement is on disk.",
    "call_s": "Time from the request to its settlement.",
    "added_s": "Time that the gateway adds: call_seconds without the queue and the engine.",
}
_STATES = ("closed", "half_open", "cooling", "busy")


class _Workers(Collector):
    def __init__(self, office: GatewayOffice) -> None:
        self._office = office

    def collect(self) -> Iterator[Metric]:
        total = self._office.totals()
        for field, (name, words, labels) in _BY_LABEL.items():
            family = CounterMetricFamily(_P + name, words, labels=labels)
            for key, count in getattr(total, field).items():
                parts = key.split(" ", len(labels) - 1)
                if len(parts) < len(labels):
                    parts += ["other"] * (len(labels) - len(parts))
                family.add_metric(parts, count)
            yield family
        for name, words in _PLAIN.items():
            yield CounterMetricFamily(_P + name, words, value=getattr(total, name))
        yield from _histograms(total)
        yield from self._now()
        yield from self._endpoints()
        yield from self._processes()
        yield from self._outside()

    def _now(self) -> Iterator[Metric]:
        now = [worker.now for worker in self._office.workers]
        gauges = {
            "running": ("Calls being answered.", sum(n.running for n in now)),
            "holds_open": ("Holds of running calls.", sum(n.holds for n in now)),
            "connections": ("Open connections at the door.", sum(n.connections for n in now)),
            "ledger_queue": ("Ledger operations that wait.", sum(n.queued_ledger for n in now)),
            "workers": ("Workers that serve.", sum(w.ready.is_set() for w in self._office.workers)),
        }
        for name, (words, value) in gauges.items():
            yield GaugeMetricFamily(_P + name, words, value=value)
        waiting: dict[str, int] = {}
        for n in now:
            for listing, count in n.waiting.items():
                waiting[listing] = waiting.get(listing, 0) + count
        family = GaugeMetricFamily(_P + "waiting", "Calls in the fair queue.", labels=("listing",))
        for listing, count in waiting.items():
            family.add_metric([listing], count)
        yield family

    def _endpoints(self) -> Iterator[Metric]:
        """Tell of engines; each worker has its own view of them."""
        labels = ("worker", "endpoint")
        running = GaugeMetricFamily(_P + "endpoint_in_flight", "Calls on an engine.", labels=labels)
        states = GaugeMetricFamily(
            _P + "endpoint_state",
            "1 for the state that an engine's breaker is in.",
            labels=(*labels, "state"),
        )
        apart = GaugeMetricFamily(
            _P + "endpoint_apart",
            "Organisations for which alone an engine's breaker is open.",
            labels=labels,
        )
        for worker in self._office.workers:
            for told in worker.now.endpoints:
                which = [str(worker.number), told["id"]]
                running.add_metric(which, told["in_flight"])
                apart.add_metric(which, told["apart"])
                for state in _STATES:
                    states.add_metric([*which, state], told["state"] == state)
        yield running
        yield states
        yield apart

    def _processes(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            _P + "worker_restarts", "Workers that ended and were replaced.", self._office.restarts
        )
        cpu = CounterMetricFamily(
            _P + "worker_cpu_seconds",
            "Processor time, the replaced workers' included.",
            labels=("worker",),
        )
        memory = GaugeMetricFamily(
            _P + "worker_resident_memory_bytes", "Resident memory.", labels=("worker",)
        )
        for worker in self._office.workers:
            cpu.add_metric([str(worker.number)], worker.past_cpu_s + worker.now.cpu_s)
            memory.add_metric([str(worker.number)], worker.now.memory_bytes)
        yield cpu
        yield memory

    def _outside(self) -> Iterator[Metric]:
        """Tell what became of log lines and spans."""
        dropped = CounterMetricFamily(
            _P + "dropped", "Log lines and spans that nobody could take.", labels=("what",)
        )
        dropped.add_metric(["seen"], self._office.unseen())
        observer = self._office.observer
        if observer is not None:
            dropped.add_metric(["log_line"], observer.lines_dropped)
        exporter = None if observer is None else observer.exporter
        if exporter is not None:
            dropped.add_metric(["span"], exporter.dropped)
            yield CounterMetricFamily(_P + "spans_sent", "Spans that were taken.", exporter.sent)
            yield GaugeMetricFamily(_P + "spans_waiting", "Spans to send.", exporter.waiting)
        yield dropped


def _histograms(total: Counters) -> Iterator[Metric]:
    for name, words in _HISTOGRAMS.items():
        yield _histogram(_P + name.removesuffix("_s") + "_seconds", words, getattr(total, name))


def _histogram(name: str, words: str, histogram: Histogram) -> HistogramMetricFamily:
    buckets: list[tuple[str, float]] = []
    seen = 0
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), histogram.counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    return HistogramMetricFamily(name, words, buckets=buckets, sum_value=histogram.sum_s)


def metrics_router(office: Callable[[], GatewayOffice | None]) -> APIRouter:
    """Return the route. It names listings and engines, no organisation and no prompt."""
    router = APIRouter(tags=["operation"])

    @router.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Tell Prometheus what the gateway does."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # this process, the office
        found = office()
        if found is not None:
            registry.register(_Workers(found))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
