"""What the holds of one call are called: a call has one usage event, and perhaps more than one hold.

    gen_…          the call's own
    gen_…~late     its hold had expired when it was to be settled, so it was held for again
    gen_…~2        the first try under its Idempotency-Key ended without a charge, and this is the second

Only one of them is ever posted: the usage event's id is unique. Whoever looks for the legs of a call asks
for all of these names.
"""

from __future__ import annotations

LATE = "~late"
MOST_TRIES = 5
"""Holds that may be tried for one call; whoever fails so often asks anew."""


def retried(event_id: str, number: int) -> str:
    """Return the name of the hold of the try with this number (1 is the first)."""
    return event_id if number == 1 else f"{event_id}~{number}"


def names_of(event_id: str) -> list[str]:
    """Return every name that a hold of this call may have."""
    tries = [retried(event_id, number) for number in range(1, MOST_TRIES + 1)]
    return [name for each in tries for name in (each, each + LATE)]


def event_of(name: str) -> str:
    """Return the call that a hold belongs to."""
    return name.partition("~")[0]
