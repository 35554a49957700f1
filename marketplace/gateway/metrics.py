"""`/metrics`: what the workers have counted, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from marketplace.gateway.meter import BOUNDS_S, Histogram, Meter
from marketplace.gateway.office import GatewayOffice

_P = "tokenmart_gateway_"
_BY_LISTING = {
    "calls": "Settled calls.",
    "input_tokens": "Tokens that went in.",
    "output_tokens": "Tokens that came out.",
    "cost_u": "What calls cost, micro-yuan.",
}
_PLAIN = {
    "chunks": "Pieces of streams sent on.",
    "voided": "Holds that ended without a charge.",
    "cancelled": "Calls that were cut off by their client and settled.",
    "estimated": "Calls whose tokens were not told by their engine.",
}
_HISTOGRAMS = {
    "hold_s": "Time until the hold is there.",
    "first_token_s": "Time to the first piece of a stream.",
    "call_s": "Time from the request to its settlement.",
    "added_s": "Time that the gateway adds to its engine's.",
}


class _Workers(Collector):
    def __init__(self, office: GatewayOffice) -> None:
        self._office = office

    def collect(self) -> Iterator[Metric]:
        total = self._office.totals()
        requests = CounterMetricFamily(_P + "requests", "Answers.", labels=("path", "status"))
        for name, count in total.requests.items():
            requests.add_metric(name.split(" "), count)
        yield requests
        routes = CounterMetricFamily(_P + "routes", "Why engines were chosen.", labels=("why",))
        for why, count in total.routes.items():
            routes.add_metric([why], count)
        yield routes
        yield from _by_listing(total)
        for name, words in _PLAIN.items():
            yield CounterMetricFamily(_P + name, words, value=getattr(total, name))
        for name, words in _HISTOGRAMS.items():
            yield _histogram(_P + name.removesuffix("_s") + "_seconds", words, getattr(total, name))
        yield from self._now()

    def _now(self) -> Iterator[Metric]:
        now = [worker.now for worker in self._office.workers]
        gauges = {
            "running": ("Calls being answered.", sum(n.running for n in now)),
            "connections": ("Open connections at the door.", sum(n.connections for n in now)),
            "ledger_queue": ("Ledger operations that wait.", sum(n.queued_ledger for n in now)),
            "workers": ("Workers that serve.", sum(w.ready.is_set() for w in self._office.workers)),
        }
        for name, (words, value) in gauges.items():
            yield GaugeMetricFamily(_P + name, words, value=value)
        waiting = GaugeMetricFamily(_P + "waiting", "Calls in the fair queue.", labels=("listing",))
        for n in now:
            for listing, count in n.waiting.items():
                waiting.add_metric([listing], count)
        yield waiting
        endpoints = GaugeMetricFamily(
            _P + "endpoint_in_flight", "Calls on an engine.", labels=("worker", "endpoint", "state")
        )
        for worker in self._office.workers:
            for told in worker.now.endpoints:
                labels = [str(worker.number), told["id"], told["state"]]
                endpoints.add_metric(labels, told["in_flight"])
        yield endpoints


def _by_listing(total: Meter) -> Iterator[Metric]:
    for name, words in _BY_LISTING.items():
        family = CounterMetricFamily(_P + name, words, labels=("listing",))
        for slug, count in getattr(total, name).items():
            family.add_metric([slug], count)
        yield family


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
        found = office()
        if found is not None:
            registry.register(_Workers(found))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
