"""What is indexed, what is asked and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Sort = Literal["relevance", "price", "popularity", "speed", "quality", "newest"]
SORTS: tuple[Sort, ...] = ("relevance", "price", "popularity", "speed", "quality", "newest")
PAGE_MAX = 100


@dataclass(frozen=True, slots=True)
class Document:
    """One thing to be found by `key`.

    A word in `name` counts more than one in `summary`, and that more than one in `body`. `facets` maps
    a facet to the values that the document has in it. The price is not here: it comes from elsewhere
    and at other times, see `index.set_price`.
    """

    key: str
    name: str
    summary: str
    body: str
    facets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    popularity: int = 0
    output_tokens_per_s: float | None = None
    quality_bp: int | None = None
    created_at_us: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """A question. `scope` bounds everything, the counts too; `filters` are what the shopper ticked.

    Both map a facet to the values allowed in it: a document needs one of them in each facet. A page
    holds `limit` keys at most, and `cursor` is the `next_cursor` of the page before.
    """

    text: str = ""
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scope: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sort: Sort = "relevance"
    limit: int = 20
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """An answer. `facets[facet][value]` counts what ticking that value would leave on the list."""

    keys: list[str]
    total: int
    facets: dict[str, dict[str, int]]
    next_cursor: str | None
