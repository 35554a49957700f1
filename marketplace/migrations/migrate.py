"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from catalog.ground.database import Database

_MIGRATIONS = Path(__file__).parent
_LOCK = 0x746F6B656E  # any constant: several replicas may start at once, one migrates


def migrate(database: Database) -> None:
    """Run every missing revision in one transaction; doing it twice changes nothing."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with database.engine.begin() as connection:
        if database.kind == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
