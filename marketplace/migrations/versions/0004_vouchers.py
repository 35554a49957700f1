"""The life of a voucher from appropriation to claim, and the revenue share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_vouchers"
down_revision = "0003_listings"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _extend_grants()
    _create_life()
    _create_claims()
    _create_payouts()


def _extend_grants() -> None:
    op.add_column("voucher_grant", sa.Column("ceiling", sa.BigInteger(), nullable=True))
    for name in ("returned", "refunded", "bracket"):
        column = sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
        op.add_column("voucher_grant", column)
    for name in ("application_id", "code_id"):
        column = sa.Column(name, sa.Text(), server_default="", nullable=False)
        op.add_column("voucher_grant", column)


def _create_life() -> None:
    op.create_table(
        "appropriation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("programme_id", sa.Text(), nullable=False),
        sa.Column("funder_id", sa.Text(), nullable=False),
        sa.Column("amount_u", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        op.f("ix_appropriation_programme_id"), "appropriation", ["programme_id"], unique=False
    )
    op.create_table(
        "application",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("programme_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("contract_ref", sa.Text(), nullable=False),
        sa.Column("requested_u", sa.BigInteger(), nullable=False),
        sa.Column("proposed_u", sa.BigInteger(), nullable=True),
        sa.Column("approved_u", sa.BigInteger(), nullable=True),
        sa.Column("claimant", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("applicant", sa.Text(), nullable=False),
        sa.Column("prepared_by", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("decided_at_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_application_org_id"), "application", ["org_id"], unique=False)
    op.create_index(
        op.f("ix_application_programme_id"), "application", ["programme_id"], unique=False
    )
    op.create_table(
        "voucher_cap_use",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("tx", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("issued_u", sa.BigInteger(), nullable=False),
        sa.Column("returned_u", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", "tx"),
    )
    op.create_index(
        op.f("ix_voucher_cap_use_grant_id"), "voucher_cap_use", ["grant_id"], unique=False
    )
    op.create_table(
        "grant_epoch",
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("start_u", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("shares", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("grant_id", "start_u"),
    )
    op.create_table(
        "grant_shift",
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tx", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at_total", sa.BigInteger(), nullable=False),
        sa.Column("shift", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("grant_id", "n"),
    )
    op.create_table(
        "voucher_code",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("programme_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("amount_u", sa.BigInteger(), nullable=False),
        sa.Column("uses_max", sa.BigInteger(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.Column("per_org_max", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.Column("grant_ttl_days", sa.Integer(), nullable=True),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_index(
        op.f("ix_voucher_code_programme_id"), "voucher_code", ["programme_id"], unique=False
    )
    op.create_table(
        "voucher_code_use",
        sa.Column("code_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tx", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("code_id", "org_id", "n"),
        sa.UniqueConstraint("tx"),
    )
    op.create_table(
        "refund",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("owner_org", sa.Text(), nullable=False),
        sa.Column("amount_u", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_refund_at_us"), "refund", ["at_us"], unique=False)
    op.create_index(op.f("ix_refund_event_id"), "refund", ["event_id"], unique=False)
    op.create_table(
        "refund_leg",
        sa.Column("refund_id", sa.Text(), nullable=False),
        sa.Column("leg", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("amount_u", sa.BigInteger(), nullable=False),
        sa.Column("covered_u", sa.BigInteger(), nullable=False),
        sa.Column("low_u", sa.BigInteger(), nullable=False),
        sa.Column("due_u", sa.BigInteger(), nullable=False),
        sa.Column("from_total", sa.BigInteger(), nullable=False),
        sa.Column("owner_u", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("refund_id", "leg"),
    )
    op.create_index("refund_leg_grant", "refund_leg", ["grant_id"], unique=False)
    op.create_table(
        "idempotency_key",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("caller", "key"),
    )
    op.create_table(
        "adjustment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("from_account", sa.Text(), nullable=False),
        sa.Column("to_account", sa.Text(), nullable=False),
        sa.Column("amount_u", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("proposed_by", sa.Text(), nullable=False),
        sa.Column("approved_by", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _create_claims() -> None:
    op.create_table(
        "claim",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("programme_id", sa.Text(), nullable=False),
        sa.Column("funder_id", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("total_u", sa.BigInteger(), nullable=False),
        sa.Column("allowed_u", sa.BigInteger(), nullable=False),
        sa.Column("disallowed_u", sa.BigInteger(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("bank_ref", sa.Text(), nullable=False),
        sa.Column("drafted_by", sa.Text(), nullable=False),
        sa.Column("submitted_by", sa.Text(), nullable=False),
        sa.Column("audited_by", sa.Text(), nullable=False),
        sa.Column("settled_by", sa.Text(), nullable=False),
        sa.Column("drafted_at_us", sa.BigInteger(), nullable=False),
        sa.Column("submitted_at_us", sa.BigInteger(), nullable=True),
        sa.Column("audited_at_us", sa.BigInteger(), nullable=True),
        sa.Column("settled_at_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("claim_programme", "claim", ["programme_id", "funder_id"], unique=False)
    op.create_table(
        "claim_line",
        sa.Column("claim_id", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("funder_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("leg", sa.Integer(), nullable=False),
        sa.Column("refund_id", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("owner_org", sa.Text(), nullable=False),
        sa.Column("amount_u", sa.BigInteger(), nullable=False),
        sa.Column("owner_u", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("decided_at_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("claim_id", "n"),
    )
    op.create_index("claim_line_event", "claim_line", ["event_id"], unique=False)
    live = sa.text("state <> 'withdrawn'")
    op.create_index(
        "claim_line_once",
        "claim_line",
        ["funder_id", "event_id", "leg", "refund_id"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )


def _create_payouts() -> None:
    op.create_table(
        "fee_version",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("fee_bp", sa.Integer(), nullable=False),
        sa.Column("effective_from_us", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("fee_version_scope", "fee_version", ["scope", "effective_from_us"], unique=True)
    op.create_table(
        "payout_accrual",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("gross_u", sa.BigInteger(), nullable=False),
        sa.Column("fee_u", sa.BigInteger(), nullable=False),
        sa.Column("net_u", sa.BigInteger(), nullable=False),
        sa.Column("waiting_u", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("due_at_us", sa.BigInteger(), nullable=False),
        sa.Column("matured_tx", sa.Text(), nullable=False),
        sa.Column("matured_at_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "payout_accrual_due", "payout_accrual", ["matured_tx", "due_at_us"], unique=False
    )
    op.create_index("payout_accrual_once", "payout_accrual", ["org_id", "kind", "ref"], unique=True)
    op.create_table(
        "payout_day",
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day"),
    )
    op.create_table(
        "payout_hold",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("released_by", sa.Text(), nullable=False),
        sa.Column("released_at_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_payout_hold_org_id"), "payout_hold", ["org_id"], unique=False)
    op.create_table(
        "payout_statement",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("payout_statement_month", "payout_statement", ["org_id", "period"], unique=True)
    op.create_table(
        "payout",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("statement_id", sa.Text(), nullable=False),
        sa.Column("amount_u", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("bank_ref", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("prepared_by", sa.Text(), nullable=False),
        sa.Column("approved_by", sa.Text(), nullable=False),
        sa.Column("closed_by", sa.Text(), nullable=False),
        sa.Column("prepared_at_us", sa.BigInteger(), nullable=False),
        sa.Column("approved_at_us", sa.BigInteger(), nullable=True),
        sa.Column("closed_at_us", sa.BigInteger(), nullable=True),
        sa.Column("was_paid", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_payout_file_id"), "payout", ["file_id"], unique=False)
    op.create_index(op.f("ix_payout_org_id"), "payout", ["org_id"], unique=False)
    op.create_index(op.f("ix_payout_state"), "payout", ["state"], unique=False)
    op.create_table(
        "payout_file",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total_u", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
