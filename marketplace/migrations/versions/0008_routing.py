"""Revision 0008_routing: what routing knows of an endpoint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_routing"
down_revision = "0007_archive"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, default in (
        ("provider", "self"),
        ("quantization", "unknown"),
        ("data_collection", "allow"),
    ):
        op.add_column(
            "endpoint", sa.Column(name, sa.Text(), nullable=False, server_default=default)
        )
    op.add_column(
        "endpoint", sa.Column("zdr", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("endpoint", sa.Column("supports", sa.Text(), nullable=True))
    op.add_column("endpoint", sa.Column("max_concurrency", sa.Integer(), nullable=True))
