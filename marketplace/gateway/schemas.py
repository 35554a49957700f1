"""The shapes of what the door tells about money: for OpenAPI, and for whoever reads them first.

Amounts `*_u` are micro-yuan (1 CNY = 1,000,000), instants are ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class QuoteRequest(BaseModel):
    """A request body as it would be sent to `/v1/chat/completions`, or token counts instead of it."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(description="the listing, with `:free` to ask for free quotas alone")
    input_tokens: int | None = Field(default=None, ge=0, le=10**9)
    output_tokens: int | None = Field(default=None, ge=1, le=10**9)


class FunderShare(BaseModel):
    """What one funder pays of a voucher's part."""

    funder: str
    level: str
    amount_u: int


class QuoteLeg(BaseModel):
    """What one voucher or free quota pays. `kind`: free, instant (即用即补) or reimburse (事后奖补)."""

    voucher: str
    programme: str
    kind: Literal["free", "instant", "reimburse"]
    unit: str
    amount: int = Field(description="in `unit`: micro-yuan, tokens or requests")
    covered_u: int = Field(
        description="what it pays of the cost now; 0 for what is paid back later"
    )
    ratio_bp: int
    funders: list[FunderShare]


class Refused(BaseModel):
    """Why a voucher does not pay here: the rule, and where the published text says so."""

    voucher: str
    programme: str
    rule: str
    clause: str
    message: str


class QuoteTokens(BaseModel):
    """`input_from`: given (by the caller), engine (its tokenizer), or bytes (an upper bound)."""

    input: int
    input_from: Literal["given", "engine", "bytes"]
    output: int


class Quote(BaseModel):
    """What a call would cost and who would pay. Nothing was promised or charged."""

    model: str
    price_version: str
    prices: dict[str, Any]
    tokens: QuoteTokens
    cost_u: int
    affordable: bool
    paid_by: list[QuoteLeg]
    wallet_u: int = Field(description="what the organisation's own money would pay")
    later_u: int = Field(description="what would be paid back later (事后奖补)")
    shortfall_u: int
    vouchers_refused: list[Refused]
    max_affordable_output_tokens: int = Field(
        description="per choice, -1 when not even the input is"
    )
    refusal: dict[str, Any] | None = Field(description="what the call would be answered with")


class UsageTotals(BaseModel):
    """Sums over everything that the filters let through, not over the page."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost_u: int
    voucher_u: int
    free_u: int
    wallet_u: int
    platform_u: int


class UsagePage(BaseModel):
    """Calls, newest first. `next_cursor` is null on the last page."""

    data: list[dict[str, Any]]
    totals: UsageTotals | None
    next_cursor: str | None


class Window(BaseModel):
    """A key's spending in one window; `left_u` counts running calls at their highest."""

    limit_u: int
    spent_u: int
    held_u: int
    left_u: int
    resets_at: str


class KeyInfo(BaseModel):
    """The key that asks: whose it is and what it may do."""

    id: str
    name: str
    prefix: str
    organisation: str
    member: str | None
    role: str
    project: str | None
    listings: list[str] | None = Field(description="null: every listing")
    networks: list[str]
    rpm: int
    tpm: int | None
    concurrency: int
    daily: Window | None
    monthly: Window | None
    created_at: str
    expires_at: str | None


class Quota(BaseModel):
    """A free quota in its present window; a call that fails gives its part back."""

    programme: str
    title_zh: str
    title_en: str
    unit: str = Field(description="CNY (micro-yuan), TOK:class (tokens) or REQ:class (requests)")
    recurrence: str
    window: str
    amount: int
    left: int
    held: int
    used: int
    resets_at: str | None
