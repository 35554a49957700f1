"""What the compiled part takes of requests is read and written as Python does; the rest it leaves.

`compare_requests` takes any number of cases; the tests run a few thousand.
"""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chance_json import WORDS, dumped, mutated, value

from catalog.ground.errors import TokenMartError
from catalog.listings.callable import CallableListing
from marketplace.gateway.money import Books, Call
from marketplace.gateway.records import EndpointRecord, KeyRecord, ListingRecord, OrgLadder
from marketplace.gateway.shapes import CHAT, Talk, names_asked_for
from marketplace.prices.components import Components
from marketplace.vouchers.ladder import Ladder

_core = pytest.importorskip("marketplace.gateway.express._core")

ENDPOINT = EndpointRecord(id="end_1", url="http://127.0.0.1:1", model='made/"Modell" 模型-7b')
LISTING = CallableListing(
    id="lst_1",
    slug="made/model",
    kind="chat",
    state="listed",
    tier="public",
    owner_org="org_2",
    version=1,
    release_id=None,
    context_length=4096,
    max_output_tokens=None,
    until_us=None,
    deprecated_at_us=None,
)


def call_of(talk: Talk, max_tokens: int) -> Call:
    """Return the call that `hot` would make of a request."""
    price = Components(input_u_per_m=1, output_u_per_m=1)
    record = ListingRecord(LISTING, "prv_1", price, "{}", 1 << 60, 7, 0, (ENDPOINT,))
    return Call(
        id="gen_1",
        key=KeyRecord.of_organisation("org_1", "one"),
        record=record,
        payer=OrgLadder(Ladder((), (), 9), (9,), {}, 1 << 60, 0),
        books=Books(1, 2, 3, 4, 5),
        input_tokens=len(talk.body) + 64,
        choices=talk.choices,
        max_tokens=max_tokens,
        started_at_us=1,
        streamed=talk.has_output and bool(talk.envelope.stream),
        request_sha256="",
        endpoint=ENDPOINT,
    )


def check_request(body: bytes) -> bool:
    """Compare one request; return whether the compiled part takes it."""
    told = _core.read_request(body)
    if told is None:
        assert _core.write_request(body, b'"x"', 1) is None
        return False
    talk = Talk(CHAT, body)
    envelope = talk.envelope
    assert told["fields"] == [(k.encode(), bytes(v)) for k, v in talk.fields.items()]
    assert names_asked_for(envelope) == (told["model"],)
    assert told["stream"] is bool(envelope.stream)
    assert told["include_usage"] is envelope.wants_usage
    assert told["max_tokens"] == (envelope.asked_max_tokens or 0)
    assert (talk.choices, talk.media, talk.brings_more, talk.wish) == (1, 0, False, None)
    # All of it is JSON to every reader, not only what Python's gateway looks at.
    document = json.loads(body.decode())
    assert msgspec.json.decode(body) == document
    for max_tokens in (told["max_tokens"] or 1024, 1):
        path, written = talk.request_for(ENDPOINT, call_of(talk, max_tokens))
        assert path == CHAT
        assert _core.write_request(body, msgspec.json.encode(ENDPOINT.model), max_tokens) == written
    return True


# Requests of every kind.

ORDINARY = [
    "temperature", "top_p", "tools", "tool_choice", "stop", "seed", "user", "presence_penalty",
    "frequency_penalty", "response_format", "reasoning_effort", "chat_template_kwargs",
    "logprobs", "parallel_tool_calls", "safety_identifier", "top_logprobs", "logit_bias",
    "metadata", "verbosity", "top_k", "min_p", "repetition_penalty", "stop_token_ids",
    "min_tokens", "ignore_eos",
]  # fmt: skip
NEVER = [
    "models", "route", "provider", "n_predict", "n_cmpl", "max_output_tokens", "best_of", "echo",
    "audio", "modalities", "prediction", "web_search_options", "service_tier", "store", "prompt",
    "input", "x", "",
]  # fmt: skip
BOUNDS: list[Any] = [
    None, 1, 7, 4096, 10_000_000, 10_000_001, 0, -1, 1.0, 16.5, True, "16", 10**20, 1e3, [1],
]  # fmt: skip
EITHER: list[Any] = [None, True, False, 0, 1, "true", {}]


def plain_request(chance: random.Random) -> dict[str, Any]:
    """Return a request that has to be taken."""
    body: dict[str, Any] = {
        "model": chance.choice(["made/model", "a", "x:free", "model-7b.awq"]),
        "messages": [{"role": "user", "content": chance.choice(WORDS[:4])} for _ in range(2)],
    }
    if chance.random() < 0.5:
        body["stream"] = chance.choice([True, False, None])
    if chance.random() < 0.3:
        body["stream_options"] = chance.choice(
            [{"include_usage": True}, {"include_usage": False}, {}, None]
        )
    for name in ("max_tokens", "max_completion_tokens"):
        if chance.random() < 0.3:
            body[name] = chance.choice(BOUNDS[:5])
    for name in chance.sample(ORDINARY, chance.randrange(4)):
        body[name] = chance.choice([None, 0, 0.7, "a", ["a", "b"], {"a": {"type": "object"}}, True])
    if chance.random() < 0.2:
        body["n"] = chance.choice([1, None])
    if chance.random() < 0.2:
        body["prompt_cache_key"] = chance.choice(["a", None])
    items = list(body.items())
    chance.shuffle(items)
    return dict(items)


def odd_request(chance: random.Random) -> dict[str, Any]:
    """Return a request with a few members that may be anything."""
    body = plain_request(chance)
    for _ in range(chance.randrange(4)):
        kind = chance.randrange(9)
        if kind == 0:
            body[chance.choice(ORDINARY)] = value(chance)
        elif kind == 1:
            body["messages"] = (
                value(chance) if chance.random() < 0.3 else [value(chance) for _ in range(3)]
            )
        elif kind == 2:
            body[chance.choice(["max_tokens", "max_completion_tokens"])] = chance.choice(BOUNDS)
        elif kind == 3:
            body[chance.choice(["n", "stream", "model", "prompt_cache_key", "stream_options"])] = (
                chance.choice([*EITHER, *BOUNDS, value(chance)])
            )
        elif kind == 4:
            body["stream_options"] = {
                "include_usage": chance.choice(EITHER),
                chance.choice(["continuous_usage_stats", "x"]): chance.choice(
                    [*EITHER, value(chance)]
                ),
            }
        elif kind == 5:
            body[chance.choice(NEVER)] = value(chance)
        elif kind == 6:
            body.pop(chance.choice([*body, ""]), None)
        elif kind == 7:
            part = {
                "type": chance.choice(["image", "file", "text", "image_url"]),
                "image_url": value(chance),
            }
            body["messages"] = [{"role": "user", "content": [part]}]
        else:
            body["metadata"] = {chance.choice(WORDS): chance.choice(WORDS)}
    return body


def compare_requests(seed: int, cases: int) -> int:
    """Compare so many requests; return how many were taken."""
    chance = random.Random(seed)
    taken = 0
    for _ in range(cases):
        kind = chance.randrange(3)
        if kind == 0:
            body = dumped(chance, plain_request(chance))
            assert check_request(body), body
            taken += 1
            continue
        body = dumped(chance, odd_request(chance) if kind == 1 else plain_request(chance))
        if chance.random() < 0.7:
            body = mutated(chance, body)
        taken += check_request(body)
    return taken


def test_requests_are_read_and_written_as_python_does() -> None:
    taken = compare_requests(7, 4000)
    assert 2000 < taken < 3600


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(JSON, max_size=4),
    st.dictionaries(st.sampled_from(ORDINARY), JSON, max_size=5),
    st.booleans(),
)
def test_any_content_passes_through(messages: list[Any], more: dict[str, Any], ascii: bool) -> None:
    body = {"model": "made/model", "messages": messages} | more
    check_request(json.dumps(body, ensure_ascii=ascii).encode())


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_are_taken_or_left(data: bytes) -> None:
    assert not check_request(data)
    check_request(b'{"model":"m","messages":[' + data + b"]}")
    check_request(b'{"model":"m","messages":["' + data + b'"]}')


MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    "more",
    [
        *(b'"%s":null' % name.encode() for name in NEVER),
        b'"n":2',
        b'"n":1.0',
        b'"model":"b"',
        b'"max_tokens":0',
        b'"max_tokens":10000001',
        b'"max_tokens":16.0',
        b'"max_tokens":1e2',
        b'"max_tokens":-1',
        b'"max_tokens":01',
        b'"max_tokens":"5"',
        b'"max_tokens":5,"max_tokens":6',
        b'"stream":1',
        b'"stream_options":{"include_usage":null}',
        b'"stream_options":{"include_usage":true,"include_usage":false}',
        b'"stream_options":{"includ\\u0065_usage":true}',
        b'"stream_options":[]',
        b'"temper\\u0061ture":1',
        b'"temperature":1e400',
        b'"seed":123456789012345678901',
        b'"user":"\xff"',
        b'"user":"\\ud800"',
        b'"user":"\\ud83d\\u0041"',
        b'"user":"\n"',
        b'"tools":' + b"[" * 65 + b"]" * 65,
        b'"tools":[],"metadata":{"image_url":1}',
        b'"tools":[{"type" : "file"}]',
        b'"tools":[],"metadata":{"t\\u0079pe":"image"}',
        b'"stop":["x\\"input_audio"]',
        b'"stop":["a",]',
        b'"stop":["a"],',
    ],
)
def test_what_is_not_ordinary_is_left(more: bytes) -> None:
    assert not check_request(b'{"model":"a",%b,%b}' % (MESSAGES, more))
    assert not check_request(b'{%b,"model":"a",%b}' % (more, MESSAGES))


@pytest.mark.parametrize(
    "more",
    [
        b'"stop":"x\\"input_audio"',  # the only list is that of the messages
        b'"metadata":{"image_url":"type"}',
        b'"stop":["\\"input_audio\\"", "input_audio.", "image_ur", "\\u0022image_url\\u0022"]',
        b'"tools":[{"type":"function"}],"metadata":{"x":"image"}',
        b'"tools":' + b"[" * 62 + b"]" * 62,
        b'"seed":999999999999999999,"user":"\\ud83d\\ude00\xf0\x9f\x98\x80"',
        b'"max_tokens":null,"max_completion_tokens":10000000,"stream":null,"n":null',
        b'"stream":false,"stream_options":{"continuous_usage_stats":false,"include_usage":true}',
    ],
)
def test_what_is_ordinary_is_taken(more: bytes) -> None:
    assert check_request(b'{"model":"a",%b,%b}' % (MESSAGES, more))
    assert check_request(b' {\t%b ,"model":"a"\n,%b\r}\n' % (more, MESSAGES))


def test_every_prefix_of_a_request_is_left() -> None:
    body = b'{"model":"a",%b,"temperature":-1.5e+3,"user":"\\ud83d\\ude00 \\n"}' % MESSAGES
    assert check_request(body)
    assert not any(check_request(body[:size]) for size in range(len(body)))


def test_an_error_of_python_is_an_error() -> None:
    with pytest.raises(TokenMartError):
        Talk(CHAT, b"[]")
