"""Every setting, in one place. Each is an environment variable with the prefix `TOKENMART_`.

`docs/settings.md` describes them for operators; a test holds that page to this class.
"""

from __future__ import annotations

import ipaddress
import secrets
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from catalog.ground.database import Database
from catalog.ground.errors import BadRequest

_SECRET_CHARACTERS = 32
_MOST_S = 10**8
_MOST = 2**53
"""Beyond these (three years) a number is a slip, and some clock or record would not take it."""


class Settings(BaseSettings):
    """What an operator can set. Durations end in their unit; money is micro-yuan (`_u`)."""

    model_config = SettingsConfigDict(env_prefix="TOKENMART_", env_file=".env", extra="ignore")

    environment: Literal["development", "production"] = "development"
    """In production nothing is seeded and no key is printed."""
    data_dir: Path = Path(".data")
    """Where the SQLite database and artifacts live."""
    database_url: str = ""
    """`sqlite:///path` or `postgresql://…`; empty: `tokenmart.db` in the data directory."""
    artifacts_url: str = ""
    """Where artifacts are kept: a folder or any fsspec URL (`s3://…`); empty: in the data directory."""
    secret: str = Field(default="", repr=False)
    """Signs upload links; every replica needs the same one. Empty: made once in the data directory."""
    public_url: str = ""
    """The address that callers see, when a proxy stands in front; empty: taken from each request."""
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
    member_rpm: int = Field(default=0, ge=0)
    """Requests per minute for all keys of one member together; 0 is no limit."""
    org_rpm: int = Field(default=6000, ge=0)
    """Requests per minute for an organisation, however many keys it has; 0 is no limit."""
    org_tpm: int = Field(default=0, ge=0)
    """Tokens per minute for an organisation; 0 is no limit."""
    org_concurrency: int = Field(default=1024, ge=0)
    """Calls at once for an organisation; 0 is no limit."""
    listing_concurrency: int = Field(default=0, ge=0)
    """Calls of one listing at once, by everybody together; 0 is no limit."""
    queue: int = Field(default=64, ge=0)
    """Calls of one organisation that may wait for a listing whose engines are full."""
    queue_patience_s: float = Field(default=30.0, gt=0)
    """How long a call may wait for its turn; who would wait longer is refused at once."""
    workers: int = Field(default=1, ge=1, le=64)
    """Worker processes of the gateway; more than one needs PostgreSQL."""
    drain_s: float = Field(default=30.0, ge=0)
    """How long running calls may take to end after SIGTERM."""
    trusted_proxies: str = "127.0.0.1,::1"
    """Addresses (with commas) whose `X-Forwarded-For` is believed."""
    slow_request_s: float = Field(default=30.0, ge=0)
    """Calls that take longer than this are written to the log with their phases; 0 logs none."""
    log: Literal["text", "json", "off"] = "text"
    """`text`: warnings. `json`: warnings and a line for every call, as JSON. `off`: nothing."""
    otlp_url: str = ""
    """Where traces go: a collector's OTLP/HTTP address without `/v1/traces`; empty: see operations.md."""
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of the calls that are traced, when there is a collector."""
    gateway_express: Literal["auto", "off"] = "auto"
    """`auto`: compiled code serves plain chat calls, unless calls are traced; `off`: never."""
    upstream_connect_s: float = Field(default=5.0, gt=0)
    """How long an engine may take to accept a connection."""
    upstream_silence_s: float = Field(default=60.0, gt=0)
    """How long an engine may stay silent before a call is given up."""
    free_daily_u: int = Field(default=200_000, ge=0)
    """The platform's free quota for each organisation and Beijing day, in micro-yuan."""

    @field_validator("*")
    @classmethod
    def _of_a_size_that_is_meant(cls, value: Any, field: ValidationInfo) -> Any:
        most = _MOST_S if str(field.field_name).endswith("_s") else _MOST
        if isinstance(value, int | float) and value > most:
            raise ValueError(f"Input should be {most} at most")
        return value

    @field_validator("database_url")
    @classmethod
    def _a_database(cls, value: str) -> str:
        try:
            if value:
                make_url(value)
        except (ArgumentError, ValueError):  # their words would quote a password
            raise ValueError(
                "This is no address of a database. Use sqlite:///path/to/file.db or "
                "postgresql://user:password@host/name; in a password, @ : / ? # and % are written as "
                "%40 %3A %2F %3F %23 and %25."
            ) from None
        return value

    @field_validator("public_url", "otlp_url")
    @classmethod
    def _a_web_address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"{value!r} is not a web address: it begins with http:// or https://")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in filter(None, (part.strip() for part in value.split(","))):
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise ValueError(
                    f"{address!r} is not an address. Name each proxy, like 10.0.0.5,10.0.0.6"
                ) from None
        return value

    @model_validator(mode="after")
    def _refuse_defaults_outside_development(self) -> Self:
        if self.environment == "production" and len(self.secret) < _SECRET_CHARACTERS:
            raise ValueError(
                "TOKENMART_SECRET must be set in production, to 32 random characters or more: "
                "openssl rand -hex 32"
            )
        return self

    @model_validator(mode="after")
    def _one_writer_on_sqlite(self) -> Self:
        if self.workers > 1 and not self.database_url.startswith("postgresql"):
            raise ValueError(
                f"TOKENMART_WORKERS={self.workers} needs PostgreSQL: SQLite has one writer. Set "
                "TOKENMART_DATABASE_URL=postgresql://…, or TOKENMART_WORKERS=1."
            )
        return self

    @cached_property
    def signing_secret(self) -> bytes:
        """The secret that signs links; in development made on first use, mode 0600."""
        if self.secret:
            return self.secret.encode()
        kept = self.data_dir / "secret"
        if not kept.exists():
            self._make_data_dir()
            kept.touch(mode=0o600)
            kept.write_text(secrets.token_hex(32))
        return kept.read_text().encode()

    @cached_property
    def database(self) -> Database:
        """The database these settings name; its folder is made when it is missing."""
        url = self.database_url
        if not url:
            self._make_data_dir()
            url = f"sqlite:///{self.data_dir.resolve() / 'tokenmart.db'}"
        return Database(url)

    def _make_data_dir(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadRequest(
                f"The folder {self.data_dir} cannot be made: {error.strerror}.",
                rule="settings.data_dir",
                remedy="Set TOKENMART_DATA_DIR to one that can.",
            ) from None
