"""What comes in and goes out over HTTP. Unknown fields are refused, so that a typing error is seen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Slug = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9](?:[._-]?[a-z0-9]){0,62}/[a-z0-9](?:[._-]?[a-z0-9]){0,94}$"
    ),
]
Title = Annotated[str, StringConstraints(strip_whitespace=True, max_length=120)]
Summary = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]
Card = Annotated[str, StringConstraints(max_length=100_000)]
Words = Annotated[list[str], Field(max_length=20)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ListingEdit(Strict):
    """Fields of the working copy; those left out stay as they are."""

    tier: Literal["sandbox", "park", "public"] | None = None
    title_zh: Title | None = None
    title_en: Title | None = None
    summary_zh: Summary | None = None
    summary_en: Summary | None = None
    card_zh: Card | None = None
    card_en: Card | None = None
    vertical: str | None = None
    tasks: Words | None = None
    languages: Words | None = None
    base_model: Annotated[str, StringConstraints(max_length=200)] | None = None
    licence: Annotated[str, StringConstraints(max_length=100)] | None = None
    parameters: Annotated[int, Field(gt=0, lt=10**14)] | None = None
    context_length: Annotated[int, Field(gt=0, le=2**31 - 1)] | None = None
    max_output_tokens: Annotated[int, Field(gt=0, le=2**31 - 1)] | None = None
    release_id: Annotated[str, StringConstraints(max_length=100)] | None = None


class ListingDraft(ListingEdit):
    """A new listing."""

    slug: Slug
    kind: Literal["model", "agent"]


class Because(Strict):
    """A reason, where one is recorded."""

    reason: Reason


class Note(Strict):
    """What changed in this version, for its readers."""

    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)] = ""


class Filing(Strict):
    """The filing record (备案) as the operator knows it."""

    route: Literal["full", "register", "algorithm", "none"]
    status: Literal[
        "not_assessed", "route_determined", "preparing", "package_ready", "submitted_local",
        "correction", "local_testing", "forwarded_central", "central_review", "granted", "refused",
        "exempt", "change_required", "cancelled",
    ]  # fmt: skip
    number: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)] | None = None
    reason: Reason
    evidence: dict[str, Any] = Field(default_factory=dict)


class VariantShown(Strict):
    """A build of the release for one kind of device, with its figures once measured."""

    variant_id: str | None = None
    format: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    quant: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    size_bytes: Annotated[int, Field(gt=0, lt=2**62)]
    device: Literal["cpu", "gpu", "npu", "edge"]
    min_memory_bytes: Annotated[int, Field(gt=0, lt=2**62)] | None = None
    output_tokens_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    first_token_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    quality_bp: Annotated[int, Field(ge=0, le=10_000)] | None = None
    measured_on: Annotated[str, StringConstraints(max_length=200)] | None = None


class Deprecation(Because):
    """Why it goes, and what to use instead (a slug)."""

    successor: Slug | None = None
