"""Who backs the next part of a grant, letter by letter, when a funder may run out on the way.

A grant's micro-yuan are numbered; `split` says which funder each belongs to. Issuing takes the numbers
from the grant's end on out of the pools, so a funder that cannot pay its next one is exhausted there:

    stop             nothing beyond it is issued
    rescale          from there on the others pay its share, in proportion to their own
    platform_covers  from there on the platform pays its share

The change is a new epoch of the grant's split, at that number. What was issued before stays backed by
those who backed it, so no use, refund or lapse has to know of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from catalog.ground.units import WHOLE_BP
from marketplace.vouchers.ladder import largest
from marketplace.vouchers.split import FunderSplit, Shares

Exhausted = Literal["stop", "rescale", "platform_covers"]
Epochs = Sequence[tuple[int, Shares]]


class Backed(NamedTuple):
    """What can be issued: `amount_u`, each funder's part of it, and the split's epochs afterwards.

    `platform_u` of it is the platform's to appropriate first (mode `platform_covers`).
    """

    amount_u: int
    parts: dict[str, int]
    epochs: Epochs
    platform_u: int


def back(
    epochs: Epochs,
    from_u: int,
    amount_u: int,
    pools: Mapping[str, int],
    mode: Exhausted,
    platform: str,
) -> Backed:
    """Return how the micro-yuan `from_u` to `from_u + amount_u` of a grant are backed by the pools.

    `platform` is the funder that covers without bound in mode `platform_covers`. The result may be
    smaller than asked for: 0 when nobody is left.
    """
    end_u = from_u + amount_u
    while True:
        split = FunderSplit(epochs)
        reach = _reach(split, from_u, end_u, pools, mode, platform)
        parts = dict(zip(split.funders, split.between(from_u, reach), strict=True))
        if reach == end_u or mode == "stop":
            return _backed(reach - from_u, parts, epochs, pools, platform)
        short = _short(split, reach)
        shares = _without(epochs[-1][1], short, mode, platform)
        if not shares:
            return _backed(reach - from_u, parts, epochs, pools, platform)
        epochs = split.then(reach, shares)


def _reach(
    split: FunderSplit,
    from_u: int,
    end_u: int,
    pools: Mapping[str, int],
    mode: Exhausted,
    platform: str,
) -> int:
    def fits(count: int) -> bool:
        parts = zip(split.funders, split.between(from_u, from_u + count), strict=True)
        return all(
            part <= pools.get(funder, 0) or (mode == "platform_covers" and funder == platform)
            for funder, part in parts
        )

    return from_u + largest(fits, end_u - from_u)


def _short(split: FunderSplit, at_u: int) -> str:
    """Return the funder that the next micro-yuan belongs to: it has nothing left for it."""
    following = zip(split.funders, split.between(at_u, at_u + 1), strict=True)
    return next(funder for funder, letter in following if letter)


def _without(shares: Shares, short: str, mode: Exhausted, platform: str) -> Shares:
    share_bp = dict(shares)[short]
    others = [(funder, bp) for funder, bp in shares if funder != short and bp]
    if mode == "platform_covers":
        covered = dict(others)
        covered[platform] = covered.get(platform, 0) + share_bp
        return tuple(covered.items())
    return _rescaled(others)


def _rescaled(shares: Sequence[tuple[str, int]]) -> Shares:
    """Return the shares in proportion, 10,000 in all; the largest remainders take what is left over."""
    total = sum(bp for _, bp in shares)
    if not total:
        return ()
    floors = [bp * WHOLE_BP // total for _, bp in shares]
    left = WHOLE_BP - sum(floors)
    order = sorted(range(len(shares)), key=lambda i: (-(shares[i][1] * WHOLE_BP % total), i))
    for i in order[:left]:
        floors[i] += 1
    return tuple((funder, bp) for (funder, _), bp in zip(shares, floors, strict=True))


def _backed(
    amount_u: int,
    parts: dict[str, int],
    epochs: Epochs,
    pools: Mapping[str, int],
    platform: str,
) -> Backed:
    covered = max(0, parts.get(platform, 0) - pools.get(platform, 0))
    return Backed(amount_u, {f: part for f, part in parts.items() if part}, epochs, covered)
