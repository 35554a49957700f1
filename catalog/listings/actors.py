"""Who acts on a listing, and in which part."""

from __future__ import annotations

from dataclasses import dataclass, field

from catalog.ground.identity import Caller
from catalog.listings.states import Part

PRECEDENCE = (Part.OPERATOR, Part.REVIEWER, Part.OWNER, Part.DEVELOPER, Part.SYSTEM)
"""Which part is recorded when an actor could act in several."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A name and the parts it has towards one listing."""

    name: str
    parts: frozenset[Part] = field(default_factory=frozenset)

    def acting(self, allowed: frozenset[Part]) -> Part | None:
        """Return the part in which the actor does what `allowed` may do, None when in none."""
        return next((part for part in PRECEDENCE if part in self.parts and part in allowed), None)


def actor_of(caller: Caller, publisher: str) -> Actor:
    """Return what `caller` is to the listings of `publisher` (the organisation's slug)."""
    parts = set()
    role = caller.orgs.get(publisher)
    if role in ("owner", "admin"):
        parts |= {Part.OWNER, Part.DEVELOPER}
    if role == "dev":
        parts.add(Part.DEVELOPER)
    if caller.is_operator:
        parts.add(Part.OPERATOR)
    return Actor(caller.name, frozenset(parts))


def system(name: str) -> Actor:
    """Return the actor of a job: `system("scanner")`."""
    return Actor(f"system:{name}", frozenset({Part.SYSTEM}))


def reviewer(caller: Caller, publisher: str) -> Actor:
    """Return `caller` as a reviewer, for the review desk, which decides who is one."""
    own = actor_of(caller, publisher)
    return Actor(own.name, own.parts | {Part.REVIEWER})
