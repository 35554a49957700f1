"""What the adapter counts, in Prometheus' form; every name starts with `tokenmart_adapter_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Meters:
    """Counters of one adapter, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        prefix = "tokenmart_adapter"
        self.requests = Counter(
            f"{prefix}_requests",
            "Answered requests.",
            ["endpoint", "model", "outcome"],
            registry=registry,
        )
        self.prompt_tokens = Counter(
            f"{prefix}_prompt_tokens", "Reported by providers.", ["model"], registry=registry
        )
        self.completion_tokens = Counter(
            f"{prefix}_completion_tokens", "Reported by providers.", ["model"], registry=registry
        )
        self.cancelled = Counter(
            f"{prefix}_cancelled", "Calls whose client left.", ["model"], registry=registry
        )
        self.open = Gauge(
            f"{prefix}_open", "Calls at a provider now.", ["model"], registry=registry
        )
        self.seconds = Histogram(
            f"{prefix}_seconds",
            "From the request to the end of its answer.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )

    def exposition(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry)
