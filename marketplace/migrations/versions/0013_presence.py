"""Revision 0013_presence: which gateways work on this database, so that they share its limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_presence"
down_revision = "0012_ledger"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gateway_presence",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("workers", sa.Integer(), nullable=False),
        sa.Column("seen_at_us", sa.BigInteger(), nullable=False),
    )
