"""The two programmes that a fresh marketplace starts with, as the JSON that an officer would write."""

from __future__ import annotations

import json
from typing import Any

STARTER = "starter"
FREE = "free-daily"


def starter() -> str:
    """Return a token voucher that a province, a city and a district fund 5:3:2 and that pays in full."""
    shares = (
        ("province", "province", 5000),
        ("city", "city", 3000),
        ("district", "district", 2000),
    )
    return json.dumps(
        {
            "code": STARTER,
            "version": 1,
            "title_zh": "一人公司起步词元券(示例)",
            "title_en": "Starter token voucher for one-person companies (example)",
            "kind": "token",
            "example": True,
            "sources": [{"document": "TokenMart seed", "grade": "own"}],
            "mode": "instant",
            "claimant": "platform",
            "funders": [
                {"funder": funder, "level": level, "share_bp": share_bp}
                for funder, level, share_bp in shares
            ],
            "budget": {"total_u": None},
            "window": {"grant_ttl_days": 365},
            "subsidy": {"ratio_bp": 10_000},
            "stacking": {"stack_class": "token", "rule": "stack", "priority": 100},
        }
    )


def free_daily(amount_u: int) -> str:
    """Return the platform's free quota: so much a Beijing day, for `model:free` calls only."""
    document: dict[str, Any] = {
        "code": FREE,
        "version": 1,
        "title_zh": "每日免费额度",
        "title_en": "Free daily quota",
        "kind": "free_quota",
        "mode": "instant",
        "claimant": "platform",
        "funders": [{"funder": "platform", "level": "platform", "share_bp": 10_000}],
        "budget": {"total_u": None},
        "items": [
            {
                "id": "free-endpoint",
                "when": {"listing.quota_class": "free"},
                "text": "The free quota pays for model names that end in :free.",
            }
        ],
        "subsidy": {"ratio_bp": 10_000},
        "quota": {"unit": "CNY", "amount": amount_u, "recurrence": "day"},
        "stacking": {"stack_class": "free", "rule": "stack", "priority": 0},
    }
    return json.dumps(document)
