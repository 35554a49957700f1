"""Where listings are served, and who serves them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, Text, false
from sqlmodel import Field, SQLModel


class Endpoint(SQLModel, table=True):
    """One process that answers for a listing: `url` without `/v1`, `model` is the name it knows.

    `api_key` is what the engine asks of us ('' = nothing). `state`: `up`, `draining` or `down`. The rest
    is what routing knows of it, as `serving.routing.Candidate` has it: `supports` is a JSON array of
    request parameters (None: all), `max_concurrency` None is without a limit. What nobody has promised is
    not promised: `data_collection` is `allow` and `zdr` False until the operator says better. `speaks` is a
    JSON array of the shapes that it answers itself beyond chat completions (None: no other).
    """

    __tablename__ = "endpoint"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    listing: str = Field(sa_column=Column(Text, nullable=False, index=True))
    url: str = Field(sa_column=Column(Text, nullable=False))
    model: str = Field(sa_column=Column(Text, nullable=False))
    api_key: str = Field(default="", sa_column=Column(Text, nullable=False))
    weight: int = Field(default=1, sa_column=Column(Integer, nullable=False))
    priority: int = Field(default=0, sa_column=Column(Integer, nullable=False))
    state: str = Field(default="up", sa_column=Column(Text, nullable=False))
    provider: str = Field(
        default="self", sa_column=Column(Text, nullable=False, server_default="self")
    )
    quantization: str = Field(
        default="unknown", sa_column=Column(Text, nullable=False, server_default="unknown")
    )
    data_collection: str = Field(
        default="allow", sa_column=Column(Text, nullable=False, server_default="allow")
    )
    zdr: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=false())
    )
    supports: str | None = Field(default=None, sa_column=Column(Text))
    max_concurrency: int | None = Field(default=None, sa_column=Column(Integer))
    speaks: str | None = Field(default=None, sa_column=Column(Text))
    updated_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class GatewayPresence(SQLModel, table=True):
    """One machine's office with its `workers`; `seen_at_us` by the database's own clock."""

    __tablename__ = "gateway_presence"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    workers: int = Field(sa_column=Column(Integer, nullable=False))
    seen_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
