"""What one grant promises, as the waterfall needs it: numbers and conditions, nothing to look up.

`rules.Programme.terms` makes them from a programme version and a grant; a test may write them by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from catalog.ground.errors import BadRequest
from catalog.ground.units import MAX_U, WHOLE_BP

FactValue = str | int | bool | frozenset[str] | None
Facts = Mapping[str, FactValue]
"""What is known of the caller and the listing now, such as `{"org.region": "440305", "org.is_opc": True}`.

An absent key is an unknown fact, and an unknown fact never speaks for a subsidy."""

Base = Literal["residual", "list"]
Stacking = Literal["stack", "exclusive", "better_of"]
Mode = Literal["instant", "reimburse"]

SELF_OWNED = "listing.self_owned"
RELATED_PARTY = "listing.related_party"
QUOTA_CLASS = "listing.quota_class"


class Condition(Protocol):
    """One rule of a programme that the facts must meet."""

    @property
    def rule(self) -> str:
        """The rule's id within its programme, such as `eligible.region`."""

    @property
    def clause(self) -> str:
        """Where the published text says so, such as `深工信规〔2024〕13号 第六条`."""

    @property
    def text(self) -> str:
        """The rule in words for a person."""

    def holds(self, facts: Facts) -> bool:
        """Return whether the facts meet the rule; an unknown fact does not."""


class Refusal(NamedTuple):
    """Why a grant does not pay here, in words for a person and an id for a program."""

    grant_id: str
    programme: str
    rule: str
    clause: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """One grant of one organisation.

    `account_id` is the grant's ledger account, `programme` reads `code@version`. `unit` is `CNY`, or
    `TOK:<class>` or `REQ:<class>` for a quota of tokens or requests of one class of listings. `ratio_bp`
    is the part of the base that the grant pays; `tiers` (condition or None, ratio), when given, replace
    it: the first whose condition holds. `total_cap_bp` bounds what all subsidies together may pay of a
    request in which this grant takes part. `stack_class` names what may not be subsidised twice. A
    `chain` joins the grants of one progressive scale (50 % of the first ¥100,000, then 35 %, …):
    `bracket` counts them up from 0, and each is sized width x ratio. `expires_at_us` is exclusive.
    `remaining` is a snapshot and only decides the order.
    """

    grant_id: str
    account_id: int
    programme: str
    unit: str = "CNY"
    free_quota: bool = False
    ratio_bp: int = WHOLE_BP
    tiers: tuple[tuple[Condition | None, int], ...] = ()
    base: Base = "residual"
    total_cap_bp: int = WHOLE_BP
    mode: Mode = "instant"
    stacking: Stacking = "stack"
    stack_class: str = ""
    chain: str = ""
    bracket: int = 0
    priority: int = 100
    item_specific: bool = False
    effective_at_us: int = 0
    expires_at_us: int = MAX_U
    remaining: int = 0
    blocks_self_owned: bool = True
    blocks_related_party: bool = True
    anti_fraud_clause: str = ""
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        kind = self.unit.partition(":")[0]
        if kind not in {"CNY", "TOK", "REQ"}:
            raise BadRequest(f"{self.unit!r} is not a unit of a grant.", rule="grant.unit")
        if kind != "CNY" and not self.free_quota:
            raise BadRequest(
                f"A grant in {self.unit} must be a free quota.",
                rule="grant.unit",
                remedy="Tokens and requests cover whole calls; give a subsidy in CNY.",
            )
        ratios = [self.ratio_bp, self.total_cap_bp, *(ratio for _, ratio in self.tiers)]
        if any(not 0 <= ratio <= WHOLE_BP for ratio in ratios):
            raise BadRequest(
                f"Grant {self.grant_id}: a ratio lies outside 0 to 10,000 bp.", rule="grant.ratio"
            )
        if self.stacking != "stack" and not self.stack_class:
            raise BadRequest(
                f"Grant {self.grant_id} excludes others but names no class.", rule="grant.stack"
            )
