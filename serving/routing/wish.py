"""What a caller asks of the endpoints that may answer: the `provider` object of a request.

Names and meanings follow OpenRouter's public pages on provider routing and its published SDK schema. Where
this house differs, it refuses rather than guesses, and says so:

- prices in `max_price` are yuan per million tokens, and only `prompt` and `completion` exist;
- `sort.partition` may only be `model`: listings are priced one by one, so they are not sorted together;
- `enforce_distillable_text: true` is refused, because no listing states it.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from typing import Literal

import msgspec

from catalog.ground.errors import BadRequest
from serving.routing.candidate import QUANTIZATIONS, Candidate

_MICRO = 1_000_000
_DEAREST = 10**6
"""Yuan per million tokens: the highest price that is worth a comparison, ¥1 a token."""
_MOST_NAMES = 64
NEEDED = frozenset({"tools", "tool_choice"})
"""Parameters without which an answer is useless: they are required even where nobody says so."""

Sorting = Literal["price", "throughput", "latency"]


class Sort(msgspec.Struct, forbid_unknown_fields=True):
    """The longer form of `sort`."""

    by: Sorting | None = None
    partition: Literal["model"] | None = None


class Percentiles(msgspec.Struct, forbid_unknown_fields=True):
    """Cutoffs that all must be met: `p90` is what nine of ten calls do at least as well as."""

    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p99: float | None = None

    def pairs(self) -> list[tuple[int, float]]:
        """Return (percentile, cutoff) of those that are set."""
        every = ((50, self.p50), (75, self.p75), (90, self.p90), (99, self.p99))
        return [(percentile, cutoff) for percentile, cutoff in every if cutoff is not None]


class MaxPrice(msgspec.Struct, forbid_unknown_fields=True):
    """The most that the caller pays, in yuan per million tokens: numbers, or numbers in strings."""

    prompt: Decimal | None = None
    completion: Decimal | None = None

    def __post_init__(self) -> None:
        for price in (self.prompt, self.completion):
            if price is not None and not (price.is_finite() and 0 <= price <= _DEAREST):
                raise ValueError(f"Expected a price from 0 to {_DEAREST} yuan per million tokens")

    def admits(self, candidate: Candidate) -> bool:
        """Return whether the candidate costs no more. An unknown price is not admitted."""
        return _within(self.prompt, candidate.input_u_per_m) and _within(
            self.completion, candidate.output_u_per_m
        )


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """The `provider` object. A slug matches a provider and its variants (`acme`: also `acme/turbo`).

    `order` are slugs to try first, in that order; without `allow_fallbacks` nobody else is tried. `only`
    and `ignore` are slugs that may and may not answer. `data_collection`, `zdr`, `quantizations`,
    `require_parameters` and `max_price` are conditions; `sort` takes the best instead of spreading the
    load; the `preferred_*` (tokens per second; seconds to the first token) put those who miss them last.
    """

    order: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    enforce_distillable_text: bool | None = None
    quantizations: tuple[str, ...] | None = None
    sort: Sorting | Sort | None = None
    max_price: MaxPrice | None = None
    preferred_min_throughput: float | Percentiles | None = None
    preferred_max_latency: float | Percentiles | None = None

    def __post_init__(self) -> None:
        for field in ("order", "only", "ignore", "quantizations"):
            names = getattr(self, field)
            if names is not None:
                if len(names) > _MOST_NAMES:
                    raise ValueError(f"{field} may name {_MOST_NAMES} at most")
                setattr(self, field, tuple(name.lower() for name in names))
        unknown = set(self.quantizations or ()) - QUANTIZATIONS
        if unknown:
            known = ", ".join(sorted(QUANTIZATIONS))
            raise ValueError(f"quantizations has {sorted(unknown)[0]!r}; known are {known}")
        if self.enforce_distillable_text:
            raise ValueError("enforce_distillable_text is not known here: no listing states it")

    @property
    def sorted_by(self) -> Sorting | None:
        """What `sort` says in either form. `order` goes before it."""
        return self.sort.by if isinstance(self.sort, Sort) else self.sort

    def position(self, provider: str) -> int:
        """Return where `order` names the provider; its length when it does not."""
        order = self.order or ()
        for at, slug in enumerate(order):
            if _is(provider, slug):
                return at
        return len(order)


def parse_wish(provider: bytes) -> Wish:
    """Return the wish of a `provider` object (JSON). Raises `BadRequest` that names the field."""
    try:
        return msgspec.json.decode(provider, type=Wish)
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$")
        raise BadRequest(
            f"provider is not valid: {words}.",
            code="invalid_value",
            param=f"provider{path.rstrip('`')}",
            rule="routing.wish",
            remedy="Leave the field out, or see the routing page for what it may be.",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"provider is not JSON: {error}.", code="invalid_json", param="provider"
        ) from None


def parameters_of(body: bytes) -> frozenset[str]:
    """Return the names of a request's fields: what `require_parameters` is about.

    Worth its microseconds only where `Wish.require_parameters` is set or an endpoint's `supports` is.
    """
    found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return frozenset(name for name, value in found.items() if bytes(value) != b"null")


def objection(wish: Wish | None, candidate: Candidate, wanted: frozenset[str]) -> str:
    """Return the field of the wish that rules the candidate out, with what it is instead; '' for none."""
    if candidate.supports is not None:
        required = wanted if wish is not None and wish.require_parameters else wanted & NEEDED
        missing = required - candidate.supports
        if missing:
            return f"require_parameters: no {', '.join(sorted(missing))}"
    if wish is None:
        return ""
    provider = candidate.provider
    if wish.only is not None and not any(_is(provider, slug) for slug in wish.only):
        return f"only: is {provider}"
    if wish.ignore and any(_is(provider, slug) for slug in wish.ignore):
        return f"ignore: is {provider}"
    if wish.order and wish.allow_fallbacks is False and wish.position(provider) == len(wish.order):
        return f"allow_fallbacks: {provider} is not in order"
    if wish.data_collection == "deny" and candidate.data_collection != "deny":
        return "data_collection: may keep prompts"
    if wish.zdr and not candidate.zdr:
        return "zdr: may keep data"
    if wish.quantizations and candidate.quantization not in wish.quantizations:
        return f"quantizations: is {candidate.quantization}"
    if wish.max_price is not None and not wish.max_price.admits(candidate):
        return "max_price: costs more"
    return ""


def _is(provider: str, slug: str) -> bool:
    return provider == slug or provider.startswith(slug + "/")


def _within(most: Decimal | None, rate_u_per_m: int | None) -> bool:
    if most is None:
        return True
    most_u = int((most * _MICRO).to_integral_value(ROUND_FLOOR))
    return rate_u_per_m is not None and rate_u_per_m <= most_u
