"""Revision 0002_hub."""

from __future__ import annotations

revision = "0002_hub"
down_revision = "0001_core"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
