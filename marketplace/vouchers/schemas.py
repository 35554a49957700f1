"""The bodies of the voucher API. Amounts are micro-yuan (`*_u`), instants µs (`*_at_us`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from catalog.ground.units import MAX_U

Amount = Annotated[int, Field(gt=0, le=MAX_U)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Reason = Annotated[str, Field(min_length=1, max_length=2000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    def plain(self) -> dict[str, Any]:
        """Return the body as JSON types."""
        return self.model_dump(mode="json")


class Evidence(_Body):
    """A document by its bytes' sha256 (hex); the document itself stays with whoever has it."""

    kind: Name
    name: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PublishBody(_Body):
    """A programme version; with `draft` nobody can apply to it yet."""

    document: dict[str, Any]
    draft: bool = False


class FundBody(_Body):
    """What funders appropriate: by funder code, or `total_u` by their shares."""

    amounts_u: dict[str, Amount] | None = None
    total_u: Amount | None = None
    document: str = ""


class ApplyBody(_Body):
    """An application of organisation `org` to a programme (`code` or `code@version`).

    `provider` is the contract's other party: an organisation, or `uscc:…` of one that is none here.
    """

    org: Name
    programme: Name
    requested_u: Amount
    contract_ref: str = ""
    facts: dict[str, Any] = {}
    evidence: list[Evidence] = []
    claimant: Literal["", "demander", "provider"] = ""
    provider: str = ""


class InvoiceBody(_Body):
    """An invoice of organisation `org` on an application's contract: `charges` by what is charged for."""

    org: Name
    application: Name
    number: Name
    charges: Annotated[dict[Name, Amount], Field(min_length=1)]
    evidence: list[Evidence]


class AmountBody(_Body):
    """An amount, where one may be said."""

    amount_u: Amount | None = None


class ReasonBody(_Body):
    """Why."""

    reason: Reason


class CodeBody(_Body):
    """A redemption code: `expires_at_us` is exclusive, `grant_ttl_days` counts Beijing days."""

    programme: Name
    amount_u: Amount
    uses_max: Annotated[int, Field(ge=1)] = 1
    per_org_max: Annotated[int, Field(ge=1)] = 1
    expires_at_us: int
    grant_ttl_days: Annotated[int, Field(ge=1)] | None = None


class RedeemBody(_Body):
    """A code brought by an organisation."""

    org: Name
    code: Name


class DraftBody(_Body):
    """A claim on one funder for a month `2026-01` (or quarter `2026-Q1`, year `2026`), Beijing time."""

    programme: Name
    funder: Name
    period: Name


class SubmitBody(_Body):
    """The evidence of a claim."""

    evidence: list[Evidence] = []


class Said(_Body):
    """What the auditor says of line `n`."""

    n: int
    allow: bool
    reason: str = ""


class AuditBody(_Body):
    """Verdicts by line; `rest` allows every line not spoken of and ends the audit."""

    lines: list[Said] = []
    rest: bool = False


class SettleBody(_Body):
    """The bank's reference of the funder's payment."""

    bank_ref: Name


class ClawbackBody(_Body):
    """Lines that the funder takes back."""

    lines: list[int]
    reason: Reason


class RefuseBody(_Body):
    """Allowed lines that the funder will not pay; none named are all of them."""

    lines: list[int] = []
    reason: Reason


class OrganisationBody(_Body):
    """An organisation by its slug, '' for none."""

    org: Annotated[str, Field(max_length=200)]


class RefundBody(_Body):
    """Part of a call to give back."""

    event: Name
    amount_u: Amount
    reason: Reason


class AdjustBody(_Body):
    """A movement between two accounts, by their codes."""

    from_account: Name
    to_account: Name
    amount_u: Amount
    reason: Reason
