"""Revision 0010_vouchers: who was suspended and why, whose office a funder is, contracts' invoices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010_vouchers"
down_revision = "0009_answers"
branch_labels = None
depends_on = None

_LIVE = "state <> 'refused'"


def _text(name: str, **options: bool) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, **options)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _added(table: str, name: str) -> None:
    column = sa.Column(name, sa.Text(), nullable=False, server_default="")
    op.add_column(table, column)


def _live(name: str, *columns: str) -> None:
    """Only what was not refused is unique: a corrected invoice may be handed in again."""
    op.create_index(
        name,
        "contract_invoice",
        list(columns),
        unique=True,
        sqlite_where=sa.text(_LIVE),
        postgresql_where=sa.text(_LIVE),
    )


def upgrade() -> None:
    op.create_table(
        "organisation_status",
        _text("id", primary_key=True),
        _text("org_id"),
        _text("status"),
        _text("reason"),
        _text("by"),
        _number("at_us"),
    )
    op.create_index("organisation_status_org", "organisation_status", ["org_id", "at_us"])
    _added("funder", "org_id")
    _added("application", "provider")
    op.create_table(
        "contract_invoice",
        _text("id", primary_key=True),
        _text("application_id"),
        _text("org_id"),
        _text("provider"),
        _text("number"),
        _text("sha256"),
        _number("amount_u"),
        _text("charges"),
        _number("eligible_u"),
        _text("evidence"),
        _text("state"),
        _text("presented_by"),
        _number("presented_at_us"),
        _text("decided_by"),
        _number("decided_at_us", nullable=True),
        _text("reason"),
    )
    op.create_index("contract_invoice_application", "contract_invoice", ["application_id"])
    _live("contract_invoice_number", "provider", "number")
    _live("contract_invoice_paper", "sha256")
