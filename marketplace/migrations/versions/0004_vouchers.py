"""Revision 0004_vouchers."""

from __future__ import annotations

revision = "0004_vouchers"
down_revision = "0003_listings"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
