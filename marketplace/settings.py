"""Every setting, in one place. Each is an environment variable with the prefix `TOKENMART_`.

`docs/settings.md` describes them for operators; a test holds that page to this class.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from catalog.ground.database import Database


class Settings(BaseSettings):
    """What an operator can set. Durations end in their unit; money is micro-yuan (`_u`)."""

    model_config = SettingsConfigDict(env_prefix="TOKENMART_", env_file=".env", extra="ignore")

    environment: Literal["development", "production"] = "development"
    """In production nothing is seeded and no key is printed."""
    data_dir: Path = Path(".data")
    """Where the SQLite database, artifacts and logs live."""
    database_url: str = ""
    """`sqlite:///path` or `postgresql://…`; empty: `tokenmart.db` in the data directory."""
    host: str = "127.0.0.1"
    """Address that the gateway listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port that the gateway listens on; 0 takes a free one."""
    hold_ttl_s: int = Field(default=120, ge=5)
    """How long a hold lives when nobody renews it: the longest that a crash can keep money."""
    body_limit_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    """Largest request body that the gateway reads."""
    default_max_tokens: int = Field(default=4096, ge=1)
    """Output tokens that are held for when neither the request nor the listing sets a bound."""
    key_rpm: int = Field(default=600, ge=1)
    """Requests per minute for a key that has no limit of its own."""
    key_concurrency: int = Field(default=128, ge=1)
    """Calls at once for a key that has no limit of its own."""
    upstream_connect_s: float = Field(default=5.0, gt=0)
    """How long an engine may take to accept a connection."""
    upstream_silence_s: float = Field(default=60.0, gt=0)
    """How long an engine may stay silent before a call is given up."""
    free_daily_u: int = Field(default=200_000, ge=0)
    """The platform's free quota for each organisation and Beijing day, in micro-yuan."""

    @cached_property
    def database(self) -> Database:
        """The database these settings name; its folder is made when it is missing."""
        url = self.database_url
        if not url:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{self.data_dir.resolve() / 'tokenmart.db'}"
        return Database(url)
