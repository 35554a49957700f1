"""Which limits hold for a call: its key's, its member's, its organisation's and its listing's."""

from __future__ import annotations

from marketplace.gateway.meters import Quota
from marketplace.gateway.options import Options
from marketplace.gateway.records import KeyRecord, ListingRecord

_MOST_KNOWN = 20_000


class Quotas:
    """Makes each quota once, so that `limits` recognises it by identity."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._known: dict[tuple[str, str], tuple[KeyRecord, tuple[Quota, ...]]] = {}
        self._single: dict[Quota, Quota] = {}

    def of(self, key: KeyRecord, record: ListingRecord) -> tuple[Quota, ...]:
        """Return the quotas that a call of this listing with this key is held against."""
        slug = record.listing.slug
        found = self._known.get((key.id, slug))
        if found is not None and found[0] is key:
            return found[1]
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
            self._single.clear()
        made = tuple(self._single.setdefault(quota, quota) for quota in self._make(key, slug))
        self._known[(key.id, slug)] = key, made
        return made

    def _make(self, key: KeyRecord, slug: str) -> list[Quota]:
        told = self._options
        quotas = [
            Quota(
                "key",
                f"key:{key.id}",
                key.rpm or told.key_rpm or None,
                key.tpm,
                key.concurrency or told.key_concurrency or None,
            ),
            # Members are names within their organisation; a machine's key is nobody's.
            Quota(
                "member",
                f"member:{key.org_id}:{key.member_id}",
                (told.member_rpm or None) if key.member_id else None,
            ),
            Quota(
                "organisation",
                f"org:{key.org_id}",
                told.org_rpm or None,
                told.org_tpm or None,
                told.org_concurrency or None,
            ),
            Quota("listing", f"listing:{slug}", None, None, told.listing_concurrency or None),
        ]
        return [q for q in quotas if q.rpm or q.tpm or q.concurrency]
