"""The short form of `make prove-gateway-faults`, and what it has found."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import psycopg
import pytest
import uvloop
from proofs.gateway_faults import HEAVY, LIGHT, Gauntlet, deck
from support.certificates import Authority, Certificate, can_certify
from support.fault_verdict import Judge, Row

from catalog.ground.database import Database
from catalog.ground.errors import Unauthenticated, Unavailable, UpstreamFailed
from marketplace.gateway.flight import Flight
from marketplace.gateway.lookup import Lookup
from marketplace.gateway.office import GatewayOffice
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.upstream import Upstream
from marketplace.gateway.wire import Pool, WireError

_SHORT = (
    "kill_worker", "leave_mid", "database_cut", "reset_mid", "leave_waiting", "hang", "clock_back",
    "garbage",
)  # fmt: skip
SHORT = {
    "sqlite": (*_SHORT, "disk_full"),
    "postgresql": (*_SHORT, "database_restart"),
}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_few_faults_under_load(kind: str) -> None:
    # /tmp itself: PostgreSQL refuses socket paths over 107 characters.
    with TemporaryDirectory(prefix="tm-faults-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Gauntlet(kind, folder, 1, lines=3) as run:
            out = run.run(list(SHORT[kind]))
    assert out.problems + out.verdict.problems == []
    # A full disk needs a small one, and a small one needs root.
    assert sum(out.done.values()) + len(out.left_out) == len(SHORT[kind])
    assert out.verdict.counts["complete"] > 20
    assert out.verdict.counts["answers of engines behind TLS"] > 0 or not can_certify()
    assert out.verdict.counts["asked under a key: replayed"] > 0


def test_a_deck_has_every_fault_and_repeats_by_its_seed() -> None:
    drawn = deck(random.Random(7), 60)
    assert set(drawn) == {*HEAVY, *LIGHT}
    assert len(drawn) == 60
    assert drawn == deck(random.Random(7), 60)


def test_a_question_after_a_restart_of_the_database_is_answered_on_a_fresh_connection(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    with socket.socket() as listener:
        lookup = Lookup(database)
        office = GatewayOffice(cast(Any, None), 0, listener, lookup, cast(Any, None))
        lookup.markers()  # the pool keeps a connection
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(Unauthenticated):
            asyncio.run(office._answers("key", b"0" * 64))
    database.dispose()


def test_a_database_that_is_away_is_said_to_be_away(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/is/not/there.db")
    with socket.socket() as listener:
        office = GatewayOffice(cast(Any, None), 0, listener, Lookup(database), cast(Any, None))
        with pytest.raises(Unavailable, match="does not answer; nothing was charged"):
            asyncio.run(office._answers("key", b"0" * 64))
    database.dispose()


def test_an_engine_that_closes_as_soon_as_it_has_accepted_is_away_and_no_fault_of_ours() -> None:
    seen: Counter[str] = Counter()

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def ask(pool: Pool) -> None:
        try:
            await pool.request(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
        except (OSError, WireError) as error:
            seen[type(error).__name__] += 1

    async def main() -> None:
        server = await asyncio.start_server(closes, "127.0.0.1", 0)
        pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1], 2.0, 2.0)
        asking = [asyncio.ensure_future(ask(pool)) for _ in range(40)]
        for _ in range(6):
            await asyncio.sleep(0)
            time.sleep(0.01)  # a busy loop: connecting and closing are seen in one turn
        await asyncio.gather(*asking)
        server.close()

    uvloop.run(main())
    assert seen.total() == 40


def test_a_request_that_breaks_its_engine_is_not_sent_down_every_kept_connection() -> None:
    broken = 0

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the first request of a connection and break at the second."""
        nonlocal broken
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            broken += 1
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> int:
        server = await asyncio.start_server(breaks, "127.0.0.1", 0)
        pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1], 2.0, 2.0)
        request = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
        await asyncio.gather(*(pool.request(request) for _ in range(5)))
        answer = await pool.request(request)
        pool.close()
        server.close()
        return answer.status

    assert (asyncio.run(main()), broken) == (200, 1)


_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
_STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
certified = pytest.mark.skipif(not can_certify(), reason="there is no openssl command")


@contextlib.contextmanager
def behind_tls(shown: Certificate, answer: bytes) -> Iterator[EndpointRecord]:
    """An engine that answers so and keeps the connection, in a thread of its own."""
    port: Future[int] = Future()
    over = threading.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
        writer.close()

    async def listen() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=shown.server())
        port.set_result(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(over.wait)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    try:
        yield EndpointRecord(id="ept", url=f"https://127.0.0.1:{port.result(10)}", model="m")
    finally:
        over.set()
        thread.join()


def _asked(shown: Certificate, answer: bytes, flight: Flight | None = None) -> bytes:
    async def ask(endpoint: EndpointRecord) -> bytes:
        upstream = Upstream(2.0, 2.0)
        try:
            for _ in range(2):  # the second on the connection that was kept
                told = await upstream.post(endpoint, "/v1/completions", b"{}", "gen", flight)
            return told.body
        finally:
            await upstream.close()

    with behind_tls(shown, answer) as endpoint:
        return uvloop.run(ask(endpoint))


@certified
def test_an_engine_behind_tls_is_trusted_by_its_authority_and_for_its_own_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = Authority(tmp_path / "known"), Authority(tmp_path / "unknown")
    for name, value in known.environment.items():
        monkeypatch.setenv(name, value)
    assert _asked(known.certify("engine"), _WHOLE) == b"{}"
    for shown in (unknown.certify("engine"), known.certify("elsewhere", ("127.0.0.200",))):
        with pytest.raises(Unavailable, match="nothing was charged"):
            _asked(shown, _WHOLE)


@certified
@pytest.mark.parametrize("rest", [b"this is no chunk\r\n\r\n", b"zz\r\n"])
def test_a_stream_behind_tls_that_turns_into_nonsense_has_failed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    known = Authority(tmp_path / "known")
    for name, value in known.environment.items():
        monkeypatch.setenv(name, value)
    pieces: list[bytes] = []
    with pytest.raises(UpstreamFailed, match="broke off"):
        _asked(known.certify("engine"), _STREAM + rest, Flight(pieces.append))
    assert pieces in ([], [b"hello"])


@certified
def test_headers_that_are_no_text_are_no_fault_behind_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Authority(tmp_path / "known")
    for name, value in known.environment.items():
        monkeypatch.setenv(name, value)
    odd = _WHOLE.replace(b"\r\n\r\n", b"\r\nx-high: \xff\xfe\r\n\r\n")
    assert _asked(known.certify("engine"), odd) == b"{}"


_PLAN = {"call": "c", "prompt": 5, "cached": 0, "tokens": 3, "do": ["ok"]}
_BILL = {
    "id": "gen", "outcome": "ok", "source": "engine", "input": 5, "cached": 0, "output": 3,
    "cost_u": 9, "wallet_u": 0, "voucher_u": 9, "free_u": 0, "overrun_u": 0,
}  # fmt: skip


def _try(began: float, how: str = "complete", **more: Any) -> Row:
    seen = {
        "call": "c", "client": "patient", "stream": True, "do": ["ok"], "secure": False, "key": "k",
        "replayed": False, "digest": "d", "generation": "gen", "status": 200, "tokens": 3,
        "serial": "chatcmpl-1", "usage": None, "cost_u": None, "how": how, "words": "",
        "began": began, "ended": began + 0.5,
    }  # fmt: skip
    return seen | more


def _judged(tries: Sequence[Row], bills: Sequence[Row]) -> list[str]:
    attempt = {
        "serial": 1, "engine": 0, "generation": "gen", "plan": _PLAN, "emitted": 3, "end": "sent",
        "began": 1.0, "ended": 1.2,
    }  # fmt: skip
    problems = Judge(tries, [attempt], bills, []).verdict.problems
    return [problem.partition(" (")[0].partition(":")[0] for problem in problems]


def test_the_verdict_on_repeated_calls_finds_what_must_not_be() -> None:
    first, again = _try(1.0, cost_u=9), _try(2.0, replayed=True)
    assert _judged([first, again], [_BILL]) == []
    assert _judged([first, again | {"digest": "e"}], [_BILL]) == [
        "the same key was answered differently"
    ]
    assert _judged([first, again], []) == [
        "an answer under a key reached its client and was never billed"
    ]
    assert _judged([first, again | {"replayed": False}], [_BILL]) == ["one key was served twice"]
    gone = _try(2.0, "error", status=409, words={"code": "idempotency_answer_gone"})
    assert _judged([first, gone], [_BILL]) == ["a charged answer is gone"]
    spent = _try(2.0, "error", status=409, words={"code": "idempotency_key_spent"})
    assert "a call that failed too often was charged" in _judged([spent], [_BILL])
    assert _judged([_try(1.0, "error", status=503)], []) == [
        "a call under a key never came to an end"
    ]
