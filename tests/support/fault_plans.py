"""What a call does, drawn at random: how its engine behaves, how its client does, and both as plain data.

A call is `{"plan": …, "stream": …, "usage": …, "client": …, "secure": …, "key": …}`. The plan travels to the
faulty engine as the text of the prompt, so that one seed decides what every party does. `plan["do"]` says
what each attempt of the gateway meets, the last entry all further ones. `secure`: its engines are behind
TLS. `key`: its Idempotency-Key, '' for none; who has one repeats the call until it is answered.
"""

from __future__ import annotations

import random
from typing import Any

Call = dict[str, Any]

ENGINE = (
    "hang", "hang_mid", "reset", "reset_mid", "close", "close_mid", "garbage", "garbage_mid",
    "short", "error_event", "no_done", "500", "503", "429",
)  # fmt: skip
"""Faults of an engine, one call at a time; `_mid`: after some of the answer."""
CLIENT = ("leave_sending", "leave_waiting", "leave_mid", "impatient", "slow", "stuck", "trickle")
"""Faults of a client: it goes away (while sending, before the answer, in its middle, after a time), reads
slowly, stops reading and then leaves, or sends its request in drips."""
ONLY_STREAMS = frozenset({"error_event", "no_done", "garbage_mid", "leave_mid"})
_SECURE_SHARE = 0.35
_KEYED_SHARE = 0.1
_KEYED_FAULTS_SHARE = 0.4


def healthy(chance: random.Random, call_id: str) -> Call:
    """Return a call in which nobody misbehaves."""
    stream = chance.random() < 0.6
    plan = {
        "call": call_id,
        "prompt": chance.randint(5, 200),
        "cached": chance.choice((0, 0, 3)),
        "tokens": chance.randint(2, 40),
        "pace_ms": chance.choice((0, 0, 2, 10)) if stream else chance.choice((0, 5, 40)),
        "pad": 0,
        "at": 0,
        "do": ["ok"],
    }
    return {
        "plan": plan,
        "stream": stream,
        "usage": chance.random() < 0.5,
        "client": "patient",
        "secure": chance.random() < _SECURE_SHARE,
        "key": f"once-{call_id}" if chance.random() < _KEYED_SHARE else "",
    }


def faulty(chance: random.Random, call_id: str, kind: str) -> Call:
    """Return a call in which the engine or the client does what `kind` says."""
    call = healthy(chance, call_id)
    plan = call["plan"]
    call["stream"] = call["stream"] or kind in ONLY_STREAMS
    plan["tokens"] = chance.randint(8, 40)
    plan["at"] = chance.randint(1, 6)
    call["key"] = f"once-{call_id}" if chance.random() < _KEYED_FAULTS_SHARE else ""
    if kind in ENGINE and call["key"]:
        # The first try fails, or the first two, or none; who asks again is answered in the end.
        most = 2 if kind.startswith("hang") else 5
        plan["do"] = [*[kind] * chance.randint(1, most), "ok"]
        plan["pace_ms"] = chance.choice((0, 5))
        return call
    if kind in ENGINE:
        # Sometimes only the first engine fails, so that the call goes on to the next.
        plan["do"] = [kind, "ok"] if chance.random() < 0.5 else [kind]
        plan["pace_ms"] = chance.choice((0, 5))
        return call
    call["client"] = kind
    call["after"] = chance.randint(1, 6) if kind == "leave_mid" else chance.uniform(0.0, 0.4)
    plan["pace_ms"] = 20 if call["stream"] else 600
    if kind in ("leave_mid", "leave_waiting"):
        # Long answers, so that an engine that is not stopped is seen to work on.
        plan["tokens"] = chance.randint(60, 90)
        plan["pace_ms"] = 50 if call["stream"] else 4000
    if kind in ("slow", "stuck"):
        call["stream"] = True
        plan |= {"pace_ms": 0, "pad": 4000, "tokens": chance.randint(100, 300)}
        call["after"] = 3.0
    return call
