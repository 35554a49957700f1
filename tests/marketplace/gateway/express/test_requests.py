"""What the compiled part takes of requests and usage is read and written as Python does; the rest it leaves.

`compare_requests` and `compare_usage` take any number of cases; the tests run a few thousand.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.errors import TokenMartError, UpstreamFailed
from catalog.listings.callable import CallableListing
from marketplace.gateway.money import Books, Call
from marketplace.gateway.records import EndpointRecord, KeyRecord, ListingRecord, OrgLadder
from marketplace.gateway.shapes import CHAT, Talk, names_asked_for
from marketplace.gateway.usage import usage_of
from marketplace.prices.components import Components
from marketplace.prices.usage import read_usage
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

WORDS = [
    "a",
    "red shirt",
    "红色",
    "😀",
    "[",
    "]]",
    'say "no"',
    "\\",
    "\n",
    "\x7f",
    "image_url",
    '"image_url',
    "",
]
WORDS += [
    "type",
    '"type',
    "image",
    "file",
    "/",
    "<b>",
    "\u2028",
    "long " * 30,
    "nul\x00",
    'x\\"input_file',
]
NUMBERS = [0, 1, -1, 0.5, 1e20, 1e-7, 10**18, 10**18 - 1, 2**63, 2**64, 10**30, -0.0, 1.5e300, 3]


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(9 if depth < 4 else 6)
    if kind < 2:
        return "".join(chance.choices(WORDS, k=chance.randrange(4)))
    if kind < 4:
        return chance.choice([*NUMBERS, chance.random(), chance.randrange(1 << 40)])
    if kind < 6:
        return chance.choice([None, True, False, {}, []])
    if kind < 8:
        names = ["type", "name", "a", "image_url", *WORDS]
        return {chance.choice(names): value(chance, depth + 1) for _ in range(chance.randrange(4))}
    return [value(chance, depth + 1) for _ in range(chance.randrange(4))]


ORDINARY = [
    "temperature",
    "top_p",
    "tools",
    "tool_choice",
    "stop",
    "seed",
    "user",
    "presence_penalty",
]
ORDINARY += [
    "frequency_penalty",
    "response_format",
    "reasoning_effort",
    "chat_template_kwargs",
    "logprobs",
]
ORDINARY += [
    "parallel_tool_calls",
    "safety_identifier",
    "top_logprobs",
    "logit_bias",
    "metadata",
    "verbosity",
]
ORDINARY += ["top_k", "min_p", "repetition_penalty", "stop_token_ids", "min_tokens", "ignore_eos"]
NEVER = [
    "models",
    "route",
    "provider",
    "n_predict",
    "n_cmpl",
    "max_output_tokens",
    "best_of",
    "echo",
    "audio",
]
NEVER += [
    "modalities",
    "prediction",
    "web_search_options",
    "service_tier",
    "store",
    "prompt",
    "input",
    "x",
    "",
]
BOUNDS: list[Any] = [
    None,
    1,
    7,
    4096,
    10_000_000,
    10_000_001,
    0,
    -1,
    1.0,
    16.5,
    True,
    "16",
    10**20,
    1e3,
    [1],
]
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


def dumped(chance: random.Random, body: Any) -> bytes:
    text = json.dumps(
        body,
        ensure_ascii=chance.random() < 0.5,
        separators=chance.choice([(",", ":"), (", ", ": "), (" ,\t", "\r\n:\n")]),
        indent=chance.choice([None, None, 1]),
    )
    return (
        chance.choice(["", "", " ", "\n\t"]) + text + chance.choice(["", "", "\n", " \r\n"])
    ).encode()


PIECES = [
    b'"',
    b"\\",
    b"\\u0061",
    b"\\u0041",
    b"\\u00e9",
    b"\\ud83d\\ude00",
    b"\\ud83d",
    b"\\udc00",
    b"\\u00",
]
PIECES += [
    b"\\ud800\\u0041",
    b"\\x",
    b"\\/",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"1e400",
    b"1e-400",
    b"-",
    b"0",
]
PIECES += [
    b"00",
    b"01",
    b"-0",
    b"1.",
    b".5",
    b"1e5",
    b"1E+05",
    b"9" * 19,
    b"9" * 400,
    b"null",
    b"true",
    b"nul",
]
PIECES += [
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe4\xb8",
    b"\x00",
    b"\x1f",
    b"\x7f",
]
PIECES += [
    b"\xef\xbb\xbf",
    b" ",
    b"\n",
    b"\x0b",
    b"\xc2\xa0",
    b"[" * 70,
    b"[" * 1200,
    b'{"a":' * 70,
]
PIECES += [
    b'"image_url"',
    b'"type":"image"',
    b'"type" :\n"file"',
    b'\\"input_file"',
    b'"input_audio":1,',
]
PIECES += [
    b',"model":"x"',
    b',"models":[]',
    b',"max_tokens":5',
    b',"mod\\u0065l":"x"',
    b',"n":2',
    b',"n":1',
]
PIECES += [
    b"NaN",
    b"Infinity",
    b"/**/",
    b"'",
    b'"\\u0074ype":"image"',
    b'"\\\\u0074ype":"image"',
    b"[[",
    b"[]",
]


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Return bytes with a few places changed."""
    body = bytearray(data)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 5])):
        at = chance.randrange(len(body) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            body[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            body[at:at] = chance.choice(PIECES)
        elif kind == 2:
            body[at : at + chance.randrange(4)] = chance.choice(PIECES)
        elif kind == 3:
            del body[at : at + chance.randrange(8)]
        elif kind == 4:
            start = chance.randrange(len(body) + 1)
            body[at:at] = body[start : start + chance.randrange(40)]
        else:
            where = body.find(chance.choice([b'"', b":", b"[", b",", b"}"]), at)
            if where >= 0:
                body[where + 1 : where + 1] = chance.choice(PIECES)
    return bytes(body)


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


# Usage.

COUNTS: list[Any] = [
    0,
    1,
    2,
    3,
    5,
    5,
    8,
    13,
    10**9,
    10**9 + 1,
    2 * 10**9,
    None,
    -1,
    2.0,
    2.5,
    True,
    "3",
    [],
    {},
]
NAMES = ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"]
RARE = ["cache_read_input_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens", "x"]
DETAILS = ["prompt_tokens_details", "input_tokens_details", "completion_tokens_details"]
DETAILS += ["output_tokens_details"]
INNER = ["cached_tokens", "cache_write_tokens", "cache_creation_tokens", "created_cache_tokens"]
INNER += ["reasoning_tokens", "audio_tokens"]


def usage_object(chance: random.Random) -> dict[str, Any]:
    odd = chance.random() < 0.3
    counts, parts = (COUNTS, COUNTS) if odd else (COUNTS[2:9], COUNTS[:3])
    usage: dict[str, Any] = {
        name: chance.choice(counts) for name in chance.choice([NAMES[:3], NAMES[3:], NAMES])
    }
    if chance.random() < 0.9:
        given = usage.get("prompt_tokens", usage.get("input_tokens"))
        answer = usage.get("completion_tokens", usage.get("output_tokens"))
        if type(given) is type(answer) is int:
            usage["total_tokens"] = given + answer + chance.choice([0, 0, 0, 0, 1, -answer])
    for name in chance.sample([*NAMES, *RARE], chance.choice([0, 0, 1, 2])):
        if chance.random() < 0.5:
            usage.pop(name, None)
        else:
            usage[name] = chance.choice(counts)
    for name in chance.sample(DETAILS, chance.randrange(3)):
        inner = {other: chance.choice(parts) for other in chance.sample(INNER, chance.randrange(4))}
        usage[name] = chance.choice([inner] * 6 + [None, {}] + [0, "", [], [1], 1, "x"] * odd)
    items = list(usage.items())
    chance.shuffle(items)
    return dict(items)


def check_usage(document: bytes) -> bool:
    """Compare one answer or event; return whether the compiled part reads its usage."""
    told = _core.read_usage(document)
    if told is None:
        return False
    buckets, raw = told
    found, text = usage_of(document)
    assert found is not None
    assert raw == text.encode()
    read = read_usage(found)
    assert read.marks == ()
    assert read.buckets == (*buckets, 0, 0)
    assert not document.startswith((b'{"error":{', b'{"error": {'))
    return True


def answers(chance: random.Random) -> Iterator[bytes]:
    usage = usage_object(chance)
    body: dict[str, Any] = {"id": "x", "choices": [{"text": chance.choice(WORDS)}], "usage": usage}
    if chance.random() < 0.1:
        body["usage"] = chance.choice([None, [], 1, "x", {}])
    if chance.random() < 0.1:
        body = {"error": {"message": "no"}} | body
    if chance.random() < 0.2:
        body["choices"] = value(chance)
    items = list(body.items())
    if chance.random() < 0.5:
        chance.shuffle(items)
    document = dumped(chance, dict(items))
    yield document
    yield b"data:" + chance.choice([b"", b" "]) + document


def compare_usage(seed: int, cases: int) -> int:
    """Compare so many answers; return how many were read."""
    chance = random.Random(seed)
    read = 0
    for _ in range(cases // 2):
        for document in answers(chance):
            read += check_usage(mutated(chance, document) if chance.random() < 0.4 else document)
    return read


def test_usage_is_read_as_python_does() -> None:
    assert compare_usage(11, 6000) > 1000


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        {"prompt_tokens": 9, "total_tokens": 9},
        {"prompt_tokens": 9, "completion_tokens": None, "total_tokens": 9, "x": {"y": [1.5]}},
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {
                "cached_tokens": 30,
                "cache_write_tokens": 10,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": 20, "accepted_prediction_tokens": 0},
        },
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": None,
            "completion_tokens_details": {},
        },
        {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 3}},
        {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 30},
        {"prompt_tokens": 9, "completion_tokens": 4, "cache_creation_input_tokens": 30},
        {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 6},
        {"prompt_tokens": 10**9, "completion_tokens": 10**9, "total_tokens": 2 * 10**9},
    ],
)
def test_usage_that_is_usual_is_read(usage: dict[str, Any]) -> None:
    for body in ({"choices": [], "usage": usage}, {"usage": usage, "id": "中"}):
        assert check_usage(json.dumps(body).encode())
        assert check_usage(b"data: " + json.dumps(body, ensure_ascii=False, indent=1).encode())


@pytest.mark.parametrize(
    "document",
    [
        b'{"error":{"message":"no"},"usage":{"prompt_tokens":1,"completion_tokens":1}}',
        b'{"error": {},"usage":{"prompt_tokens":1,"completion_tokens":1}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1},"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1},"us\\u0061ge":null}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens":2}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"prompt\\u005ftokens":2}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"x":1e999}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1}} x',
        b'[{"usage":{"prompt_tokens":1,"completion_tokens":1}}]',
        b"data: [DONE]",
        b"data:",
        b"",
    ],
)
def test_usage_that_may_be_read_in_two_ways_is_left(document: bytes) -> None:
    assert not check_usage(document)


def test_errors_of_python_are_errors() -> None:
    with pytest.raises(UpstreamFailed):
        usage_of(b"[]")
    with pytest.raises(TokenMartError):
        Talk(CHAT, b"[]")
