"""The ledger accounts of a key's spending caps; `caps` says what they are for."""

from __future__ import annotations

from sqlmodel import Session

from marketplace.gateway.caps import Cap, KeyCaps
from marketplace.ledger.accounts import apply_now, open_account
from marketplace.ledger.chart import Code, Rule
from marketplace.ledger.operations import Entry, Post
from marketplace.vouchers.service import quota_window

UNIT = "CAP"
"""Micro-yuan that may be spent; not money, so it never meets an account of money."""
OPENED = "keycaps:opened"
SPENT = "keycaps:spent"


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
