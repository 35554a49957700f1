"""Compliance badges: what a listing may show, because it is on record.

The filing badge needs both the granted status and the number; anything less shows nothing, since a
badge is a statement to the public.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from catalog.listings.tables import Listing, ListingTransition


@dataclass(frozen=True, slots=True)
class Badge:
    """A short statement in two languages; `number` is the filing's."""

    id: str
    zh: str
    en: str
    number: str | None = None


FILING_BADGES = {
    "full": ("filed", "大模型备案", "Generative AI filing"),
    "register": ("registered", "生成式人工智能服务登记", "Generative AI registration"),
    "algorithm": ("algorithm", "算法备案", "Algorithm filing"),
}
"""By route: the badge's id and its names."""


def filing_facet(listing: Listing) -> str:
    """Return the value of the search facet `filing`."""
    badge = _filing_badge(listing)
    if badge is not None:
        return badge.id
    return "exempt" if listing.filing_status == "exempt" else "none"


def badges_of(listing: Listing, history: Iterable[ListingTransition]) -> list[Badge]:
    """Return the badges of the version on offer; `history` is the listing's own, oldest first."""
    found = [_filing_badge(listing)]
    passed = {row.event for row in history if row.version == listing.listed_version}
    if "approve" in passed:
        found.append(Badge("reviewed", "已通过合规审核", "Compliance reviewed"))
    elif "override" in passed:
        found.append(
            Badge("operator", "运营方放行，未经审核", "Passed by the operator, not reviewed")
        )
    if listing.deprecated_at_us is not None:
        found.append(Badge("deprecated", "即将下线", "Deprecated"))
    return [badge for badge in found if badge is not None]


def _filing_badge(listing: Listing) -> Badge | None:
    known = FILING_BADGES.get(listing.filing_route or "")
    if known is None or listing.filing_status != "granted" or not listing.filing_number:
        return None
    return Badge(*known, number=listing.filing_number)
