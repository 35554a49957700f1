"""A clock that tests turn by hand, and endpoints to choose from."""

from __future__ import annotations

from typing import Any

from serving.routing import Candidate


class HandClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


def endpoint(name: str, **fields: Any) -> Candidate:
    """Return a candidate of which only what a test is about is said."""
    return Candidate(id=name, url=f"http://{name}", model="m", **fields)


def endpoints(*names: str, **fields: Any) -> list[Candidate]:
    """Return candidates that are alike."""
    return [endpoint(name, **fields) for name in names]
