"""What a key may spend in a Beijing day and month, exact under any number of replicas.

A cap is a ledger account: `keycap:{key}:{window}`, opened with the cap as its credit, and every hold of
the key carries a leg on it beside the money's own legs. So the same lock, the same journal and the same
proof that keep a wallet from being overdrawn keep a key within its cap, a failed call gives its room
back, and no counter can leak. It touches one row more for each window of a key that has caps, and
nothing for a key that has none.

What counts is what vouchers and the wallet pay; free quotas do not. A call counts in the window in which
it began.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlmodel import Session

from catalog.ground.clock import SECOND_US, zone
from marketplace.ledger.accounts import apply_now, open_account
from marketplace.ledger.chart import Code, Rule
from marketplace.ledger.operations import Available, Entry, Post
from marketplace.vouchers.service import quota_window

UNIT = "CAP"
"""Micro-yuan that may be spent; not money, so it never meets an account of money."""
OPENED = "keycaps:opened"
SPENT = "keycaps:spent"


class Cap(NamedTuple):
    """One window of one key: `rule` is what refuses, `limit_u` micro-yuan, the end exclusive."""

    rule: str
    account_id: int
    limit_u: int
    ends_at_us: int


class KeyCaps(NamedTuple):
    """The windows of a key now; their legs go to `sink_id`. Look again at `good_until_us`."""

    caps: tuple[Cap, ...] = ()
    sink_id: int = 0
    good_until_us: int = 2**62

    @property
    def accounts(self) -> tuple[int, ...]:
        """The ledger accounts of the windows."""
        return tuple(cap.account_id for cap in self.caps)

    def tightest(self, available: Available) -> Cap | None:
        """Return the cap that leaves least, None without caps."""
        return min(self.caps, key=lambda cap: available.get(cap.account_id, 0), default=None)

    def room_u(self, available: Available) -> int:
        """Return what the key may still spend, micro-yuan."""
        cap = self.tightest(available)
        return 2**62 if cap is None else available.get(cap.account_id, 0)


NO_CAPS = KeyCaps()


def account_code(key_id: str, window: str) -> str:
    """Return the code of a key's account for a window: `2026-11-22` or `2026-11`."""
    return f"keycap:{key_id}:{window}"


def open_caps(
    session: Session, key_id: str, daily_u: int | None, monthly_u: int | None, at_us: int
) -> KeyCaps:
    """Return the windows that the instant lies in, opening their accounts when they are new."""
    sink = open_account(session, SPENT, Rule.PROJECTION, UNIT)
    source = open_account(session, OPENED, Rule.PROJECTION, UNIT)
    caps = []
    for rule, recurrence, limit_u in (
        ("key.daily_u", "day", daily_u),
        ("key.monthly_u", "month", monthly_u),
    ):
        if limit_u is None:
            continue
        window, end_us = quota_window(recurrence, at_us)
        code = account_code(key_id, window)
        account = open_account(session, code, Rule.DEBITS_WITHIN_CREDITS, UNIT)
        if limit_u:
            entry = Entry(Code.ISSUE, source, account, limit_u)
            apply_now(session, Post(code, (entry,), at_us))
        caps.append(Cap(rule, account, limit_u, end_us))
    return KeyCaps(tuple(caps), sink, min((cap.ends_at_us for cap in caps), default=2**62))


def window_words(cap: Cap) -> str:
    """Return when the cap is whole again, in Beijing time, for a person."""
    ends = datetime.fromtimestamp(cap.ends_at_us // SECOND_US, zone)
    return ends.strftime("%Y-%m-%d %H:%M Beijing time")
