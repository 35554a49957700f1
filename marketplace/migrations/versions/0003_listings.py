"""Revision 0003_listings."""

from __future__ import annotations

revision = "0003_listings"
down_revision = "0002_hub"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
