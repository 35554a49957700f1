"""What a worker is told when it starts: plain data, because a worker has no settings of its own."""

from __future__ import annotations

from typing import Literal

import msgspec

from marketplace.gateway.money import Books


class Options(msgspec.Struct, frozen=True):
    """Durations end in their unit; 0 is no limit. `workers` is how many share its limits at first."""

    database_url: str
    lane: str
    books: Books
    hold_ttl_s: int = 120
    body_limit_bytes: int = 8 * 1024 * 1024
    default_max_tokens: int = 4096
    upstream_connect_s: float = 5.0
    upstream_silence_s: float = 60.0
    workers: int = 1
    trusted_proxies: tuple[str, ...] = ()
    key_rpm: int = 600
    key_concurrency: int = 128
    member_rpm: int = 0
    org_rpm: int = 0
    org_tpm: int = 0
    org_concurrency: int = 0
    listing_concurrency: int = 0
    queue: int = 64
    queue_patience_s: float = 30.0
    drain_s: float = 30.0
    slow_request_s: float = 0.0
    log: Literal["text", "json", "off"] = "text"
    trace_ratio: float = 0.0
    gateway_express: Literal["auto", "off"] = "auto"
