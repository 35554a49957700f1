"""A call that compiled code has begun and Python goes on with: plain data, all that it has come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from marketplace.gateway.express.terms import Terms
from marketplace.gateway.fairness import FairGate, Place
from marketplace.gateway.limits import Ticket
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.reserves import Promised
from serving.routing import Choice

Kind = Literal["unreachable", "silent", "broken", "left", "answer"]
"""Why Python has it: the engine was not there, was silent for too long, or broke off; the client has left;
or there is an answer that compiled code does not read, or a bill that the ledger did not take from it.
"""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Instants are microseconds since 1970, 0 where they have not come.

    `ticket`, `choice` and `promised` are taken and not yet given back; whoever resumes the call does it.
    """

    terms: Terms
    ticket: Ticket
    choice: Choice[EndpointRecord]
    promised: Promised
    open_accounts: tuple[int, ...]
    """Those of the call's accounts that had a reserve when it was planned: with them it is planned again."""
    generation_id: str
    began_us: int
    held_at_us: int
    first_token_us: int
    """Since the beginning of the call."""
    answered_at_us: int
    input_tokens: int
    max_tokens: int
    streamed: bool
    kind: Kind
    sent: bool
    """Whether the engine may have heard of the call."""
    began: bool
    """Whether a streamed answer has begun. All that the client may see of `body` has gone out, or there was
    nothing yet."""
    status: int
    headers: dict[bytes, bytes]
    """The engine's; names in lower case."""
    body: bytes
    """Of a whole answer; or what a `StreamReader` has to be fed to stand where the stream's reader stood."""
    gate: FairGate | None
    """Where its turn was given, and its place there; None where the engines take any number of calls."""
    place: Place | None
    limits: tuple[tuple[bytes, bytes], ...]
    """Headers: what was left of its limits when it came."""
