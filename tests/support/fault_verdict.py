"""Hold together what callers received, what engines emitted, and what is in the books.

`judge` knows no gateway: it sees three lists and when which fault was at work, and says what must not be.
What a fault makes unknowable is counted, not hidden:

- *settled, not seen*: the settlement was on disk, and the worker died (or was taken out of service) before
  the last byte had reached its caller;
- *seen in part, unpaid*: a worker died in the middle of an answer. Its hold expires, the platform bears it;
- *refused, yet settled*: the database went away between the COMMIT and its confirmation and stayed away for
  longer than the writer is patient, so the gateway had to say no without knowing;
- *charged under a key, its answer not kept*: the database was away when the answer was to be kept, or a day
  went by on the clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from support.fault_repeats import code, judge_repeats

ABORT_S = 2.0
"""How long an engine may work on for a caller who has gone, on a busy machine."""
_AFTER_S = 1.0
_DEADLY = frozenset({"kill_worker", "kill_office", "kill_all", "stop_worker", "drain"})
_DATABASE = frozenset({"database_restart", "database_cut", "database_lock", "disk_full"})
_NEVER = (400, 401, 402, 403, 404, 405, 409, 413, 500)
"""No call here deserves these answers."""

Row = dict[str, Any]


class Window(NamedTuple):
    """A fault of the gateway's surroundings while it was at work (monotonic seconds)."""

    kind: str
    began: float
    ended: float


@dataclass
class Verdict:
    """`problems` is empty when all is well."""

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unknowable: Counter[str] = field(default_factory=Counter)
    abort_s: list[float] = field(default_factory=list)
    unseen: list[int] = field(default_factory=list)
    """Tokens billed to callers who left, beyond those that they had received."""


def judge(
    calls: Sequence[Row], attempts: Sequence[Row], events: Sequence[Row], windows: Sequence[Window]
) -> Verdict:
    """Compare; `attempts` are all that have ended."""
    return Judge(calls, attempts, events, windows).verdict


class Judge:
    """One verdict being made; `fault_repeats` judges the calls that were repeated."""

    NEVER: ClassVar = _NEVER
    DEADLY: ClassVar = _DEADLY

    def __init__(
        self,
        calls: Sequence[Row],
        attempts: Sequence[Row],
        events: Sequence[Row],
        windows: Sequence[Window],
    ) -> None:
        self.verdict = Verdict()
        self._windows = windows
        self.events = {event["id"]: event for event in events}
        self.by_serial = {f"chatcmpl-{a['serial']}": a for a in attempts}
        self.of_call: dict[str, list[Row]] = defaultdict(list)
        self._of_generation: dict[str, list[Row]] = defaultdict(list)
        for attempt in attempts:
            self.of_call[attempt["plan"]["call"]].append(attempt)
            self._of_generation[attempt["generation"]].append(attempt)
        tries: dict[str, list[Row]] = defaultdict(list)
        for call in sorted(calls, key=lambda one: float(one["began"])):
            tries[call["call"]].append(call)
        self._posted_again(attempts, tries)
        self.verdict.counts["answers of engines behind TLS"] = sum(
            call["secure"] and call["how"] == "complete" for call in calls
        )
        for called in tries.values():
            if called[0]["key"]:
                judge_repeats(self, called)
                continue
            for call in called:
                self._call(call)
        for event in events:
            self._event(event)

    def _posted_again(self, attempts: Sequence[Row], tries: dict[str, list[Row]]) -> None:
        """Rule 6: an engine gets a request twice at most (a kept connection is replaced once).

        So with every try of a caller who repeats it.
        """
        sent = Counter((attempt["generation"], attempt["engine"]) for attempt in attempts)
        self.verdict.counts["posted again to an engine"] = sum(n > 1 for n in sent.values())
        for (generation, engine), times in sent.items():
            call = self._of_generation[generation][0]["plan"]["call"]
            if times > 2 * max(1, len(tries[call])):
                self.off(f"engine {engine} got {generation} {times} times")

    def off(self, words: str, *rows: Row | None) -> None:
        told = "; ".join(str(row) for row in rows if row is not None)
        self.verdict.problems.append(f"{words}: {told}"[:1500])

    def near(self, call: Row, kinds: Iterable[str] | None = None) -> bool:
        """Return whether one of the faults was at work during the call."""
        found = self.kinds_near(call)
        return bool(found if kinds is None else found & set(kinds))

    def kinds_near(self, call: Row) -> set[str]:
        """Return the faults that were at work during the call, or a moment before."""
        return {
            w.kind
            for w in self._windows
            if w.began <= call["ended"] and call["began"] <= w.ended + _AFTER_S
        }

    def _billed(self, call: Row) -> list[Row]:
        """Return the events of a call, whether it had learned its generation's name or not."""
        names = {a["generation"] for a in self.of_call[call["call"]]} | {call["generation"]}
        return [self.events[name] for name in names if name in self.events]

    def _call(self, call: Row) -> None:
        billed = self._billed(call)
        how = call["how"]
        self.verdict.counts[how] += 1
        if len(billed) > 1:
            self.off("one call was billed twice", call, *billed)
        event = billed[0] if billed else None
        {
            "complete": self._complete,
            "error": self._error,
            "broken": self._broken,
            "left": self._left,
            "timeout": self._timeout,
        }[how](call, event)

    def _complete(self, call: Row, event: Row | None) -> None:
        """Rule 1: what a client saw complete is billed, once, with the engine's own counts."""
        if event is None or event["id"] != call["generation"]:
            self.off("an answer reached its client and was never billed", call, event)
            return
        attempt = self.by_serial.get(call["serial"])
        if attempt is None or attempt["generation"] != event["id"]:
            self.off("a client got another call's answer", call, attempt)
            return
        plan = attempt["plan"]
        told = (event["input"], event["cached"], event["output"])
        if event["outcome"] != "ok" or told != (plan["prompt"], plan["cached"], plan["tokens"]):
            self.off("the bill is not what the engine emitted", call, event, attempt)
        if call["tokens"] != plan["tokens"]:
            self.off("a complete answer lacks tokens", call, attempt)
        if call["cost_u"] != event["cost_u"]:
            self.off("the client was told another price", call, event)

    def _error(self, call: Row, event: Row | None) -> None:
        """Rule 2: who was told that nothing was charged was charged nothing."""
        self.verdict.counts[f"error {call['status']} {code(call)}".rstrip()] += 1
        if call["status"] in _NEVER:
            self.off("a call was refused for no reason", call)
        if event is None:
            return
        if self.near(call, _DEADLY | _DATABASE):
            self.verdict.unknowable["refused, yet settled"] += 1
        else:
            self.off("a refused call was billed", call, event)

    def _broken(self, call: Row, event: Row | None) -> None:
        """Rule 3: a connection breaks only where its worker dies."""
        if not self.near(call, _DEADLY):
            self.off("a connection broke and no worker had died", call, event)
        if event is not None and event["outcome"] == "ok":
            self.verdict.unknowable["settled, not seen"] += 1
        elif event is None and call["tokens"]:
            self.verdict.unknowable["seen in part, unpaid"] += 1

    def _timeout(self, call: Row, event: Row | None) -> None:
        self.off("a call was never answered", call, event)

    def _left(self, call: Row, event: Row | None) -> None:
        """Rule 4: who leaves pays for what was made until then, and the engine is stopped."""
        attempts = self.of_call[call["call"]]
        self.aborted(call, attempts)
        if event is None:
            failed = any(a["end"] == "broke" for a in attempts) or call["do"] != ["ok"]
            if call["tokens"] and not failed:
                if self.near(call, _DEADLY | _DATABASE):
                    self.verdict.unknowable["seen in part, unpaid"] += 1
                else:
                    self.off("who left paid nothing for what was made", call, *attempts)
            return
        emitted = max((a["emitted"] for a in self._of_generation[event["id"]]), default=0)
        if event["outcome"] == "cancelled":
            self.verdict.counts["left and paid"] += 1
            most = emitted if call["stream"] else 0
            if not call["tokens"] <= event["output"] <= most:
                self.off("who left paid for something else", call, event, *attempts)
            self.verdict.unseen.append(event["output"] - call["tokens"])
        else:
            self.verdict.counts["left when all was made"] += 1

    def aborted(self, call: Row, attempts: Sequence[Row]) -> None:
        for attempt in attempts:
            late_s = attempt["ended"] - max(call["ended"], attempt["began"])
            if attempt["end"] == "aborted" and late_s > 0:
                self.verdict.abort_s.append(late_s)
            if late_s > ABORT_S and not self.near({**call, "ended": attempt["ended"]}):
                self.off(f"an engine worked on for {late_s:.1f} s after its caller", call, attempt)

    def _event(self, event: Row) -> None:
        """Rule 5: every bill is for something that an engine did."""
        self.verdict.counts[f"event {event['outcome']}"] += 1
        attempts = self._of_generation[event["id"]]
        if not attempts:
            self.off("a bill without a call", event)
        elif event["outcome"] == "ok" and not any(a["end"] == "sent" for a in attempts):
            self.off("an answer was billed that no engine finished", event, *attempts)
        elif event["outcome"] == "cancelled" and event["input"] != attempts[0]["plan"]["prompt"]:
            self.verdict.counts[f"prompt {event['source']}"] += 1
            if event["source"] != "estimated":
                self.off("who left paid for another prompt", event, *attempts)
        parts = ("wallet_u", "voucher_u", "free_u", "overrun_u")
        if event["cost_u"] != sum(event[part] for part in parts):
            self.off("a bill's parts do not add up", event)
