"""What must hold of a call that its caller repeated under one Idempotency-Key.

Rule 7: whatever became of each try, the call is charged once at most; every complete answer is the same one,
byte for byte; who has seen one was charged for it; and in the end the caller has the answer, or is told
that there is none (charged, and left before it was whole; or failed too often, and charged nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.fault_verdict import Judge

Row = dict[str, Any]
_GONE, _SPENT, _BUSY = (
    f"idempotency_{word}" for word in ("answer_gone", "key_spent", "key_in_use")
)
_KEPT_BY = frozenset(
    {
        "database_restart", "database_cut", "database_lock", "disk_full", "clock_forward", "clock_back",
    }
)  # fmt: skip
"""Faults that keep an answer from being kept (it is served and charged all the same), and those of the clock:
when it leaps over a day, forward or home again, the 24 hours of an answer are over."""


def code(call: Row) -> str:
    """Return the code of the error that a caller was told, '' for none."""
    return str(call["words"].get("code")) if isinstance(call["words"], dict) else ""


def judge_repeats(judge: Judge, tries: Sequence[Row]) -> None:
    """Judge all tries of one call, in the order in which they were made."""
    _Repeats(judge, tries).judge()


class _Repeats:
    def __init__(self, judge: Judge, tries: Sequence[Row]) -> None:
        self._judge = judge
        self._tries = tries
        self._attempts = judge.of_call[tries[0]["call"]]
        self._complete = [one for one in tries if one["how"] == "complete"]
        names = {a["generation"] for a in self._attempts} | {t["generation"] for t in tries}
        self._bills = [judge.events[name] for name in names if name in judge.events]

    def judge(self) -> None:
        counts, bills = self._judge.verdict.counts, self._bills
        counts["asked under a key"] += 1
        counts["asked under a key: tries"] += len(self._tries)
        counts["asked under a key: replayed"] += any(t["replayed"] for t in self._tries)
        if len(bills) > 1:
            self._off("one call under a key was billed twice", *bills)
        bill = bills[0] if bills else None
        for one in self._tries:
            self._one(one)
        self._same(bill)
        self._ended(bill)
        if bill is not None and bill["outcome"] == "cancelled":
            self._cancelled(bill)

    def _off(self, words: str, *rows: Row | None) -> None:
        told = [{k: t[k] for k in ("how", "status", "words", "replayed")} for t in self._tries]
        near = sorted({kind for one in self._tries for kind in self._judge.kinds_near(one)})
        self._judge.off(f"{words} ({self._tries[0]['key']}, {near})", *rows, {"tries": told})

    def _one(self, one: Row) -> None:
        """Judge how one try ended; a refusal says nothing about money here, the others may be charged."""
        how, judge = one["how"], self._judge
        judge.verdict.counts[how] += 1
        if how == "error":
            judge.verdict.counts[f"error {one['status']} {code(one)}".rstrip()] += 1
            known = one["status"] == 409 and code(one) in (_GONE, _SPENT, _BUSY)
            if not known and one["status"] in judge.NEVER:
                self._off("a try was refused for no reason", one)
        elif how == "broken":
            if not judge.near(one, judge.DEADLY):
                self._off("a try's connection broke and no worker had died", one)
        elif how == "timeout":
            self._off("a try was never answered", one)
        elif how == "left":
            judge.aborted(one, [a for a in self._attempts if a["began"] <= one["ended"]])

    def _same(self, bill: Row | None) -> None:
        """Every complete answer is the one that was charged."""
        if not self._complete:
            return
        first = self._complete[0]
        if len({(one["digest"], one["serial"]) for one in self._complete}) > 1:
            self._off("the same key was answered differently", *self._complete)
        if bill is None or any(one["generation"] != bill["id"] for one in self._complete):
            self._off("an answer under a key reached its client and was never billed", first, bill)
            return
        made = self._judge.by_serial.get(first["serial"])
        if made is None or made["generation"] != bill["id"]:
            self._off("a client got another call's answer under its key", first, made)
            return
        plan = made["plan"]
        told = (bill["input"], bill["cached"], bill["output"])
        if bill["outcome"] != "ok" or told != (plan["prompt"], plan["cached"], plan["tokens"]):
            self._off("the bill under a key is not what the engine emitted", bill, made)
        if first["tokens"] != plan["tokens"]:
            self._off("a complete answer under a key lacks tokens", first, made)
        if any(one["cost_u"] not in (None, bill["cost_u"]) for one in self._complete):
            self._off("the client was told another price under its key", *self._complete, bill)
        if sum(not one["replayed"] for one in self._complete) > 1:
            self._off("one key was served twice", *self._complete)

    def _ended(self, bill: Row | None) -> None:
        """The last try has an answer, or says truly why there is none."""
        last, judge = self._tries[-1], self._judge
        said = code(last) if last["how"] == "error" else ""
        if said == _SPENT:
            judge.verdict.counts["asked under a key: failed too often"] += 1
            if bill is not None:
                self._off("a call that failed too often was charged", bill)
        elif said == _GONE and bill is None:
            self._off("an answer is gone that nobody was charged for")
        elif said == _GONE and bill is not None and bill["outcome"] == "ok":
            # It was made whole and charged; only a fault may have kept it from being kept.
            if any(judge.near(one, judge.DEADLY | _KEPT_BY) for one in self._tries):
                judge.verdict.unknowable["charged under a key, its answer not kept"] += 1
            else:
                self._off("a charged answer is gone", bill)
        elif said != _GONE and last["how"] != "complete":
            self._off("a call under a key never came to an end", last)

    def _cancelled(self, bill: Row) -> None:
        """Who left pays for what was made until then, under a key as well."""
        made = [a for a in self._attempts if a["generation"] == bill["id"]]
        emitted = max((a["emitted"] for a in made), default=0)
        left = [one for one in self._tries if one["how"] == "left"]
        # A try that broke, or that a stopped process had answered, may have been left by the gateway's view.
        if not left and not any(self._judge.near(one, self._judge.DEADLY) for one in self._tries):
            self._off("a call was charged as left, and nobody had left", bill)
        if not 0 <= bill["output"] <= emitted:
            self._off("who left paid for something else under a key", bill, *made)
        self._judge.verdict.counts["left and paid"] += 1
