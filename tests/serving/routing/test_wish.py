"""What a caller may ask of endpoints, and how a mistake in it is told."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from catalog.ground.errors import BadRequest
from serving.routing import Candidate, Wish, listings_asked_for, parameters_of, parse_wish
from serving.routing.wish import objection

NOTHING: frozenset[str] = frozenset()


def _wish(**fields: Any) -> Wish:
    return parse_wish(json.dumps(fields).encode())


def _one(**fields: Any) -> Candidate:
    return Candidate(
        **({"id": "ept_1", "url": "http://e", "model": "m", "provider": "acme"} | fields)
    )


def test_every_documented_field_is_understood() -> None:
    wish = _wish(
        order=["Acme", "other"],
        only=["acme", "other"],
        ignore=["third"],
        allow_fallbacks=False,
        require_parameters=True,
        data_collection="deny",
        zdr=True,
        enforce_distillable_text=False,
        quantizations=["FP8", "int4"],
        sort={"by": "price", "partition": "model"},
        max_price={"prompt": 1.5, "completion": "2.25"},
        preferred_min_throughput=50,
        preferred_max_latency={"p50": 1, "p99": 5.5},
    )
    assert wish.order == ("acme", "other")
    assert wish.quantizations == ("fp8", "int4")
    assert wish.sorted_by == "price"
    assert wish.max_price is not None
    assert (wish.max_price.prompt, wish.max_price.completion) == (Decimal("1.5"), Decimal("2.25"))
    assert parse_wish(b"{}") == Wish() == _wish(order=None, sort=None, max_price=None)
    assert _wish(sort="latency").sorted_by == "latency"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"colour": "red"}, "provider", "`colour`"),
        ({"max_price": {"image": 1}}, "provider.max_price", "`image`"),
        ({"max_price": {"prompt": "NaN"}}, "provider.max_price", "0 to"),
        ({"max_price": {"prompt": -1}}, "provider.max_price", "0 to"),
        ({"max_price": {"prompt": "1e999999999"}}, "provider.max_price", "0 to"),
        ({"max_price": {"prompt": "cheap"}}, "provider.max_price.prompt", "decimal"),
        ({"sort": "karma"}, "provider.sort", "karma"),
        ({"sort": {"by": "price", "partition": "none"}}, "provider.sort.partition", "none"),
        ({"order": "acme"}, "provider.order", "array"),
        ({"order": ["a"] * 65}, "provider", "order may name 64"),
        ({"quantizations": ["fp7"]}, "provider", "'fp7'"),
        ({"data_collection": "maybe"}, "provider.data_collection", "maybe"),
        ({"zdr": 1}, "provider.zdr", "bool"),
        ({"enforce_distillable_text": True}, "provider", "enforce_distillable_text"),
        ({"preferred_max_latency": {"p95": 1}}, "provider.preferred_max_latency", "p95"),
    ],
)
def test_a_mistake_names_its_field(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _wish(**fields)
    assert caught.value.param == param
    assert words in caught.value.message
    assert caught.value.rule == "routing.wish"


@pytest.mark.parametrize("body", [b"", b"[", b"\xff", b"[]", b"null", b'"acme"'])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_wish(body)
    assert caught.value.param == "provider"


@pytest.mark.parametrize(
    ("asked", "candidate", "why"),
    [
        ({"only": ["acme"]}, {}, ""),
        ({"only": ["acme"]}, {"provider": "acme/turbo"}, ""),
        ({"only": ["acme/turbo"]}, {}, "only"),
        ({"only": ["acm"]}, {}, "only"),
        ({"only": []}, {}, "only"),
        ({"ignore": ["acme"]}, {"provider": "acme/turbo"}, "ignore"),
        ({"ignore": ["other"]}, {}, ""),
        ({"order": ["other"]}, {}, ""),
        ({"order": ["other"], "allow_fallbacks": False}, {}, "allow_fallbacks"),
        ({"order": ["other", "acme"], "allow_fallbacks": False}, {}, ""),
        ({"data_collection": "deny"}, {}, "data_collection"),
        ({"data_collection": "deny"}, {"data_collection": "deny"}, ""),
        ({"data_collection": "allow"}, {}, ""),
        ({"zdr": True}, {}, "zdr"),
        ({"zdr": True}, {"zdr": True}, ""),
        ({"zdr": False}, {}, ""),
        ({"quantizations": ["fp8"]}, {"quantization": "int4"}, "quantizations"),
        ({"quantizations": ["fp8", "int4"]}, {"quantization": "int4"}, ""),
        ({"quantizations": ["fp8"]}, {}, "quantizations"),
        ({"max_price": {"prompt": 2}}, {"input_u_per_m": 2_000_000}, ""),
        ({"max_price": {"prompt": "1.999999"}}, {"input_u_per_m": 2_000_000}, "max_price"),
        ({"max_price": {"prompt": 2}}, {}, "max_price"),
        ({"max_price": {"completion": 0}}, {"output_u_per_m": 1}, "max_price"),
        ({"max_price": {}}, {}, ""),
        ({"require_parameters": True}, {"supports": frozenset({"seed", "top_k"})}, ""),
        ({"require_parameters": True}, {"supports": frozenset({"seed"})}, "require_parameters"),
        ({"require_parameters": True}, {}, ""),
        ({}, {"supports": frozenset()}, ""),
    ],
)
def test_each_condition(asked: dict[str, Any], candidate: dict[str, Any], why: str) -> None:
    wanted = frozenset({"seed", "top_k"})
    found = objection(_wish(**asked), _one(**candidate), wanted)
    assert found.partition(":")[0] == why


def test_tools_are_required_even_where_nobody_says_so() -> None:
    without = _one(supports=frozenset({"seed"}))
    assert "tools" in objection(None, without, frozenset({"tools", "top_k"}))
    assert objection(None, without, frozenset({"top_k"})) == ""
    assert objection(None, _one(), frozenset({"tools"})) == ""


def test_parameters_of_a_request() -> None:
    body = b'{"model":"m","seed":1,"tools":null,"messages":[{"role":"user"}],"stop":[]}'
    assert parameters_of(body) == {"model", "seed", "messages", "stop"}


def test_a_gateway_may_decode_the_wish_in_its_own_envelope() -> None:
    class Envelope(msgspec.Struct):
        model: str
        provider: Wish | None = None

    found = msgspec.json.decode(b'{"model":"m","provider":{"zdr":true}}', type=Envelope)
    assert found.provider == Wish(zdr=True)


@pytest.mark.parametrize(
    ("model", "models", "route", "listings"),
    [
        ("a", None, None, ("a",)),
        ("a", [], "fallback", ("a",)),
        ("a", ["b", "a", "b", "c"], None, ("a", "b", "c")),
        (None, ["b", "c"], "fallback", ("b", "c")),
    ],
)
def test_other_listings_answer_only_where_asked(
    model: str | None, models: list[str] | None, route: str | None, listings: tuple[str, ...]
) -> None:
    assert listings_asked_for(model, models, route) == listings


@pytest.mark.parametrize(
    ("model", "models", "route", "param"),
    [
        (None, None, None, "model"),
        ("", [], None, "model"),
        ("a", ["b", "c", "d", "e"], None, "models"),
        ("a", None, "sort", "route"),
    ],
)
def test_listings_that_make_no_sense(
    model: str | None, models: list[str] | None, route: str | None, param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        listings_asked_for(model, models, route)
    assert caught.value.param == param
