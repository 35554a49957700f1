"""A programme as it is written down: the JSON of one version, one field for each published rule.

Strict: an unknown field, a float or a number in quotes is refused, so that a mistyped cap is an error
and not a missing cap. Every rule carries its `clause`, the place in the published text that says so;
refusals quote it. `rules.load` reads, checks and seals it.

Amounts are micro-yuan (`*_u`) or, for quotas, tokens or requests (`amount`); shares are basis points.
Dates are days in Beijing time, both ends included; `null` leaves an end open.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from catalog.ground.units import MAX_U, WHOLE_BP

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Amount = Annotated[int, Field(ge=0, le=MAX_U)]
Bp = Annotated[int, Field(ge=0, le=WHOLE_BP)]
Span = tuple[Day | None, Day | None]
Condition = dict[str, Any]
Period = Literal["calendar_year", "month", "day", "programme"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(_Strict):
    """The published text. `grade` P: the text itself was read; S: a summary, check before relying on it."""

    document: str
    grade: Literal["P", "S", "own"]
    note: str = ""


class Funder(_Strict):
    """Who pays which share, up to which budget (null: until the programme's budget is used up)."""

    funder: Name
    level: Literal["nation", "province", "city", "district", "company", "platform"]
    share_bp: Bp
    budget_u: Amount | None = None


class Budget(_Strict):
    """The programme's pool. With `tranche_u`, grants are filled by leases of that size as they run dry."""

    total_u: Amount | None
    period: Period = "calendar_year"
    tranche_u: Amount | None = None
    clause: str = ""


class Window(_Strict):
    """When vouchers may be issued, used and claimed; a grant lives `grant_ttl_days` at most."""

    issue: Span = (None, None)
    use: Span = (None, None)
    claim: Span = (None, None)
    grant_ttl_days: Annotated[int, Field(ge=1, le=3660)] | None = None
    clause: str = ""


class Rule(_Strict):
    """A condition with a name. `checked` at issue only, or at every use as well."""

    id: Name
    when: Condition
    text: str
    clause: str = ""
    checked: Literal["issue", "always"] = "always"


class Tier(_Strict):
    """A ratio for those who meet `when`; the last tier may have none and is for everybody else."""

    ratio_bp: Bp
    when: Condition | None = None


class Bracket(_Strict):
    """A ratio for the part of an organisation's spend up to `spend_u` (null: all the rest)."""

    spend_u: Amount | None
    ratio_bp: Bp


class Subsidy(_Strict):
    """What part is paid: exactly one of `ratio_bp`, `tiers` (by facts) and `upto` (by spend)."""

    base: Literal["residual", "list"] = "residual"
    ratio_bp: Bp | None = None
    tiers: tuple[Tier, ...] = ()
    upto: tuple[Bracket, ...] = ()
    clause: str = ""


class Quota(_Strict):
    """What every eligible organisation gets per window of a free quota; nothing carries over."""

    unit: Annotated[str, StringConstraints(pattern=r"^(CNY|(TOK|REQ):[a-z0-9]+(-[a-z0-9]+)*)$")]
    amount: Annotated[int, Field(ge=1, le=MAX_U)]
    recurrence: Literal["day", "month", "once"]


class Cap(_Strict):
    """A bound on what one organisation, contract, provider, group or funder's part may receive.

    `basis` says what counts: what was issued, what was used (then vouchers still open count too, since
    they may yet be used), or whichever is more. `group` joins several programmes under one cap per
    organisation. `when` limits the cap to those who meet it; the lowest cap that applies binds. With
    `with_related`, what related organisations have received counts against each of them as well.
    """

    per: Literal["org", "contract", "provider", "group", "funder_org"]
    amount_u: Amount
    period: Period = "calendar_year"
    basis: Literal["issued", "used", "issued_or_used"] = "issued_or_used"
    group: Name | None = None
    funder: Name | None = None
    with_related: bool = False
    when: Condition | None = None
    clause: str = ""


class Stack(_Strict):
    """How it goes with others: `stack_class` names what is subsidised once, `rule` how it is settled."""

    stack_class: Name
    rule: Literal["exclusive", "better_of", "stack"] = "stack"
    total_ratio_bp: Bp = WHOLE_BP
    priority: Annotated[int, Field(ge=0, le=1000)] = 100
    clause: str = ""


class AntiFraud(_Strict):
    """What is looked at to keep public money where it belongs.

    `one_voucher_per` and `one_claimant_per_contract` count within the programme; `same_content_once`
    asks every programme about the contract and its documents; `no_splitting` takes contracts of the same
    parties that run at the same time for one. `velocity_u_per_day` bounds what one organisation can spend
    in a Beijing day; `min_distinct_days` is on how many days it must have called before anything is paid.
    """

    related_party: Literal["block", "allow"] = "block"
    self_owned: Literal["block", "allow"] = "block"
    one_voucher_per: Literal["contract", "org"] | None = None
    one_claimant_per_contract: bool = False
    same_content_once: bool = False
    no_splitting: bool = False
    min_distinct_days: Annotated[int, Field(ge=1)] | None = None
    velocity_u_per_day: Amount | None = None
    needs_metering_log: bool = False
    clause: str = ""


class Audit(_Strict):
    """How claims are looked at: a seeded sample, everything above an amount, and by whom."""

    sample_bp: Bp = WHOLE_BP
    always_above_u: Amount | None = None
    by: Literal["funder", "third_party", "platform"] = "funder"
    clause: str = ""


class Clawback(_Strict):
    """For how many months after settlement money can be asked back."""

    months: Annotated[int, Field(ge=0, le=120)]
    clause: str = ""


Evidence = Literal[
    "contract",
    "invoice",
    "payment",
    "delivery_or_metering",
    "filing",
    "usage_log",
    "expert_review",
    "special_audit",
    "credit_check",
]


class ProgrammeRules(_Strict):
    """One version of a programme. Once a grant exists under it, these bytes never change."""

    code: Name
    version: Annotated[int, Field(ge=1)]
    title_zh: str
    title_en: str
    kind: Literal["model", "compute", "training", "corpus", "token", "service", "free_quota"]
    example: bool = False
    sources: tuple[Source, ...] = ()
    mode: Literal["instant", "reimburse"]
    claimant: Literal["demander", "provider", "platform", "either"]
    payout_on: Literal["usage", "funder_settled"] = "funder_settled"
    funders: tuple[Funder, ...]
    on_funder_exhausted: Literal["stop", "rescale", "platform_covers"] = "stop"
    budget: Budget
    window: Window = Window()
    eligible: tuple[Rule, ...] = ()
    items: tuple[Rule, ...] = ()
    exclude_charges: tuple[Name, ...] = ()
    subsidy: Subsidy
    quota: Quota | None = None
    caps: tuple[Cap, ...] = ()
    stacking: Stack
    anti_fraud: AntiFraud = AntiFraud()
    evidence: tuple[Evidence, ...] = ()
    audit: Audit = Audit()
    clawback: Clawback | None = None
    unresolved: tuple[str, ...] = ()
    """What the published text leaves open or was not read: a programme office must settle it first."""
