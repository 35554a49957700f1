"""The chart of accounts: rules, units, transfer kinds and codes, and how accounts are named."""

from __future__ import annotations

from enum import IntEnum


class Rule(IntEnum):
    """What an account's balance may do. Only accounts with a rule keep balances in their row."""

    PROJECTION = 0
    """No bound; the balance is a sum over the journal."""
    DEBITS_WITHIN_CREDITS = 1
    """Money that somebody has: debits (pending and posted) never exceed posted credits."""
    CREDITS_WITHIN_DEBITS = 2
    """Money that is owed to us: credits never exceed posted debits."""


class Kind(IntEnum):
    """The phase of a transfer."""

    POSTED = 1
    """One-phase: done at once."""
    PENDING = 2
    POST = 3
    """Posts at most the pending amount of the same (tx, leg) and releases the rest."""
    VOID = 4
    EXPIRE = 5


class Code(IntEnum):
    """Why money moves."""

    FUND = 1
    """A funder appropriates money to a programme's pool."""
    ISSUE = 2
    """Pool to a grant."""
    TOPUP = 3
    """Outside money to an organisation's wallet."""
    USE = 4
    """A grant or wallet pays for a call."""
    ACCRUE = 5
    """The listing owner's share of a call."""
    FEE = 6
    """The platform's share of a call."""
    OVERRUN = 7
    """The upstream used more than was held: the platform pays the difference."""
    ROUNDING = 8
    FREE_COST = 9
    """The list price of what a quota counted in tokens or requests gave away."""
    REFUND = 10
    LAPSE = 11
    VOID_GRANT = 12
    REDEEM_CODE = 13
    CLAIM = 14
    ALLOW = 15
    DISALLOW = 16
    SETTLE = 17
    CLAWBACK = 18
    PAYOUT_HOLD = 19
    PAYOUT = 20
    PAYOUT_REVERSE = 21
    ADJUST = 22
    REIMBURSE = 23
    MATURE = 24
    """An owner's accrued share becomes payable."""
    ARCHIVE = 25
    """Nothing moves: the transfer's id chains the seal of an archive."""


CNY = "CNY"
"""The unit of money accounts: micro-yuan. Quotas use `TOK:<class>` and `REQ:<class>`."""

CLEARING = "clearing"
"""One usage event passes through; zero whenever no transaction is open."""
OVERRUN = "platform:overrun"
ROUNDING = "platform:rounding"
FREE_COST = "platform:free_cost"
FEE = "platform:fee"
BANK = "ext:bank"
DISALLOWED = "platform:disallowed"
"""What owners and claimants gave back for usage that a funder would not pay."""

WELL_KNOWN = (CLEARING, OVERRUN, ROUNDING, FREE_COST, FEE, BANK)
"""Accounts that every ledger has from the first migration, all of them projections."""


def wallet(org_id: str) -> str:
    """Return the code of an organisation's own prepaid money."""
    return f"wallet:{org_id}"


def grant(grant_id: str) -> str:
    """Return the code of one voucher granted to one organisation."""
    return f"grant:{grant_id}"


def pool(programme_id: str, funder_id: str) -> str:
    """Return the code of what a funder has appropriated and nobody has been granted yet."""
    return f"pool:{programme_id}:{funder_id}"


def funder_outside(funder_id: str) -> str:
    """Return the code of a funder's treasury, seen from here."""
    return f"ext:funder:{funder_id}"


def owner_unsettled(org_id: str) -> str:
    """Return the code of a listing owner's accrued share."""
    return f"owner:{org_id}:unsettled"


def quota_used(unit: str) -> str:
    """Return the code of the sink for a quota's unit."""
    return f"quota_used:{unit}"


def reimburse_due(org_id: str) -> str:
    """Return the code of what an organisation gets back later (事后奖补): a projection, calls post to it."""
    return f"reimburse_due:{org_id}"


def claimable(programme_id: str, funder_id: str) -> str:
    """Return the code of the contra to a funder's used subsidy: its credits are all that was claimed."""
    return f"claimable:{programme_id}:{funder_id}"


def claimed(programme_id: str, funder_id: str) -> str:
    """Return the code of what stands in claims that are not yet audited."""
    return f"claimed:{programme_id}:{funder_id}"


def receivable(programme_id: str, funder_id: str) -> str:
    """Return the code of what a funder has allowed and not yet paid."""
    return f"receivable:{programme_id}:{funder_id}"


def settled(programme_id: str, funder_id: str) -> str:
    """Return the code of what a funder has paid: the platform's cash by its origin."""
    return f"settled:{programme_id}:{funder_id}"


def disallowed(programme_id: str, funder_id: str) -> str:
    """Return the code of usage that a funder refused to pay, or paid and took back."""
    return f"disallowed:{programme_id}:{funder_id}"


def owner_available(org_id: str) -> str:
    """Return the code of what may be paid out to an organisation: matured shares, reimbursements."""
    return f"owner:{org_id}:available"


def owner_paying(org_id: str) -> str:
    """Return the code of what stands in a payout that has not left the bank yet."""
    return f"owner:{org_id}:paying"
