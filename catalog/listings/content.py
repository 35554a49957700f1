"""What is submitted, reviewed and then shown: one immutable document per version.

The JSON is canonical (keys sorted, no spaces, UTF-8 as it is), so that equal content has an equal
sha256 digest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from catalog.listings.tables import Listing


@dataclass(frozen=True, slots=True)
class Content:
    """The fields of a listing that shoppers see and that a review is about."""

    kind: str
    tier: str
    title_zh: str
    title_en: str
    summary_zh: str
    summary_en: str
    card_zh: str
    card_en: str
    vertical: str
    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    base_model: str | None
    licence: str | None
    parameters: int | None
    context_length: int | None
    max_output_tokens: int | None
    release_id: str | None


_PLAIN = tuple(f.name for f in fields(Content) if f.name not in ("tasks", "languages"))


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest_of(text: str) -> str:
    """Return the sha256 of the text's UTF-8 bytes, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def working_content(listing: Listing) -> Content:
    """Return the working copy, as the owner has it now."""
    plain = {name: getattr(listing, name) for name in _PLAIN}
    return Content(
        **plain,
        tasks=tuple(json.loads(listing.tasks)),
        languages=tuple(json.loads(listing.languages)),
    )


def dump(content: Content) -> str:
    """Return the canonical JSON of `content`."""
    return canonical_json(asdict(content))


def load(text: str) -> Content:
    """Return the content that `dump` wrote."""
    document = json.loads(text)
    for name in ("tasks", "languages"):
        document[name] = tuple(document[name])
    return Content(**document)
