"""Asking twice: whose key it is, what is the same request, and which answers are kept."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledger_world import T0, World

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, Unprocessable
from catalog.ground.rendering import render_openai
from marketplace.gateway.answers import recall, remember, sweep
from marketplace.gateway.idempotency import (
    Answer,
    answer_gone,
    expect_same,
    fingerprint,
    generation_id,
    still_running,
)
from marketplace.gateway.lookup import Lookup
from marketplace.gateway.replays import Asked, Kept

AT_US = 1_800_000_000_000_000
ASKED = fingerprint("/v1/chat/completions", b'{"model":"m"}')
ANSWER = Answer(ASKED, 200, "application/json", b'{"id":"gen_\xe5\x85\x83\x00"}', AT_US)


def test_the_id_never_changes_once_it_is_out() -> None:
    assert generation_id("org_A", b"key-1") == "gen_6CRQF0R7CSRXPMQTVXXA8MXV7W"


@given(key=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_every_printable_key_gives_an_id_like_any_other(key: str) -> None:
    found = generation_id("org_A", key.encode())
    assert re.fullmatch(r"gen_[0-7][0-9A-HJKMNP-TV-Z]{25}", found)
    assert found == generation_id("org_A", key.encode())


def test_a_key_belongs_to_its_organisation() -> None:
    pairs = [("org_A", b"k"), ("org_B", b"k"), ("org_A", b"K"), ("org_A", b"k "), ("org_Ak", b"k")]
    assert len({generation_id(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"a\nb", b"a\x00", b"\x7f", "钥匙".encode()])
def test_other_keys_are_refused(key: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        generation_id("org_A", key)
    assert caught.value.rule == "idempotency.key"
    assert caught.value.remedy


def test_another_path_or_body_is_another_request() -> None:
    requests = [("/v1/a", b"b"), ("/v1/a", b"c"), ("/v1/b", b"b"), ("/v1/ab", b"")]
    assert len({fingerprint(*request) for request in requests}) == len(requests)
    expect_same(ASKED, ASKED)
    with pytest.raises(Unprocessable) as caught:
        expect_same(ASKED, fingerprint("/v1/chat/completions", b"{}"))
    assert (caught.value.status, caught.value.rule) == (422, "idempotency.same_request")


def test_what_a_client_is_told_to_do_next() -> None:
    running = render_openai(still_running())
    assert (running.status, running.headers["retry-after"]) == (409, "1")
    gone = render_openai(answer_gone("gen_1"))
    assert (gone.status, gone.headers["x-should-retry"]) == (409, "false")
    assert b"/v1/generation/gen_1" in gone.body


def test_an_answer_comes_back_byte_for_byte(database: Database) -> None:
    with database.session() as session:
        assert recall(session, "gen_1", "org_A", ASKED, AT_US) is None
        assert remember(session, "gen_1", "org_A", ANSWER)
    with database.reading() as session:
        assert recall(session, "gen_1", "org_A", ASKED, AT_US) == ANSWER
        assert recall(session, "gen_1", "org_B", ASKED, AT_US) is None
        with pytest.raises(Unprocessable):
            recall(session, "gen_1", "org_A", fingerprint("/v1/completions", b""), AT_US)


def test_the_first_answer_stays(database: Database) -> None:
    second = Answer(ASKED, 500, "text/plain", b"", AT_US + 1)
    with database.session() as session:
        assert remember(session, "gen_1", "org_A", ANSWER)
        assert not remember(session, "gen_1", "org_A", second)
    with database.reading() as session:
        assert recall(session, "gen_1", "org_A", ASKED, AT_US) == ANSWER


def test_answers_end_and_are_swept_in_small_steps(database: Database) -> None:
    with database.session() as session:
        for number in range(5):
            remember(session, f"gen_{number}", "org_A", ANSWER)
        remember(session, "gen_kept", "org_A", ANSWER, kept_us=2 * DAY_US)
    due_us = AT_US + DAY_US
    with database.session() as session:
        assert recall(session, "gen_1", "org_A", ASKED, due_us - 1) == ANSWER
        assert recall(session, "gen_1", "org_A", ASKED, due_us) is None
        assert [sweep(session, due_us - 1), sweep(session, due_us, most=3)] == [0, 3]
        assert [sweep(session, due_us, most=3), sweep(session, due_us)] == [2, 0]
        assert recall(session, "gen_kept", "org_A", ASKED, due_us) == ANSWER


def _settled(database: Database, event_id: str) -> None:
    world = World(database)
    wallet = world.account("wallet:a", 100)
    world.do(world.hold(event_id, (wallet, 20)))
    world.do(world.settle(event_id, [15], wallet=15, voucher=0))
    world.close()


def test_what_a_try_left_that_was_never_charged_replaces_no_charged_answer(
    database: Database,
) -> None:
    lookup, asked = Lookup(database), Asked("gen_1", "org", ASKED, T0)
    lookup.remember(Kept(asked, "application/json", b"a try that came to nothing"))
    assert lookup.recall(asked) is None
    lookup.remember(Kept(asked, "application/json", b"the next one"))
    _settled(database, "gen_1")
    lookup.remember(Kept(asked, "application/json", b"the first one, which had stood still"))
    found = lookup.recall(asked)
    assert found is not None
    assert found.body == b"the next one"


@pytest.mark.parametrize("left", [False, True])
def test_a_charged_call_whose_answer_was_not_kept_is_not_made_again(
    database: Database, left: bool
) -> None:
    """Nor is it answered with what an earlier try has left, which was never charged."""
    if left:
        earlier = Asked("gen_1", "org", ASKED, T0 - 1)
        Lookup(database).remember(Kept(earlier, "application/json", b"a try that came to nothing"))
    _settled(database, "gen_1")
    with pytest.raises(Conflict) as caught:
        Lookup(database).recall(Asked("gen_1", "org", ASKED, T0))
    assert caught.value.code == answer_gone("gen_1").code
