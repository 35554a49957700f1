"""Two persons for what one person must not do alone, and who may do what at all. Both in one place."""

from __future__ import annotations

from enum import StrEnum

from catalog.ground.errors import BadRequest, Forbidden, NotFound, Unauthenticated
from catalog.ground.identity import Caller

_MANAGERS = frozenset({"owner", "admin"})
_MONEY_ROLES = frozenset({"owner", "admin", "finance"})


class Act(StrEnum):
    """What somebody wants to do with organisations, vouchers, claims or payouts."""

    READ_OWN = "read its own"
    MEMBERS = "manage members"
    KEYS = "manage keys"
    FACTS = "enter facts"
    ORGANISATIONS = "run organisations"
    APPLY = "apply for vouchers"
    REDEEM = "redeem codes"
    PROGRAMMES = "run programmes"
    DECIDE = "decide applications"
    CODES = "make codes"
    REFUND = "refund calls"
    CLAIMS = "draft and submit claims"
    READ_CLAIMS = "read claims"
    AUDIT = "audit claims"
    SETTLE = "settle claims"
    PAYOUTS = "run payouts"
    ADJUST = "adjust the ledger"


_OF_MEMBERS = {
    Act.READ_OWN: frozenset({"owner", "admin", "dev", "finance", "auditor"}),
    Act.MEMBERS: _MANAGERS,
    Act.KEYS: _MANAGERS,
    Act.FACTS: _MANAGERS,
    Act.APPLY: _MONEY_ROLES,
    Act.REDEEM: _MONEY_ROLES,
}
"""What members may do for their own organisation; everything else is the operator's."""

_OF_FUNDERS = {
    Act.READ_CLAIMS: frozenset({"owner", "admin", "dev", "finance", "auditor"}),
    Act.AUDIT: frozenset({"owner", "admin", "auditor"}),
    Act.SETTLE: _MONEY_ROLES,
}
"""What members of a funder may do with the claims on it; `marketplace.vouchers.funders` knows which."""


def allows(act: Act, role: str) -> bool:
    """Return whether a funder's member with this role may do it."""
    return role in _OF_FUNDERS.get(act, frozenset())


def allow(caller: Caller | None, act: Act, org_slug: str = "") -> Caller:
    """Return the caller if it may do this (for `org_slug`, when the act is for an organisation).

    A stranger is `Unauthenticated`. A member asking about another organisation gets `NotFound`: what
    belongs to others is not even confirmed to exist.
    """
    if caller is None:
        raise Unauthenticated(
            "The request carries no key.",
            code="missing_api_key",
            remedy="Send it as Authorization: Bearer tm-…",
        )
    if caller.is_operator:
        return caller
    if any(allows(act, role) for role in caller.orgs.values()):
        return caller  # whether its organisation is a funder at all, the scope knows
    roles = _OF_MEMBERS.get(act)
    if roles is None:
        raise Forbidden(
            f"Only the marketplace's officers may {act.value}.", rule=f"permission.{act.name}"
        )
    if org_slug not in caller.orgs:
        raise NotFound(f"There is no organisation {org_slug!r}.", rule="organisation.exists")
    if caller.orgs[org_slug] not in roles:
        raise Forbidden(
            f"A member with the role {caller.orgs[org_slug]} may not {act.value}.",
            rule=f"permission.{act.name}",
            remedy=f"Ask somebody who is {', '.join(sorted(roles))}.",
        )
    return caller


def two_persons(by: str, *others: str, what: str) -> None:
    """Raise `Forbidden` when whoever does this now has had a hand in it before."""
    if not by.strip():
        raise BadRequest("Say who does this.", rule="four_eyes.name", param="by")
    if by in others:
        raise Forbidden(
            f"{by} has had a hand in this {what} already; it needs a second person.",
            code="four_eyes",
            rule="four_eyes",
            remedy="Ask somebody else.",
        )
