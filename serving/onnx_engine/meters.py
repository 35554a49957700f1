"""What the engine counts, in Prometheus' form.

One registry per engine, so that two engines in one test process do not meet.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FIRST_TOKEN_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_PER_TOKEN_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


class Meters:
    """Counters and histograms; every name starts with `tokenmart_engine_`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        prefix, registry = "tokenmart_engine", self._registry
        self.requests = Counter(
            f"{prefix}_requests", "Answered requests.", ["endpoint", "outcome"], registry=registry
        )
        self.prompt_tokens = Counter(
            f"{prefix}_prompt_tokens", "Prompt tokens read.", registry=registry
        )
        self.generation_tokens = Counter(
            f"{prefix}_generation_tokens", "Tokens produced, ends included.", registry=registry
        )
        self.cancelled = Counter(
            f"{prefix}_cancelled", "Sequences whose client left.", registry=registry
        )
        self.first_token_s = Histogram(
            f"{prefix}_time_to_first_token_seconds",
            "From submission to the first token.",
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self.per_token_s = Histogram(
            f"{prefix}_time_per_output_token_seconds",
            "Mean time between the tokens of a sequence after its first.",
            buckets=_PER_TOKEN_S,
            registry=registry,
        )

    def watch(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Show how many sequences hold a row and how many wait for one."""
        prefix = "tokenmart_engine_sequences"
        Gauge(
            f"{prefix}_running", "Sequences that hold a row.", registry=self._registry
        ).set_function(running)
        Gauge(
            f"{prefix}_waiting", "Sequences that wait for a row.", registry=self._registry
        ).set_function(waiting)

    def exposition(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry)
