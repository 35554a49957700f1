"""Errors, ids and the clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from catalog.ground import errors
from catalog.ground.clock import SetClock, from_datetime, to_datetime, to_iso
from catalog.ground.errors import PaymentRequired, RateLimited, TokenMartError, Unauthenticated
from catalog.ground.ids import new_id, ulid
from catalog.ground.rendering import render_openai, render_problem


def _categories() -> list[type[TokenMartError]]:
    found, todo = [], [TokenMartError]
    while todo:
        todo += (kind := todo.pop()).__subclasses__()
        found.append(kind)
    return found[1:]


def test_every_error_is_drawn_on_the_page_with_its_status() -> None:
    for kind in _categories():
        assert f"{kind.__name__} " in (errors.__doc__ or "")
        line = next(
            x for x in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in f" {x} "
        )
        assert f" {kind.status} " in line


def test_the_base_cannot_be_raised() -> None:
    with pytest.raises(TypeError):
        TokenMartError("vague")


def test_both_renderings_carry_rule_remedy_and_details() -> None:
    error = PaymentRequired("No.", rule="a.b", remedy="Do.", details={"required_u": 7})
    told = json.loads(render_openai(error).body)["error"]
    assert told["message"] == "No. Do."
    assert (told["rule"], told["required_u"], told["code"]) == ("a.b", 7, "insufficient_quota")
    problem = json.loads(render_problem(error).body)
    assert (problem["status"], problem["detail"], problem["remedy"]) == (402, "No.", "Do.")


def test_headers_that_clients_act_on() -> None:
    headers = render_openai(RateLimited("Slow.", retry_after_s=0.2)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "200")
    left = RateLimited("Slow.", headers={"x-ratelimit-remaining-requests": "0"})
    assert render_openai(left).headers["x-ratelimit-remaining-requests"] == "0"
    assert "www-authenticate" in render_openai(Unauthenticated("Who?")).headers


def test_a_stranger_error_gives_nothing_away() -> None:
    rendered = render_openai(ValueError("/secret/path"))
    assert rendered.status == 500
    assert b"secret" not in rendered.body


def test_ids_sort_by_time_and_never_meet() -> None:
    early, late = ulid(1_000), ulid(2_000)
    assert early < late
    assert len({new_id("gen") for _ in range(10_000)}) == 10_000
    assert len(ulid()) == 26


def test_instants_survive_the_way_there_and_back() -> None:
    moment = datetime(2026, 11, 22, 8, 30, 15, 123_000, tzinfo=UTC)
    assert to_datetime(from_datetime(moment)) == moment
    assert to_iso(from_datetime(moment)) == "2026-11-22T08:30:15.123Z"
    with pytest.raises(ValueError, match="zone"):
        from_datetime(datetime(2026, 1, 1))
    clock = SetClock(5)
    clock.advance(-2)
    assert clock() == 3
