"""An event loop whose time passes only when nothing else is left to do: hours of waiting in no time.

What runs on it is the real asyncio code, in an order that is the same at every run.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Selector(selectors.SelectSelector):
    """Instead of waiting for a timer, moves on to it."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("every task waits for something that nobody will do")
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Use it as `asyncio.Runner(loop_factory=VirtualLoop)`; `now_us` is a `Clock`."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s

    def now_us(self) -> int:
        """Return the loop's time, in microseconds since it was made."""
        return round(self._virtual.now_s * 1_000_000)
