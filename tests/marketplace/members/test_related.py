"""Related parties: an equivalence on each day, whatever the order of the links."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest
from marketplace.members.related import Link, are_related, check_link, groups, related_to, why

LINKS = [
    Link("a", "b", "shareholding", 0, None, 5_100),
    Link("b", "c", "family", 10, 20),
    Link("d", "c", "same_controller", 0),
    Link("d", "e", "shareholding", 0, None, 2_499),
]


def test_through_others_and_by_date() -> None:
    assert related_to("a", LINKS, 10) == {"b", "c", "d"}
    assert related_to("a", LINKS, 9) == {"b"}
    assert related_to("a", LINKS, 20) == {"b"}
    assert are_related("d", "a", LINKS, 19)
    assert are_related("x", "x", [], 0)
    assert not are_related("x", "a", LINKS, 10)


def test_a_small_holding_is_no_influence_unless_a_programme_says_so() -> None:
    assert not are_related("d", "e", LINKS, 0)
    assert are_related("d", "e", LINKS, 0, influence_bp=2_000)


def test_the_reason_is_a_shortest_chain() -> None:
    assert [link.kind for link in why("a", "d", LINKS, 10)] == [
        "shareholding",
        "family",
        "same_controller",
    ]
    assert why("a", "e", LINKS, 10) == why("a", "a", LINKS, 10) == ()


_parties = st.sampled_from("abcdef")
_links = st.lists(
    st.builds(
        Link,
        _parties,
        _parties,
        st.sampled_from(["shareholding", "control", "family"]),
        st.integers(0, 10),
        st.one_of(st.none(), st.integers(0, 10)),
        st.sampled_from([1_000, 2_500, 10_000]),
    ),
    max_size=8,
)


@given(_links, st.integers(0, 11))
def test_groups_are_what_repeated_joining_gives(links: list[Link], at_us: int) -> None:
    group = {party: {party} for party in "abcdef"}
    for link in links * 6:
        in_force = link.from_us <= at_us and (link.to_us is None or at_us < link.to_us)
        if in_force and (link.kind != "shareholding" or link.holding_bp >= 2_500):
            joined = group[link.first] | group[link.second]
            for party in joined:
                group[party] = joined
    found = groups(links, at_us)
    for party in "abcdef":
        assert found.get(party, frozenset({party})) == group[party]
        assert related_to(party, links, at_us) == group[party] - {party}
        for other in group[party] - {party}:
            chain = why(party, other, links, at_us)
            assert {party, other} <= {end for link in chain for end in (link.first, link.second)}


@pytest.mark.parametrize(
    "link",
    [
        Link("a", "a", "family", 0),
        Link("a", "b", "friends", 0),  # type: ignore[arg-type]
        Link("a", "b", "shareholding", 0, None, 0),
        Link("a", "b", "control", 5, 5),
    ],
)
def test_links_that_cannot_be(link: Link) -> None:
    with pytest.raises(BadRequest):
        check_link(link)
