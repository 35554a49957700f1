"""The log: warnings as text or as JSON lines, and with `json` a line for every answered request.

A line says who called what, what came of it, what it cost and where its time went. It never has a prompt, an
answer or a key's secret. Everything goes to standard error; whoever starts the process keeps it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections import deque
from types import TracebackType
from typing import Any, Literal

import msgspec

from catalog.ground.clock import to_iso
from catalog.ground.errors import TokenMartError
from marketplace.gateway.seen import Seen

Mode = Literal["text", "json", "off"]
MOST_WAITING = 50_000
"""Lines that may wait for a slow reader of the log before more are dropped."""
_LAST_S = 5.0
"""How long a reader may take for the last lines before the process ends without it."""
_PIECE_BYTES = 4096
"""PIPE_BUF on Linux: more than this, a pipe may mix with what others write (see pipe(7))."""
_FULL_S = 0.05
"""How long the writing thread waits for room, where whoever shares the pipe has made it non-blocking."""
_STANDARD_ERROR = 2
_encode = msgspec.json.Encoder().encode
_TELLING = (OSError, TokenMartError)
"""Errors whose words are the system's or ours. Others may quote what a caller sent."""


def set_up(mode: Mode) -> None:
    """Let this process log so. `off` leaves nothing but what Python itself prints when it cannot go on."""
    handler = LineWriter()
    handler.setFormatter(_JsonFormatter() if mode == "json" else _TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        if isinstance(old, LineWriter):
            old.close()
    root.addHandler(handler)
    root.setLevel(logging.CRITICAL + 1 if mode == "off" else logging.WARNING)


def lines() -> LineWriter | None:
    """Return what writes this process's log, None before `set_up`."""
    return next((h for h in logging.getLogger().handlers if isinstance(h, LineWriter)), None)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s %(levelname)s %(message)s")
        self.converter = time.gmtime

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return trace_of(*ei)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": to_iso(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        generation = getattr(record, "generation", None)
        if generation:
            told["generation"] = generation
        if record.exc_info and record.exc_info[0] is not None:
            told["trace"] = trace_of(*record.exc_info)
        return _encode(told).decode()


def trace_of(
    kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
) -> str:
    """Return an exception with its frames, and with its words only where these cannot quote a caller."""
    if kind is None:
        return ""
    before = error.__cause__ or error.__context__ if error is not None else None
    lines = []
    if before is not None and before is not error:
        lines.append(trace_of(type(before), before, before.__traceback__) + "\n")
    lines += traceback.format_tb(at)
    words = f": {error}" if isinstance(error, _TELLING) else ""
    return "".join(lines) + f"{kind.__module__}.{kind.__qualname__}{words}"


def line(seen: Seen, *, slow: bool) -> bytes:
    """Return the JSON line of a request, with its line feed. What there is nothing to say of is left out."""
    told: dict[str, Any] = {
        "time": to_iso(seen.ended_at_us),
        "level": "warning" if slow else "info",
        "event": "slow_call" if slow else "call",
        "generation": seen.generation,
        "path": seen.path,
        "status": seen.status,
    }
    last = seen.attempts[-1] if seen.attempts else None
    more: dict[str, Any] = {
        "error": seen.error,
        "org": seen.org,
        "key": seen.key,
        "listing": seen.listing,
        "endpoint": last.endpoint if last is not None else "",
        "why": seen.why if last is not None else "",
        "failed_endpoints": [[a.endpoint, a.failure] for a in seen.attempts if a.failure],
        "stream": seen.streamed,
        "outcome": seen.outcome,
        "trace": seen.trace_id,
    }
    told |= {name: value for name, value in more.items() if value}
    if seen.settled_at_us:
        told |= {
            "input_tokens": seen.input_tokens,
            "cached_tokens": seen.cached_tokens,
            "output_tokens": seen.output_tokens,
            "usage_source": seen.usage_source,
            "cost_u": seen.cost_u,
        }
    return _encode(told | phases_ms(seen)) + b"\n"


def phases_ms(seen: Seen) -> dict[str, float]:
    """Return how long each phase took that there was, in milliseconds; `total_ms` is everything."""
    until_us = seen.ended_at_us
    told = {"total_ms": until_us - seen.started_at_us, "queue_ms": seen.waited_us}
    if seen.hold_from_us:
        told["hold_ms"] = (seen.held_at_us or until_us) - seen.hold_from_us
    if seen.held_at_us:
        told["upstream_ms"] = (seen.answered_at_us or until_us) - seen.held_at_us
    told["first_token_ms"] = seen.first_token_us
    if seen.settled_at_us and seen.answered_at_us:
        told["settle_ms"] = seen.settled_at_us - seen.answered_at_us
    return {name: us / 1000 for name, us in told.items() if us or name == "total_ms"}


def words(seen: Seen) -> str:
    """Return a slow request as a sentence."""
    phases = phases_ms(seen)
    total_s = phases.pop("total_ms") / 1000
    told = ", ".join(f"{name.removesuffix('_ms')} {ms:.1f} ms" for name, ms in phases.items())
    where = seen.attempts[-1].endpoint if seen.attempts else "no engine"
    error = f", {seen.error}" if seen.error else ""
    return (
        f"slow call {seen.generation}: {total_s:.2f} s ({told}); "
        f"{seen.listing or seen.path} on {where}, status {seen.status}{error}"
    )


class LineWriter(logging.Handler):
    """Writes lines in a thread of its own, so that nobody waits for whoever reads the log.

    A pipe that nobody reads takes 64 kB and then lets its writers stand still; a gateway must not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[bytes] = deque()
        self._some = threading.Event()
        self._closing = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue what a logger has to say; what cannot be written fails nobody who says it."""
        try:
            self.add(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:
            self.handleError(record)

    def add(self, text: bytes) -> None:
        """Queue one line."""
        if len(self._lines) >= MOST_WAITING:
            self.dropped += 1
        else:
            self._lines.append(text)
            self._some.set()

    def close(self) -> None:
        """Write what is queued, and end (`logging` does it at exit); no reader is waited for long."""
        self._closing = True
        self._some.set()
        self._thread.join(_LAST_S)
        super().close()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            closing = self._closing
            while self._lines:
                self._write(self._part())
            if closing:
                return

    def _part(self) -> list[bytes]:
        """Take as many lines as a pipe takes in one piece, so that no other process's line lands in one."""
        part = [self._lines.popleft()]
        length = len(part[0])
        while self._lines and (length := length + len(self._lines[0])) <= _PIECE_BYTES:
            part.append(self._lines.popleft())
        return part

    def _write(self, part: list[bytes]) -> None:
        # Not through `sys.stderr`: whoever else writes or flushes that would wait for this thread.
        text = b"".join(part)
        while text:
            try:
                text = text[os.write(_STANDARD_ERROR, text) :]
            except BlockingIOError:
                time.sleep(_FULL_S)
            except OSError:  # nobody reads any more, or the disk is full
                self.dropped += len(part)
                return
