"""The short form of `make prove-gateway-faults`, and what it has found."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import psycopg
import pytest
import uvloop
from proofs.gateway_faults import HEAVY, LIGHT, Gauntlet, deck

from catalog.ground.database import Database
from catalog.ground.errors import Unauthenticated, Unavailable
from marketplace.gateway.lookup import Lookup
from marketplace.gateway.office import GatewayOffice
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
