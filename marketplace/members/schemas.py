"""The bodies of the API of organisations. Amounts are micro-yuan (`*_u`), instants µs (`*_at_us`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from catalog.ground.units import MAX_U, WHOLE_BP

Name = Annotated[str, Field(min_length=1, max_length=200)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Amount = Annotated[int, Field(gt=0, le=MAX_U)]
Count = Annotated[int, Field(ge=1)]
Instant = Annotated[int, Field(ge=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    def plain(self) -> dict[str, Any]:
        """Return the body as JSON types."""
        return self.model_dump(mode="json")


class Document(_Body):
    """A document by its bytes' sha256 (hex); the document itself stays with whoever has it."""

    name: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class OrganisationBody(_Body):
    """A new organisation: its short name, its registered name, its 统一社会信用代码."""

    slug: Slug
    name: Name
    uscc: Name | None = None


class VerifyBody(_Body):
    """What the register says of it; `name` only where it differs."""

    uscc: Name
    name: Name | None = None


class ReasonBody(_Body):
    """Why."""

    reason: Annotated[str, Field(min_length=1, max_length=2000)]


class MemberBody(_Body):
    """Somebody who may act for the organisation."""

    member: Name
    role: Name = "dev"


class RoleBody(_Body):
    """A member's role from now on."""

    role: Name


class ProjectBody(_Body):
    """A project's name."""

    name: Name


class KeyBody(_Body):
    """A key: whose it is, what it may call, from where, how fast, and for how much a day and month."""

    name: Name = "key"
    member: str = ""
    project: str = ""
    operator: bool = False
    listings: list[Name] | None = None
    cidrs: list[Name] = []
    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None
    daily_u: Amount | None = None
    monthly_u: Amount | None = None
    expires_at_us: Instant | None = None


class FactBody(_Body):
    """A fact, its value as text (`true`, `440305`, `2026-12-31`, `idc,isp`), and its evidence."""

    key: Name
    value: Name
    listing: str = ""
    valid_from_us: Instant = 0
    valid_to_us: Instant | None = None
    evidence: Document


class EndBody(_Body):
    """Until when (exclusive); now, when it is left out."""

    until_us: Instant | None = None


class LinkBody(_Body):
    """Two parties (organisations, or `uscc:…` outside) and what joins them."""

    first: Name
    second: Name
    kind: Literal["shareholding", "control", "same_controller", "family", "declared"] = "declared"
    holding_bp: Annotated[int, Field(ge=1, le=WHOLE_BP)] = WHOLE_BP
    valid_from_us: Instant = 0
    valid_to_us: Instant | None = None
    evidence: Document | None = None
