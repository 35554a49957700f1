"""What the office makes of what its workers have seen: log lines and traces."""

from __future__ import annotations

import logging

from catalog.ground.clock import SECOND_US
from marketplace.gateway import call_log
from marketplace.gateway.otlp import Exporter
from marketplace.gateway.seen import Seen
from marketplace.gateway.spans import spans_of

log = logging.getLogger(__name__)


class Observer:
    """One for each office. `exporter` sends the traces; None: there are none."""

    def __init__(
        self, mode: call_log.Mode, slow_request_s: float, exporter: Exporter | None = None
    ) -> None:
        self._mode = mode
        self._slow_us = int(slow_request_s * SECOND_US)
        self._lines = call_log.lines()
        self.exporter = exporter

    @property
    def lines_dropped(self) -> int:
        """Lines that the log's reader was too slow for."""
        return self._lines.dropped if self._lines is not None else 0

    def start(self) -> None:
        """Begin."""
        if self.exporter is not None:
            self.exporter.start()

    async def close(self) -> None:
        """Send what is still there."""
        if self.exporter is not None:
            await self.exporter.close()

    def hears(self, seen: list[Seen]) -> None:
        """Take what a worker has seen."""
        for one in seen:
            slow = 0 < self._slow_us <= one.ended_at_us - one.started_at_us
            if self._lines is not None and self._mode == "json":
                self._lines.add(call_log.line(one, slow=slow))
            elif slow:
                log.warning("%s", call_log.words(one), extra={"generation": one.generation})
            if one.trace_id and self.exporter is not None:
                self.exporter.add(spans_of(one))
