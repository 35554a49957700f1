"""Revision 0011_speaks: which shapes an endpoint answers itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011_speaks"
down_revision = "0010_vouchers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("endpoint", sa.Column("speaks", sa.Text(), nullable=True))
