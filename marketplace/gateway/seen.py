"""What a worker tells the office of one answered request, for the log and for traces. Never what it said.

    Hot.serve ─► Watcher.ended ─► a few at a time over the channel ─► observer ─┬─► call_log
                                                                              └─► spans ─► otlp

Most calls are of no interest to anybody (no line for each call, no trace, not slow), and then `ended` only
looks at the clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from catalog.ground.clock import SECOND_US, Clock
from catalog.ground.rendering import known
from marketplace.gateway.request import ENGINE_RULE, ClientGone

if TYPE_CHECKING:
    from marketplace.gateway.door import Request
    from marketplace.gateway.money import Call
    from marketplace.gateway.options import Options
    from marketplace.gateway.traces import Trace

TELL_S = 0.5
"""How often a worker tells what it has seen."""
_AT_ONCE = 256
_MOST_BEHIND = 4 * 1024 * 1024
"""Bytes that may wait on the channel for the office before what is seen is dropped."""
NEVER_US = 1 << 62
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96}(:free)?")
"""What a listing may be called; anything else that stands for a model may be anything."""


class Attempt(msgspec.Struct, array_like=True):
    """One engine that was asked. `failure` is '' where it answered; `url` is its base address."""

    endpoint: str
    url: str
    model: str
    provider: str
    asked_at_us: int
    ended_at_us: int
    failure: str = ""
    span_id: str = ""


class Seen(msgspec.Struct, array_like=True):
    """One answered request. Instants are microseconds since 1970 and 0 where it did not come so far."""

    generation: str
    path: str
    status: int
    error: str
    """The error's code, '' when there was none; in a stream it came after the status."""
    started_at_us: int
    ended_at_us: int
    org: str = ""
    key: str = ""
    listing: str = ""
    why: str = ""
    streamed: bool = False
    outcome: str = ""
    """`ok` or `cancelled` when it was settled."""
    usage_source: str = ""
    max_tokens: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_u: int = 0
    waited_us: int = 0
    hold_from_us: int = 0
    held_at_us: int = 0
    first_token_us: int = 0
    """Since the beginning of the call."""
    answered_at_us: int = 0
    settled_at_us: int = 0
    attempts: list[Attempt] = []
    trace_id: str = ""
    parent_id: str = ""
    span_id: str = ""


class _Asked(msgspec.Struct):
    model: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Seen])
_asked = msgspec.json.Decoder(_Asked)


def decode(payload: bytes) -> list[Seen]:
    """Return what a worker has told."""
    return _decoder.decode(payload)


class Watcher:
    """Looks at every answered request of one worker.

    `tell` sends bytes to the office, and `behind` says how many bytes of what was told have not left yet.
    """

    def __init__(
        self,
        options: Options,
        clock: Clock,
        tell: Callable[[bytes], None],
        behind: Callable[[], int],
    ) -> None:
        slow = options.log != "off" and options.slow_request_s
        self.slow_us = int(options.slow_request_s * SECOND_US) if slow else NEVER_US
        """What takes so long is told of; everything, where there is a line for each call."""
        if options.log == "json":
            self.slow_us = 0
        self._clock = clock
        self._tell = tell
        self._behind = behind
        self._seen: list[Seen] = []
        self.dropped = 0

    @classmethod
    def wanted(cls, options: Options) -> bool:
        """Return whether anybody wants to know anything."""
        slow = options.log != "off" and options.slow_request_s > 0
        return slow or options.log == "json" or options.trace_ratio > 0

    def ended(
        self,
        request: Request,
        call: Call | None,
        trace: Trace | None,
        generation_id: str,
        status: int,
        error: str,
        at_us: int,
    ) -> None:
        """Take note of a request that began at `at_us` and has just been answered; `error` is a code."""
        now_us = self._clock()
        sampled = trace is not None and trace.sampled
        if not (sampled or now_us - at_us >= self.slow_us):
            return
        seen = Seen(generation_id, request.path, status, error, at_us, now_us)
        if call is not None:
            _tell_of_call(seen, call)
        else:
            _tell_of_refusal(seen, request)
        if trace is not None and sampled:
            seen.trace_id, seen.parent_id, seen.span_id = (
                trace.trace_id,
                trace.parent_id,
                trace.span_id,
            )
            # From the end: the engines of a listing that was asked for first are not in this call.
            for attempt, span in zip(reversed(seen.attempts), reversed(trace.asked), strict=False):
                attempt.span_id = span
        self.add(seen)

    def add(self, seen: Seen) -> None:
        """Take note of what is of interest."""
        self._seen.append(seen)
        if len(self._seen) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Tell the office; drop it when the office is far behind."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        if self._behind() > _MOST_BEHIND:
            self.dropped += len(seen)
        else:
            self._tell(_encoder.encode(seen))


def _tell_of_refusal(seen: Seen, request: Request) -> None:
    """Fill in what can be known of a request that did not become a call."""
    key = request.key
    if key is not None:
        seen.org, seen.key = key.org_id, key.id
    try:
        model = _asked.decode(request.body).model
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return
    seen.listing = model if _NAME.fullmatch(model) else ""


def _tell_of_call(seen: Seen, call: Call) -> None:
    seen.generation = call.id
    seen.org, seen.key = call.key.org_id, call.key.id
    seen.listing, seen.why = call.record.listing.slug, call.why
    seen.streamed, seen.max_tokens = call.streamed, call.max_tokens
    seen.error = seen.error or call.error
    seen.waited_us, seen.first_token_us = call.waited_us, call.first_token_us
    # These are not there before they have come.
    seen.hold_from_us = getattr(call, "hold_from_us", 0)
    seen.held_at_us = getattr(call, "held_at_us", 0)
    seen.answered_at_us = getattr(call, "answered_at_us", 0)
    seen.settled_at_us = getattr(call, "settled_at_us", 0)
    seen.attempts = list(call.failures)
    if seen.held_at_us and (seen.answered_at_us or not seen.attempts):
        engine = call.endpoint
        since_us = seen.attempts[-1].ended_at_us if seen.attempts else seen.held_at_us
        until_us = seen.answered_at_us or seen.ended_at_us
        failure = "" if seen.answered_at_us else seen.error
        seen.attempts.append(
            Attempt(
                engine.id, engine.url, engine.model, engine.provider, since_us, until_us, failure
            )
        )
    bill = getattr(call, "bill", None)
    if bill is not None:
        seen.outcome, seen.usage_source = bill.outcome, bill.source
        seen.input_tokens, seen.output_tokens = call.input_tokens_used, call.output_tokens
        seen.cached_tokens, seen.cost_u = bill.used.cache_read, bill.cost_u


def code_of(error: Exception) -> str:
    """Return an error's code for logs and metrics; `client_gone` when it is none of the gateway.

    An engine's code may be made of the words of a prompt, and there may be any number of them.
    """
    if isinstance(error, ClientGone):
        return "client_gone"
    ours = known(error)
    return "engine_refused" if ours.rule == ENGINE_RULE else ours.code
