"""Revision 0001_core."""

from __future__ import annotations

revision = "0001_core"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
