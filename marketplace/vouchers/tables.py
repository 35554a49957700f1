"""Funders, programmes, grants and what happens to them: applications, codes, refunds, claims.

Money in micro-yuan, shares in basis points, instants in µs, lists and objects as JSON text. A row that
says what was decided is not edited after the decision.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Text, text
from sqlmodel import Field, SQLModel


def _text(*, index: bool = False) -> Column[str]:
    return Column(Text, nullable=False, index=index)


def _number() -> Column[int]:
    return Column(BigInteger, nullable=False)


def _maybe() -> Column[int]:
    return Column(BigInteger)


def _key() -> Column[str]:
    return Column(Text, primary_key=True)


def _added_number() -> Column[int]:
    return Column(BigInteger, nullable=False, server_default="0")


def _added_text() -> Column[str]:
    return Column(Text, nullable=False, server_default="")


class Funder(SQLModel, table=True):
    """Who pays: a nation, province, city, district, company, or the platform itself.

    `org_id` is the organisation whose members act for it, '' for none.
    """

    __tablename__ = "funder"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    code: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    name_zh: str = Field(sa_column=Column(Text, nullable=False))
    name_en: str = Field(sa_column=Column(Text, nullable=False))
    level: str = Field(sa_column=Column(Text, nullable=False))
    region: str = Field(default="", sa_column=Column(Text, nullable=False))
    org_id: str = Field(default="", sa_column=_added_text())


class Programme(SQLModel, table=True):
    """One immutable version of a voucher programme; `rules` is canonical JSON that `sha256` covers."""

    __tablename__ = "programme"
    __table_args__ = (Index("programme_version", "code", "version", unique=True),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    code: str = Field(sa_column=Column(Text, nullable=False))
    version: int = Field(sa_column=Column(Integer, nullable=False))
    rules: str = Field(sa_column=Column(Text, nullable=False))
    sha256: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(sa_column=Column(Text, nullable=False))
    author: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    published_at_us: int | None = Field(default=None, sa_column=_maybe())


class ProgrammeFunder(SQLModel, table=True):
    """A funder's share in a programme; the shares of one programme sum to 10,000 bp."""

    __tablename__ = "programme_funder"

    programme_id: str = Field(sa_column=Column(Text, primary_key=True))
    position: int = Field(sa_column=Column(Integer, primary_key=True))
    funder_id: str = Field(sa_column=Column(Text, nullable=False))
    share_bp: int = Field(sa_column=Column(Integer, nullable=False))
    pool_account_id: int = Field(sa_column=Column(Integer, nullable=False))


class Grant(SQLModel, table=True):
    """A voucher: an amount of one programme for one organisation, backed by its ledger account.

    `window` names the recurrence it belongs to (`2026-11-22` for a daily quota), '' for a single grant.
    `amount` is all that was issued, tranches included, up to `ceiling` (null: it is filled by no lease);
    `returned` went back to the pools (lapsed, voided), `refunded` came back from calls. `bracket` counts
    the grants of one progressive scale. `state`: active, lapsed or void.
    """

    __tablename__ = "voucher_grant"
    __table_args__ = (
        Index("voucher_grant_window", "programme_id", "org_id", "window", unique=True),
        Index("voucher_grant_org", "org_id", "expires_at_us"),
    )

    id: str = Field(sa_column=Column(Text, primary_key=True))
    programme_id: str = Field(sa_column=Column(Text, nullable=False))
    org_id: str = Field(sa_column=Column(Text, nullable=False))
    account_id: int = Field(sa_column=Column(Integer, nullable=False, unique=True))
    unit: str = Field(sa_column=Column(Text, nullable=False))
    amount: int = Field(sa_column=Column(BigInteger, nullable=False))
    priority: int = Field(sa_column=Column(Integer, nullable=False))
    window: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(sa_column=Column(Text, nullable=False))
    issued_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    effective_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    ceiling: int | None = Field(default=None, sa_column=_maybe())
    returned: int = Field(default=0, sa_column=_added_number())
    refunded: int = Field(default=0, sa_column=_added_number())
    bracket: int = Field(default=0, sa_column=_added_number())
    application_id: str = Field(default="", sa_column=_added_text())
    code_id: str = Field(default="", sa_column=_added_text())


class Appropriation(SQLModel, table=True):
    """A funder put money into a programme's pool: `document` names its letter. `id` is the client's."""

    __tablename__ = "appropriation"

    id: str = Field(sa_column=_key())
    programme_id: str = Field(sa_column=_text(index=True))
    funder_id: str = Field(sa_column=_text())
    amount_u: int = Field(sa_column=_number())
    document: str = Field(sa_column=_text())
    by: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=_number())


class Application(SQLModel, table=True):
    """An organisation asks for a voucher. `state`: applied, prepared, approved or rejected.

    `facts` are what it declares of its contract, `evidence` `[{kind, name, sha256}, …]`. `provider` is
    the contract's other party: an organisation's id, `uscc:…` outside, '' when none is named. Whoever
    prepared it (a proposal of how much) and whoever applied cannot decide it.
    """

    __tablename__ = "application"

    id: str = Field(sa_column=_key())
    programme_id: str = Field(sa_column=_text(index=True))
    org_id: str = Field(sa_column=_text(index=True))
    contract_ref: str = Field(sa_column=_text())
    provider: str = Field(default="", sa_column=_added_text())
    requested_u: int = Field(sa_column=_number())
    proposed_u: int | None = Field(default=None, sa_column=_maybe())
    approved_u: int | None = Field(default=None, sa_column=_maybe())
    claimant: str = Field(sa_column=_text())
    facts: str = Field(sa_column=_text())
    evidence: str = Field(sa_column=_text())
    state: str = Field(sa_column=_text())
    applicant: str = Field(sa_column=_text())
    prepared_by: str = Field(default="", sa_column=_text())
    decided_by: str = Field(default="", sa_column=_text())
    reason: str = Field(default="", sa_column=_text())
    at_us: int = Field(sa_column=_number())
    decided_at_us: int | None = Field(default=None, sa_column=_maybe())


class ContractInvoice(SQLModel, table=True):
    """An invoice on the contract of an application, paid outside the gateway.

    `charges` is `{what: micro-yuan}`, together `amount_u`; `eligible_u` of it the programme subsidises.
    `sha256` is the invoice's own document, `evidence` `[{kind, name, sha256}, …]` all of them. `state`:
    presented, accepted or refused. Accepted, its id is that of the usage event that spends the voucher.
    """

    __tablename__ = "contract_invoice"
    __table_args__ = (
        Index("contract_invoice_application", "application_id"),
        Index(
            "contract_invoice_number",
            "provider",
            "number",
            unique=True,
            sqlite_where=text("state <> 'refused'"),
            postgresql_where=text("state <> 'refused'"),
        ),
        Index(
            "contract_invoice_paper",
            "sha256",
            unique=True,
            sqlite_where=text("state <> 'refused'"),
            postgresql_where=text("state <> 'refused'"),
        ),
    )

    id: str = Field(sa_column=_key())
    application_id: str = Field(sa_column=_text())
    org_id: str = Field(sa_column=_text())
    provider: str = Field(sa_column=_text())
    number: str = Field(sa_column=_text())
    sha256: str = Field(sa_column=_text())
    amount_u: int = Field(sa_column=_number())
    charges: str = Field(sa_column=_text())
    eligible_u: int = Field(sa_column=_number())
    evidence: str = Field(sa_column=_text())
    state: str = Field(sa_column=_text())
    presented_by: str = Field(sa_column=_text())
    presented_at_us: int = Field(sa_column=_number())
    decided_by: str = Field(default="", sa_column=_text())
    decided_at_us: int | None = Field(default=None, sa_column=_maybe())
    reason: str = Field(default="", sa_column=_text())


class CapUse(SQLModel, table=True):
    """What one issue counts against one cap: `key` is `caps.cap_key`, `returned_u` its lapsed part."""

    __tablename__ = "voucher_cap_use"

    key: str = Field(sa_column=_key())
    tx: str = Field(sa_column=_key())
    grant_id: str = Field(sa_column=_text(index=True))
    issued_u: int = Field(sa_column=_number())
    returned_u: int = Field(default=0, sa_column=_number())


class GrantEpoch(SQLModel, table=True):
    """From letter `start_u` on, these funders back the grant: `[[funder id, share_bp], …]`.

    A grant without rows is backed by its programme's shares throughout.
    """

    __tablename__ = "grant_epoch"

    grant_id: str = Field(sa_column=_key())
    start_u: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    shares: str = Field(sa_column=_text())


class GrantShift(SQLModel, table=True):
    """By how much the grant's posted debits run ahead of what was used of it, from `at_total` on.

    What was used, T, is the debit total less every shift at or before it: a lapse debits without use,
    a refund takes use back. `n` counts up within a grant.
    """

    __tablename__ = "grant_shift"

    grant_id: str = Field(sa_column=_key())
    n: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    tx: str = Field(sa_column=_text())
    kind: str = Field(sa_column=_text())
    at_total: int = Field(sa_column=_number())
    shift: int = Field(sa_column=_number())


class VoucherCode(SQLModel, table=True):
    """A redemption code (兑换码), known by its SHA-256. `uses` only ever rises, up to `uses_max`."""

    __tablename__ = "voucher_code"

    id: str = Field(sa_column=_key())
    programme_id: str = Field(sa_column=_text(index=True))
    sha256: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    prefix: str = Field(sa_column=_text())
    amount_u: int = Field(sa_column=_number())
    uses_max: int = Field(sa_column=_number())
    uses: int = Field(default=0, sa_column=_number())
    per_org_max: int = Field(sa_column=_number())
    expires_at_us: int = Field(sa_column=_number())
    grant_ttl_days: int | None = Field(default=None, sa_column=Column(Integer))
    author: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=_number())
    revoked_at_us: int | None = Field(default=None, sa_column=_maybe())


class CodeUse(SQLModel, table=True):
    """The `n`-th use of a code by one organisation, and the grant it became."""

    __tablename__ = "voucher_code_use"

    code_id: str = Field(sa_column=_key())
    org_id: str = Field(sa_column=_key())
    n: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    tx: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    grant_id: str = Field(default="", sa_column=_text())
    by: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=_number())


class Refund(SQLModel, table=True):
    """Part of a call given back to who paid it. `id` is the client's, so a repeat changes nothing."""

    __tablename__ = "refund"

    id: str = Field(sa_column=_key())
    event_id: str = Field(sa_column=_text(index=True))
    owner_org: str = Field(sa_column=_text())
    amount_u: int = Field(sa_column=_number())
    reason: str = Field(sa_column=_text())
    by: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))


class RefundLeg(SQLModel, table=True):
    """What one leg of the call got back: micro-yuan `amount_u`, of which `covered_u` had paid the call.

    `low_u` to `low_u + covered_u` is its place within the call's cost (see `parts`). `due_u` of the
    amount had been reimbursed already and came from what the caller got back. For a grant, `from_total`
    is what was used of it before. Of a quota in tokens or requests, `amount_u` counts its units and
    `covered_u` is what they had been worth.
    """

    __tablename__ = "refund_leg"
    __table_args__ = (Index("refund_leg_grant", "grant_id"),)

    refund_id: str = Field(sa_column=_key())
    leg: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    grant_id: str = Field(sa_column=_text())
    amount_u: int = Field(sa_column=_number())
    covered_u: int = Field(sa_column=_number())
    low_u: int = Field(sa_column=_number())
    due_u: int = Field(sa_column=_number())
    from_total: int = Field(sa_column=_number())
    owner_u: int = Field(sa_column=_number())


class Adjustment(SQLModel, table=True):
    """A correction that two persons make: `amount_u` from one account to another. State: proposed, booked."""

    __tablename__ = "adjustment"

    id: str = Field(sa_column=_key())
    from_account: str = Field(sa_column=_text())
    to_account: str = Field(sa_column=_text())
    amount_u: int = Field(sa_column=_number())
    reason: str = Field(sa_column=_text())
    state: str = Field(sa_column=_text())
    proposed_by: str = Field(sa_column=_text())
    approved_by: str = Field(default="", sa_column=_text())
    at_us: int = Field(sa_column=_number())


class Claim(SQLModel, table=True):
    """One funder's part of one programme's usage up to the end of a period.

    `state`: draft, submitted, audited, settled or withdrawn. `evidence` is `[{kind, name, sha256}, …]`,
    `sha256` covers the lines as they were submitted.
    """

    __tablename__ = "claim"
    __table_args__ = (Index("claim_programme", "programme_id", "funder_id"),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    programme_id: str = Field(sa_column=_text())
    funder_id: str = Field(sa_column=_text())
    period: str = Field(sa_column=_text())
    from_us: int = Field(sa_column=_number())
    until_us: int = Field(sa_column=_number())
    state: str = Field(sa_column=_text())
    lines: int = Field(sa_column=_number())
    total_u: int = Field(sa_column=_number())
    allowed_u: int = Field(default=0, sa_column=_number())
    disallowed_u: int = Field(default=0, sa_column=_number())
    evidence: str = Field(default="[]", sa_column=_text())
    sha256: str = Field(default="", sa_column=_text())
    bank_ref: str = Field(default="", sa_column=_text())
    drafted_by: str = Field(sa_column=_text())
    submitted_by: str = Field(default="", sa_column=_text())
    audited_by: str = Field(default="", sa_column=_text())
    settled_by: str = Field(default="", sa_column=_text())
    drafted_at_us: int = Field(sa_column=_number())
    submitted_at_us: int | None = Field(default=None, sa_column=_maybe())
    audited_at_us: int | None = Field(default=None, sa_column=_maybe())
    settled_at_us: int | None = Field(default=None, sa_column=_maybe())


class ClaimLine(SQLModel, table=True):
    """A funder's exact part of one leg of one call, or (`refund_id`) of what was given back of it.

    `amount_u` is negative for a refund. `owner_u` is the listing owner's share of it, the rest the
    platform's fee. `state`: pending, allowed, disallowed, clawed_back or withdrawn; a funder sees a leg
    in one line that is not withdrawn.
    """

    __tablename__ = "claim_line"
    __table_args__ = (
        Index(
            "claim_line_once",
            "funder_id",
            "event_id",
            "leg",
            "refund_id",
            unique=True,
            sqlite_where=text("state <> 'withdrawn'"),
            postgresql_where=text("state <> 'withdrawn'"),
        ),
        Index("claim_line_event", "event_id"),
    )

    claim_id: str = Field(sa_column=Column(Text, primary_key=True))
    n: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    funder_id: str = Field(sa_column=_text())
    event_id: str = Field(sa_column=_text())
    leg: int = Field(sa_column=Column(Integer, nullable=False))
    refund_id: str = Field(sa_column=_text())
    grant_id: str = Field(sa_column=_text())
    org_id: str = Field(sa_column=_text())
    owner_org: str = Field(sa_column=_text())
    amount_u: int = Field(sa_column=_number())
    owner_u: int = Field(sa_column=_number())
    state: str = Field(sa_column=_text())
    reason: str = Field(default="", sa_column=_text())
    decided_by: str = Field(default="", sa_column=_text())
    decided_at_us: int | None = Field(default=None, sa_column=_maybe())
