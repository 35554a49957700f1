"""One client's bytes: requests of every kind, whole and broken, and how they are put on the wire.

A `Case` is made from a seed and its number alone, so that one that fails can be run again by itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from support.fuzz_bodies import BODY_LIMIT, PATHS, STREAMING, encode, good, spoiled
from support.fuzz_streams import Act, answer, counted, events, native_events, script

End = Literal["answer", "half", "reset", "leave", "park"]
"""What the client does after its last byte: wait for its answers; wait a moment, then stop sending; reset
the connection; close it; or keep it open and say nothing."""


@dataclass
class World:
    """What cases are made of: keys that may call, keys that may not, and listings by kind."""

    host: str
    keys: list[str]
    bad_keys: list[str]
    listings: list[str]
    office_paths: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Case:
    """`answers`: how many answers the bytes ask for, if the client waits; 0 when nobody can say.

    `engine` is what the engine does when it is asked about this case (None: answer well), `count` what
    it says when it is asked to count. `bound` is the most (input, output) tokens that may be billed.
    """

    number: int
    kind: str
    pieces: list[bytes]
    end: End = "answer"
    answers: int = 0
    gap_s: float = 0.0
    engine: list[Act] | None = None
    count: bytes | None = None
    bound: tuple[int, int] = (0, 0)
    must: frozenset[int] = frozenset()

    @property
    def mark(self) -> str:
        """Return what the texts of this case, and of no other, carry."""
        return mark(self.number)


def mark(number: int) -> str:
    """Return the mark of a case."""
    return f"case-{number}-"


def make(seed: int, number: int, world: World) -> Case:
    """Return a case."""
    chance = random.Random(f"{seed}/{number}")
    ways = (
        (_bad_body, 26),
        (_bad_engine, 34),
        (_bad_head, 14),
        (_smuggled, 6),
        (_foreign_protocol, 4),
        (_pipelined, 7),
        (_broken_off, 5),
        (_office, 4),
    )
    way = chance.choices([w for w, _ in ways], [weight for _, weight in ways])[0]
    case = way(number, chance, world)
    _cut(case, chance)
    return case


def request(
    world: World,
    key: str,
    path: str,
    body: bytes,
    extra: bytes = b"",
    *,
    method: bytes = b"POST",
    version: bytes = b"HTTP/1.1",
    length: bool = True,
) -> bytes:
    """Return the bytes of a request."""
    head = b"%b %b %b\r\nhost: %b\r\n" % (method, path.encode(), version, world.host.encode())
    head += b"authorization: Bearer %b\r\n" % key.encode() if key else b""
    head += b"content-length: %d\r\n" % len(body) if length else b""
    return head + extra + b"\r\n" + body


def plain(number: int, world: World, path: str = PATHS[0], *, streamed: bool = False) -> Case:
    """Return a call that nothing is wrong with."""
    document = good(
        path, world.listings[number % len(world.listings)], mark(number), random.Random(1)
    )
    document.pop("stream_options", None)
    document["stream"] = streamed
    sent = request(world, world.keys[0], path, encode(document))
    return Case(number, "good", [sent], answers=1, must=frozenset({200}))


def _call(number: int, chance: random.Random, world: World) -> tuple[str, bytes, int]:
    """Return path and body of a good call, and the most tokens that it may produce."""
    path = chance.choice(PATHS)
    document = good(path, chance.choice(world.listings), mark(number), chance)
    most = document.get("max_tokens", document.get("max_output_tokens", 64))
    if chance.random() < 0.05 and path in STREAMING[:2]:
        document["n"] = chance.randint(2, 4)
    return path, encode(document), most * document.get("n", 1)


def _bad_body(number: int, chance: random.Random, world: World) -> Case:
    path = chance.choice(PATHS)
    body, extra = spoiled(path, chance.choice(world.listings), mark(number), chance)
    key = chance.choice(world.bad_keys) if chance.random() < 0.1 else chance.choice(world.keys)
    case = Case(number, f"body {path}", [request(world, key, path, body, extra)], answers=1)
    if len(body) > BODY_LIMIT:
        case.must = frozenset({413, 401, 402})
    return case


def _bad_engine(number: int, chance: random.Random, world: World) -> Case:
    path, body, most = _call(number, chance, world)
    streamed = b'"stream":true' in body
    translated = path in ("/v1/responses", "/v1/messages") and chance.random() < 0.6
    asked = PATHS[0] if translated else path
    sent = request(world, chance.choice(world.keys), path, body)
    case = Case(number, f"engine {path}{' stream' if streamed else ''}", [sent], answers=1)
    case.engine = script(asked, case.mark, streamed, chance)
    case.count = counted(chance)
    case.bound = (len(body) + 64, most)
    if chance.random() < 0.08:
        case.end, case.gap_s = chance.choice(("reset", "leave", "half")), 0.05
        case.kind += " left"
    return case


def _bad_head(number: int, chance: random.Random, world: World) -> Case:
    path, body, _ = _call(number, chance, world)
    sent = request(world, chance.choice(world.keys), path, body)
    head, _, _ = sent.partition(b"\r\n\r\n")
    odd = (
        b"x-long: " + b"a" * chance.choice((8_000, 65_000, 70_000, 300_000)),
        b"\r\n".join(b"x-%d: y" % n for n in range(chance.choice((100, 1_000, 9_000)))),
        b"x-nul: a\x00b",
        b"x-cr: a\rb",
        b"x-high: \xff\xfe\x80",
        b"x space: 1",
        b" folded: 1",
        b"x-folded: a\r\n\tb",
        b"nocolon",
        b": noname",
        b"",
        b"expect: 100-continue",
        b"expect: 200-ok",
        b"connection: close",
        b"connection: upgrade\r\nupgrade: websocket",
        b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ",
        b"connection: keep-alive, \xff",
        b"authorization: Bearer \xe9\x00",
        b"authorization: Bearer",
        b"authorization: Basic eDp5",
        b"x-api-key: \xff\xff",
        b"x-forwarded-for: "
        + chance.choice((b"1.2.3.4", b"\xff", b",,,,", b"a" * 3_000, b"::1, ::1")),
        b"idempotency-key: "
        + chance.choice((b"k%d" % number, b"", b"\xff\xfe", b"z" * 5_000, b"a b")),
        b"transfer-encoding: identity",
        b"content-type: text/plain",
        b"host: other\r\nhost: third",
        b"trailer: x\r\nte: trailers",
        b"range: bytes=0-",
    )
    way = chance.randrange(5)
    case = Case(number, "head", [sent], end="half", answers=0)
    if way <= 2:
        lines = head.split(b"\r\n")
        for _ in range(chance.choice((1, 1, 3))):
            lines.insert(chance.randint(1, len(lines)), chance.choice(odd))
        case.pieces = [b"\r\n".join(lines) + b"\r\n\r\n" + body]
    elif way == 3:
        case.pieces = [_odd_line(head, chance) + b"\r\n\r\n" + body]
    else:
        changed = bytearray(head)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        case.pieces = [bytes(changed) + b"\r\n\r\n" + body]
    return case


def _odd_line(head: bytes, chance: random.Random) -> bytes:
    line, _, rest = head.partition(b"\r\n")
    method, target, version = line.split(b" ")
    odd = (
        b"%b  %b %b" % (method, target, version),
        b"%b\t%b\t%b" % (method, target, version),
        b"%b %b" % (method, target),
        b"%b %b HTTP/1.0" % (method, target),
        b"%b %b HTTP/0.9" % (method, target),
        b"%b %b HTTP/2.0" % (method, target),
        b"%b %b HTTP/1.1 " % (method, target),
        b"%b http://127.0.0.1%b %b" % (method, target, version),
        b"%b //%b %b" % (method, target, version),
        b"%b %b?a=%%00&b=%b %b" % (method, target, b"c" * 70_000, version),
        b"%b %b#x %b" % (method, target, version),
        b"%b %b/ %b" % (method, target, version),
        b"%b %b%%00 %b" % (method, target, version),
        b"%b %b\xff %b" % (method, target, version),
        b"post %b %b" % (target, version),
        b"GET %b %b" % (target, version),
        b"PUT %b %b" % (target, version),
        b"OPTIONS * %b" % version,
        b"CONNECT 127.0.0.1:1 %b" % version,
        b"TRACE %b %b" % (target, version),
        b"M-SEARCH %b %b" % (target, version),
        b"A" * 70_000 + b" / HTTP/1.1",
        b"\r\n\r\n" + line,
        b"\x00" + line,
        b" " + line,
        b"",
    )
    return chance.choice(odd) + b"\r\n" + rest


def _smuggled(number: int, chance: random.Random, world: World) -> Case:
    """Two readings of where a body ends; whoever takes the wrong one answers somebody else's request."""
    path, body, _ = _call(number, chance, world)
    key = chance.choice(world.keys)
    inner = request(world, key, path, encode({"model": "smuggled"}))
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    te = b"transfer-encoding: chunked\r\n"
    length = b"content-length: %d\r\n"
    odd = (
        (length % len(chunked) + te, chunked),
        (te + length % 4, chunked + inner),
        (length % 0 + te, chunked + inner),
        (length % len(body) + length % len(body), body),
        (length % len(body) + length % 0, body + inner),
        (b"content-length: +%d\r\n" % len(body), body),
        (b"content-length: 0x%x\r\n" % len(body), body),
        (b"content-length: %d, %d\r\n" % (len(body), len(body)), body),
        (b"content-length: -1\r\n", body),
        (b"content-length: 99999999999999999999999\r\n", body),
        (b"content-length : %d\r\n" % len(body), body),
        (b"content-length:\r\n", body),
        (b"transfer-encoding : chunked\r\n", chunked),
        (b"transfer-encoding: xchunked\r\n", chunked),
        (b"transfer-encoding: chunked, identity\r\n", chunked),
        (b"transfer-encoding: gzip, chunked\r\n", chunked),
        (b"transfer-encoding:\x0bchunked\r\n", chunked),
        (b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", chunked),
        (b"transfer-encoding: CHUNKED\r\n", chunked),
        (te, b"%x;a=b\r\n%b\r\n0\r\nx: y\r\n\r\n" % (len(body), body)),
        (te, b"%x\n%b\n0\n\n" % (len(body), body)),
        (te, b"0%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
        (te, b"-1\r\n%b\r\n0\r\n\r\n" % body),
        (te, b"ffffffffffffffff\r\n%b\r\n0\r\n\r\n" % body),
        (te, b"%x\r\n%bX0\r\n\r\n" % (len(body), body)),
        (te, b"zz\r\n%b" % body),
        (te, b"1;" + b"e" * 90_000 + b"\r\n{\r\n0\r\n\r\n"),
        (te, b"%x\r\n%b\r\n0\r\n" % (len(body), body) + b"t: u\r\n" * 5_000 + b"\r\n"),
    )
    extra, sent = chance.choice(odd)
    return Case(
        number, "smuggle", [request(world, key, path, b"", extra, length=False) + sent], end="half"
    )


def _foreign_protocol(number: int, chance: random.Random, world: World) -> Case:
    odd = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        bytes.fromhex("16030100c5010000c10303") + chance.randbytes(190),
        chance.randbytes(chance.randint(1, 2_000)),
        b"\x00" * chance.randint(1, 3_000),
        b"\r\n" * chance.randint(1, 3_000),
        b"\n",
        b"EHLO example\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"SSH-2.0-x\r\n",
        b"POST /v1/chat/completions",
        b"POST /v1/chat/completions HTTP/1.1",
        b"POST /v1/chat/completions HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\n\n",
        b"POST ",
        b"POST /v1/chat/completionsX HTTP/1.1\r\n\r\n",
        b"POST /v1/messages/batches HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        b"P" * 70_000,
        b"\xf0\x9f\x98\x80 / HTTP/1.1\r\n\r\n",
        b"",
    )
    return Case(number, "protocol", [chance.choice(odd)], end="half")


def _pipelined(number: int, chance: random.Random, world: World) -> Case:
    """Requests one behind the other without waiting: calls, broken calls, and the office's."""
    sent: list[bytes] = []
    sure = True
    for _ in range(chance.choice((2, 3, 5, 9, 14, 40))):
        way, path = chance.random(), chance.choice(PATHS[:4])
        if way < 0.55:
            document = good(path, chance.choice(world.listings), mark(number), chance)
            sent.append(request(world, chance.choice(world.keys), path, encode(document)))
        elif way < 0.8:
            body, _ = spoiled(path, chance.choice(world.listings), mark(number), chance)
            sent.append(request(world, chance.choice(world.keys), path, body[:5_000]))
        elif way < 0.9:
            target = chance.choice(("/healthz", "/v1/models", "/nothing", "/v1/nothing"))
            sent.append(request(world, "", target, b"", method=b"GET", length=False))
            sure = False
        elif way < 0.95:
            sent.append(b"\r\n" * chance.randint(1, 3))
        else:
            sent.append(chance.choice((b"garbage\r\n\r\n", b"\x00", b"GET\r\n\r\n", b"}")))
            sure = False
    calls = sum(1 for one in sent if one.startswith(b"POST"))
    case = Case(number, "pipeline", [b"".join(sent)], answers=calls if sure else 0)
    case.end = "answer" if sure and calls else "half"
    if chance.random() < 0.15:
        case.end, case.gap_s = chance.choice(("reset", "leave")), chance.choice((0.0, 0.02, 0.1))
    return case


def _broken_off(number: int, chance: random.Random, world: World) -> Case:
    """A good request that stops somewhere."""
    path, body, _ = _call(number, chance, world)
    extra = b"expect: 100-continue\r\n" if chance.random() < 0.2 else b""
    sent = request(world, chance.choice(world.keys), path, body, extra)
    if chance.random() < 0.25:
        sent = request(world, world.keys[0], "/v1/quote", body)
    sent = sent[: chance.randrange(1, len(sent))]
    end: End = chance.choice(("half", "reset", "leave", "half"))
    return Case(number, "broken off", [sent], end=end)


def _office(number: int, chance: random.Random, world: World) -> Case:
    """The office's paths, with odd values in path, query and body."""
    method, path = chance.choice(world.office_paths)
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + chance.choice(_ODD_SEGMENTS) + rest.partition("}")[2]
    if chance.random() < 0.6:
        path += "?" + chance.choice(_ODD_QUERIES)
    body, extra = b"", b""
    if method in ("POST", "PUT", "PATCH", "DELETE"):
        body, extra = spoiled(PATHS[0], chance.choice(world.listings), mark(number), chance)
        body = body[:200_000]
        if b"content-type" not in extra:
            extra += b"content-type: application/json\r\n"
    key = chance.choice((*world.keys, *world.bad_keys))
    sent = request(world, key, path, body, extra, method=method.encode())
    return Case(number, f"office {method}", [sent], answers=1)


_ODD_SEGMENTS = (
    "a",
    "%00",
    "a%00b",
    "%ff",
    "%ed%a0%80",
    "..",
    "%2e%2e%2f",
    "9" * 40,
    "-1",
    "%0d%0ax-y:%20z",
    "%01%7f",
    "a" * 3_000,
    "%E4%BD%A0",
    "refs%2Fpr%2F1",
    "main",
)
_ODD_QUERIES = (
    "limit=-1",
    "limit=99999999999999999999",
    "limit=1e3",
    "limit=10&limit=x",
    "after=%00",
    "after=9999999999999999999999",
    "cursor=eyJ9&cursor=%ff",
    "from=1970-01-01&to=9999-12-31T23:59:60Z",
    "from=%00&to=nan",
    "org=%ed%a0%80",
    "search=%25%25%00'",
    "sort=downloads&direction=-1&full=maybe",
    "day=2026-02-30&month=2026-13",
    "=&&==;&%",
    "a" * 8_000 + "=1",
    "offset=9223372036854775808",
)


def _cut(case: Case, chance: random.Random) -> None:
    """Decide in which pieces the bytes leave: at once, cut somewhere, byte by byte, or trickled."""
    whole = case.pieces[0]
    way = chance.randrange(12)
    if len(whole) < 2 or way < 7:
        return
    if way < 10:
        places = sorted({chance.randrange(1, len(whole)) for _ in range(chance.randint(1, 6))})
        case.pieces = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]
    elif way == 10 and len(whole) < 600:
        case.pieces = [whole[n : n + 1] for n in range(len(whole))]
    else:
        half = len(whole) // 2
        case.pieces = [whole[:half], whole[half:-1], whole[-1:]]
        case.gap_s = case.gap_s or 0.03


def parked(seed: int, number: int, world: World) -> Case:
    """Return a request that never ends, on a connection that its client keeps."""
    chance = random.Random(f"{seed}/parked/{number}")
    path, body, _ = _call(number, chance, world)
    whole = request(world, world.keys[0], path, body)
    if number % 2:
        whole = request(world, world.keys[0], "/v1/quote", body)
    head = whole.index(b"\r\n\r\n") + 4
    place = chance.choice((3, 12, head // 2, head - 1, head, head + len(body) // 2, len(whole) - 1))
    return Case(number, f"parked after {place}", [whole[:place]], end="park")


def engine_answer(path: str, number: int, streamed: bool) -> list[Act]:
    """Return what an engine in good health does."""
    chance = random.Random(number)
    if not streamed:
        return [_whole(b"application/json", answer(path, mark(number), chance, usage=...))]
    native = path in ("/v1/responses", "/v1/messages")
    told = (native_events if native else events)(path, mark(number), chance)
    body = b"".join(event + b"\n\n" for event in told)
    return [_whole(b"text/event-stream", body)]


def _whole(kind: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (kind, len(body)) + body
