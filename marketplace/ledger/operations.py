"""What can be asked of the journal. Plain data, made by whoever starts the work, ids included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from marketplace.ledger.chart import Code


class Entry(NamedTuple):
    """A one-phase movement of `amount` (in the accounts' unit) from `debit_id` to `credit_id`."""

    code: Code
    debit_id: int
    credit_id: int
    amount: int


class Leg(NamedTuple):
    """A promise: `amount` of account `account_id`, to go to `sink_id` when it is posted."""

    account_id: int
    amount: int
    sink_id: int


Available = Mapping[int, int]
"""What each account may still promise, by account id: posted credits less posted and pending debits."""


class Hold(msgspec.Struct, frozen=True):
    """Promise money before a call is served.

    `decide` is called inside the transaction, with every row of `accounts` locked; it returns the legs
    and the plan to keep in the hold row, or raises (`PaymentRequired`) and nothing has happened.
    """

    tx: str
    org_id: str
    accounts: tuple[int, ...]
    decide: Callable[[Available], tuple[tuple[Leg, ...], str]]
    at_us: int
    expires_at_us: int


class Settle(msgspec.Struct, frozen=True):
    """End a hold: post `posted[i]` of leg i (at most what it holds), release the rest, book the event.

    `entries` are the movements that go with it (accrual, fee, overrun, rounding). Whatever enters
    `clearing` must leave it again in the same operation.
    `usage` holds the columns of `usage_event` but `lane` and `seq`, in the table's order.
    """

    tx: str
    posted: tuple[int, ...]
    entries: tuple[Entry, ...]
    usage: tuple[Any, ...]
    at_us: int


class Release(msgspec.Struct, frozen=True):
    """End a hold and pay nothing: `expired` tells the sweeper's release from a failed call's."""

    tx: str
    at_us: int
    expired: bool = False


class Renew(msgspec.Struct, frozen=True):
    """Let an open hold live until `expires_at_us`, because its call is still running."""

    tx: str
    expires_at_us: int


class Rehold(msgspec.Struct, frozen=True):
    """End the hold `tx`, which has one leg, and go on holding `amount` of it as `into` (0: nothing).

    Where it has ended already, nothing happens.
    """

    tx: str
    into: str
    org_id: str
    amount: int
    at_us: int
    expires_at_us: int


class Charge(msgspec.Struct, frozen=True):
    """Pay for a call that had no hold of its own, and book its event.

    `legs` are what each account pays, `entries` and `usage` as in `Settle`. The money comes from what the
    accounts have beside all holds; where that is too little, the charge is refused (`PaymentRequired`).
    `reholds` are done first, in the same step, so that it can come from what the caller holds there. They
    stay done when the charge is refused so; any other refusal takes them back. With `again` it may have been
    booked before, by another writer: then nothing happens.
    """

    tx: str
    legs: tuple[Leg, ...]
    entries: tuple[Entry, ...]
    usage: tuple[Any, ...]
    at_us: int
    reholds: tuple[Rehold, ...] = ()
    again: bool = False


class Post(msgspec.Struct, frozen=True):
    """One-phase movements under one id; sending the same id again changes nothing."""

    tx: str
    entries: tuple[Entry, ...]
    at_us: int


Operation = Hold | Settle | Release | Renew | Rehold | Charge | Post


class Held(msgspec.Struct, frozen=True):
    """The answer to `Hold`."""

    legs: tuple[Leg, ...]
    plan: str


class Done(msgspec.Struct, frozen=True):
    """The answer to everything else. `changed` is false when it had already happened."""

    changed: bool


Outcome = Held | Done
