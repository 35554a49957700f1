"""An organisation's calls, a page at a time, newest first, with the sums over all that was asked for."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import and_, func, or_
from sqlmodel import Session, col, select

from catalog.ground.clock import from_datetime, zone
from catalog.ground.errors import BadRequest
from marketplace.gateway.schemas import UsageTotals
from marketplace.ledger.tables import UsageEvent


@dataclass(frozen=True, slots=True)
class Filters:
    """What to look at: calls that ended from `from_us` on, before `until_us`; None = any."""

    org_id: str
    from_us: int | None = None
    until_us: int | None = None
    listing: str | None = None
    project_id: str | None = None
    key_id: str | None = None
    outcome: str | None = None


def page(
    session: Session, filters: Filters, limit: int, cursor: str | None = None
) -> tuple[Sequence[UsageEvent], str | None]:
    """Return up to `limit` calls after the cursor, and the next cursor (None at the end).

    A call that ends meanwhile is newer than every cursor, so no page shows one twice or leaves one out.
    """
    query = select(UsageEvent).where(*_conditions(filters))
    if cursor is not None:
        at_us, event_id = _read_cursor(cursor)
        older = col(UsageEvent.ended_at_us) < at_us
        beside = and_(col(UsageEvent.ended_at_us) == at_us, col(UsageEvent.id) < event_id)
        query = query.where(or_(older, beside))
    order = (col(UsageEvent.ended_at_us).desc(), col(UsageEvent.id).desc())
    found = session.exec(query.order_by(*order).limit(limit + 1)).all()
    if len(found) <= limit:
        return found, None
    return found[:limit], _cursor(found[limit - 1])


def sums(session: Session, filters: Filters) -> UsageTotals:
    """Return the sums over all calls that the filters let through."""
    event = UsageEvent
    columns = (
        func.count(),
        func.sum(col(event.input_uncached) + col(event.cache_read) + col(event.cache_write)),
        func.sum(col(event.output) + col(event.reasoning)),
        func.sum(col(event.cost_u)),
        func.sum(col(event.voucher_u)),
        func.sum(col(event.free_u)),
        func.sum(col(event.wallet_u)),
        func.sum(col(event.overrun_u)),
    )
    row = session.execute(select(*columns).where(*_conditions(filters))).one()  # type: ignore[call-overload]
    return UsageTotals(
        **{name: int(value or 0) for name, value in zip(UsageTotals.model_fields, row, strict=True)}
    )


def instant(text: str | None, name: str) -> int | None:
    """Return the instant that `2026-11-22` (a Beijing day's start) or an ISO 8601 time names."""
    if text is None:
        return None
    try:
        if len(text) == 10:
            day = date.fromisoformat(text)
            return from_datetime(datetime(day.year, day.month, day.day, tzinfo=zone))
        return from_datetime(datetime.fromisoformat(text.replace(" ", "+")))
    except (ValueError, OverflowError):
        raise BadRequest(
            f"{text!r} is not an instant.",
            param=name,
            rule="usage.instant",
            remedy="Write a day in Beijing (2026-11-22) or a time with its zone (…T08:00:00Z).",
        ) from None


def _conditions(filters: Filters) -> list[Any]:
    ended = col(UsageEvent.ended_at_us)
    wanted: list[Any] = [UsageEvent.org_id == filters.org_id]
    if filters.from_us is not None:
        wanted.append(ended >= filters.from_us)
    if filters.until_us is not None:
        wanted.append(ended < filters.until_us)
    for column, value in (
        (UsageEvent.listing, filters.listing),
        (UsageEvent.project_id, filters.project_id),
        (UsageEvent.key_id, filters.key_id),
        (UsageEvent.outcome, filters.outcome),
    ):
        if value is not None:
            wanted.append(column == value)
    return wanted


def _cursor(event: UsageEvent) -> str:
    return base64.urlsafe_b64encode(f"{event.ended_at_us} {event.id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at_us, _, event_id = base64.urlsafe_b64decode(padded).decode().partition(" ")
        return int(at_us), event_id
    except (ValueError, binascii.Error, UnicodeError):
        raise BadRequest(
            "This is not a cursor of ours.",
            param="cursor",
            rule="usage.cursor",
            remedy="Send next_cursor of the page before, as it came.",
        ) from None
