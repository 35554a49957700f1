"""Related parties: who belongs together, followed through any number of links, on a given day.

A subsidy must not flow between them, so the relation is read strictly: a link works both ways, and
whoever is linked to somebody who is linked is related too. Of shareholdings only those that carry
influence count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from catalog.ground.errors import BadRequest
from catalog.ground.units import WHOLE_BP

LinkKind = Literal["shareholding", "control", "same_controller", "family", "declared"]
INFLUENCE_BP = 2_500
"""The share from which on a holder counts as related, unless the caller sets another: 25 %, as in the tax
authority's rules on related parties (国家税务总局公告2016年第42号, article 2)."""


class Link(NamedTuple):
    """Two parties and what joins them, from `from_us` on, before `to_us` (None: still).

    `holding_bp` is the share of a shareholding, and meaningless for the other kinds.
    """

    first: str
    second: str
    kind: LinkKind
    from_us: int
    to_us: int | None = None
    holding_bp: int = WHOLE_BP


Graph = dict[str, list[tuple[str, Link]]]


def check_link(link: Link) -> None:
    """Raise BadRequest for a link that cannot be."""
    if link.first == link.second:
        raise BadRequest("A party is not linked to itself.", rule="party_link.self")
    if link.kind not in get_args(LinkKind):
        raise BadRequest(
            f"{link.kind!r} is not a kind of link.",
            rule="party_link.kind",
            remedy=f"Use {', '.join(get_args(LinkKind))}.",
        )
    if not 0 < link.holding_bp <= WHOLE_BP:
        raise BadRequest("A holding is 1 to 10,000 bp.", rule="party_link.holding")
    if link.to_us is not None and link.to_us <= link.from_us:
        raise BadRequest("The link ends before it begins.", rule="party_link.period")


def graph_at(links: Iterable[Link], at_us: int, influence_bp: int = INFLUENCE_BP) -> Graph:
    """Return who is linked to whom at the instant, both ways."""
    graph: Graph = {}
    for link in links:
        in_force = link.from_us <= at_us and (link.to_us is None or at_us < link.to_us)
        counts = link.kind != "shareholding" or link.holding_bp >= influence_bp
        if in_force and counts and link.first != link.second:
            graph.setdefault(link.first, []).append((link.second, link))
            graph.setdefault(link.second, []).append((link.first, link))
    return graph


def related_to(
    party: str, links: Iterable[Link], at_us: int, influence_bp: int = INFLUENCE_BP
) -> frozenset[str]:
    """Return everybody related to the party at the instant, however far; without the party itself."""
    return frozenset(_paths(party, graph_at(links, at_us, influence_bp))) - {party}


def are_related(
    first: str, second: str, links: Iterable[Link], at_us: int, influence_bp: int = INFLUENCE_BP
) -> bool:
    """Return whether the two are related at the instant; a party is related to itself."""
    return first == second or second in related_to(first, links, at_us, influence_bp)


def groups(
    links: Iterable[Link], at_us: int, influence_bp: int = INFLUENCE_BP
) -> dict[str, frozenset[str]]:
    """Return for each linked party the whole group that it belongs to, itself included."""
    graph = graph_at(links, at_us, influence_bp)
    found: dict[str, frozenset[str]] = {}
    for party in graph:
        if party not in found:
            group = frozenset(_paths(party, graph))
            found.update(dict.fromkeys(group, group))
    return found


def why(
    first: str, second: str, links: Iterable[Link], at_us: int, influence_bp: int = INFLUENCE_BP
) -> tuple[Link, ...]:
    """Return a shortest chain of links from one to the other, for the reason shown; empty if none."""
    graph = graph_at(links, at_us, influence_bp)
    paths = _paths(first, graph)
    chain: list[Link] = []
    at = second
    while at != first and at in paths:
        before, link = paths[at]
        if link is None:
            break
        chain.append(link)
        at = before
    return tuple(reversed(chain))


def _paths(start: str, graph: Graph) -> dict[str, tuple[str, Link | None]]:
    """Return all parties in reach, each with the one it was reached from: nearest first."""
    reached: dict[str, tuple[str, Link | None]] = {start: (start, None)}
    queue = deque([start])
    while queue:
        party = queue.popleft()
        for other, link in graph.get(party, ()):
            if other not in reached:
                reached[other] = (party, link)
                queue.append(other)
    return reached
