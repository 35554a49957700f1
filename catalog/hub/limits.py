"""Every limit of the hub in one place; a deployment passes its own."""

from __future__ import annotations

from dataclasses import dataclass

from catalog.ground.clock import DAY_US, HOUR_US

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Sizes in bytes, times in microseconds; the defaults suit one machine of a park.

    `regular_max_bytes`: text files up to this size ride inside the commit, all others go by LFS or Xet.
    `inline_max_bytes`: the largest file accepted inside a commit, whatever the client was told.
    50 GB is what the clients download without Xet; larger weights come in shards anyway.
    """

    regular_max_bytes: int = 1 * MIB
    inline_max_bytes: int = 16 * MIB
    commit_body_max_bytes: int = 256 * MIB
    commit_changes_max: int = 25_000
    file_max_bytes: int = 50_000_000_000
    repo_files_max: int = 100_000
    org_quota_bytes: int = 500 * GIB
    json_body_max_bytes: int = 8 * MIB
    part_bytes: int = 256 * MIB
    multipart_from_bytes: int = 1 * GIB
    upload_lease_us: int = DAY_US
    link_life_us: int = 12 * HOUR_US
    xet_token_life_us: int = HOUR_US
    requests_per_minute: int = 6_000
    page_entries: int = 1_000
    page_expanded: int = 50
