"""The names of a call's holds lead back to the call."""

from __future__ import annotations

from marketplace.ledger.holds import LATE, MOST_TRIES, event_of, names_of, retried


def test_every_name_leads_back() -> None:
    names = names_of("gen_1")
    assert len(set(names)) == len(names) == 2 * MOST_TRIES
    assert {event_of(name) for name in names} == {"gen_1"}
    assert names[:4] == ["gen_1", "gen_1~late", "gen_1~2", "gen_1~2~late"]
    assert retried("gen_1", 1) == "gen_1"
    assert retried("gen_1", 3) + LATE in names
