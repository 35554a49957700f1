"""Revision 0009_answers: answers kept for callers who repeat a request."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009_answers"
down_revision = "0008_routing"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gateway_answer",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_gateway_answer_expires_at_us", "gateway_answer", ["expires_at_us"])
