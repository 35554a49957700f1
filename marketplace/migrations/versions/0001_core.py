"""The first walk: ledger, organisations and keys, prices, vouchers, endpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_core"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("ledger_transfer", "ledger_batch", "usage_event")
WELL_KNOWN = (
    "clearing",
    "platform:overrun",
    "platform:rounding",
    "platform:free_cost",
    "platform:fee",
    "ext:bank",
)


def upgrade() -> None:
    _create_tables()
    for table in APPEND_ONLY:
        _forbid_changes(table)
    account = sa.table("ledger_account", sa.column("code"), sa.column("unit"), sa.column("rule"))
    op.bulk_insert(account, [{"code": code, "unit": "CNY", "rule": 0} for code in WELL_KNOWN])


def _forbid_changes(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def _create_tables() -> None:
    op.create_table(
        "ledger_account",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("rule", sa.SmallInteger(), nullable=False),
        sa.Column("dr_pending", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("dr_posted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cr_pending", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cr_posted", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("cr_pending >= 0", name="cr_pending_natural"),
        sa.CheckConstraint("cr_posted >= 0", name="cr_posted_natural"),
        sa.CheckConstraint("dr_pending >= 0", name="dr_pending_natural"),
        sa.CheckConstraint("dr_posted >= 0", name="dr_posted_natural"),
        sa.CheckConstraint("rule <> 1 OR dr_pending + dr_posted <= cr_posted", name="rule_1"),
        sa.CheckConstraint("rule <> 2 OR cr_pending + cr_posted <= dr_posted", name="rule_2"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("code"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "ledger_lane",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("opened_at_us", sa.BigInteger(), nullable=False),
        sa.Column("next_seq", sa.BigInteger(), nullable=False),
        sa.Column("next_batch", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "ledger_batch",
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("lane", "n"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_transfer",
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("tx", sa.Text(), nullable=False),
        sa.Column("leg", sa.SmallInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("code", sa.SmallInteger(), nullable=False),
        sa.Column("debit_id", sa.Integer(), nullable=False),
        sa.Column("credit_id", sa.Integer(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("debit_total", sa.BigInteger(), nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount >= 0", name="amount_natural"),
        sa.PrimaryKeyConstraint("lane", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_index("ledger_transfer_once", "ledger_transfer", ["tx", "kind", "leg"], unique=True)
    op.create_table(
        "ledger_hold",
        sa.Column("tx", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("legs", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("held_at_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tx"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_ledger_hold_expires_at_us"), "ledger_hold", ["expires_at_us"], unique=False
    )
    op.create_table(
        "usage_event",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("listing", sa.Text(), nullable=False),
        sa.Column("release_digest", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("owner_org_id", sa.Text(), nullable=False),
        sa.Column("price_version_id", sa.Text(), nullable=False),
        sa.Column("prices", sa.Text(), nullable=False),
        sa.Column("started_at_us", sa.BigInteger(), nullable=False),
        sa.Column("first_token_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_us", sa.BigInteger(), nullable=False),
        sa.Column("input_uncached", sa.BigInteger(), nullable=False),
        sa.Column("cache_read", sa.BigInteger(), nullable=False),
        sa.Column("cache_write", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.BigInteger(), nullable=False),
        sa.Column("reasoning", sa.BigInteger(), nullable=False),
        sa.Column("usage_source", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("streamed", sa.SmallInteger(), nullable=False),
        sa.Column("list_cost_u", sa.BigInteger(), nullable=False),
        sa.Column("cost_u", sa.BigInteger(), nullable=False),
        sa.Column("wallet_u", sa.BigInteger(), nullable=False),
        sa.Column("voucher_u", sa.BigInteger(), nullable=False),
        sa.Column("free_u", sa.BigInteger(), nullable=False),
        sa.Column("overrun_u", sa.BigInteger(), nullable=False),
        sa.Column("raw_usage", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        op.f("ix_usage_event_ended_at_us"), "usage_event", ["ended_at_us"], unique=False
    )
    op.create_index("usage_event_org", "usage_event", ["org_id", "ended_at_us"], unique=False)
    op.create_table(
        "organisation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("uscc", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("slug"),
        sa.UniqueConstraint("uscc"),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("listings", sa.Text(), nullable=True),
        sa.Column("cidrs", sa.Text(), nullable=True),
        sa.Column("rpm", sa.BigInteger(), nullable=True),
        sa.Column("tpm", sa.BigInteger(), nullable=True),
        sa.Column("concurrency", sa.BigInteger(), nullable=True),
        sa.Column("daily_u", sa.BigInteger(), nullable=True),
        sa.Column("monthly_u", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_us", sa.BigInteger(), nullable=True),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_index(op.f("ix_api_key_org_id"), "api_key", ["org_id"], unique=False)
    op.create_table(
        "price_version",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("listing", sa.Text(), nullable=False),
        sa.Column("effective_from_us", sa.BigInteger(), nullable=False),
        sa.Column("effective_to_us", sa.BigInteger(), nullable=True),
        sa.Column("components", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "price_version_listing", "price_version", ["listing", "effective_from_us"], unique=True
    )
    op.create_table(
        "funder",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name_zh", sa.Text(), nullable=False),
        sa.Column("name_en", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("code"),
    )
    op.create_table(
        "programme",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("published_at_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("programme_version", "programme", ["code", "version"], unique=True)
    op.create_table(
        "programme_funder",
        sa.Column("programme_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("funder_id", sa.Text(), nullable=False),
        sa.Column("share_bp", sa.Integer(), nullable=False),
        sa.Column("pool_account_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("programme_id", "position"),
    )
    op.create_table(
        "voucher_grant",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("programme_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("issued_at_us", sa.BigInteger(), nullable=False),
        sa.Column("effective_at_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("account_id"),
    )
    op.create_index("voucher_grant_org", "voucher_grant", ["org_id", "expires_at_us"], unique=False)
    op.create_index(
        "voucher_grant_window", "voucher_grant", ["programme_id", "org_id", "window"], unique=True
    )
    op.create_table(
        "endpoint",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("listing", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("api_key", sa.Text(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("updated_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_endpoint_listing"), "endpoint", ["listing"], unique=False)
