"""A worker process: the door, the hot path, one ledger writer. It serves model calls and nothing else.

    python -m marketplace.gateway.worker --listener 5 --channel 6 --passage 7     (descriptors, inherited)

It has no settings and no tables: the office tells it what it needs over the channel, so that it stays
small (`make bench-gateway` states its memory). When the office goes away, it finishes what it has begun
and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from catalog.ground.driver import connect
from marketplace.gateway.call_log import set_up
from marketplace.gateway.caps import KeyCaps
from marketplace.gateway.channel import Channel, no_answers
from marketplace.gateway.counters import Now, Report
from marketplace.gateway.directory import Directory
from marketplace.gateway.door import Door
from marketplace.gateway.express.lane import BACKLOG, Express, core_type, is_wanted, turn_of
from marketplace.gateway.handover import Passage, inherit, no_delay
from marketplace.gateway.hot import Hot
from marketplace.gateway.idempotency import Answer
from marketplace.gateway.options import Options
from marketplace.gateway.records import KeyRecord, ListingRecord, OrgLadder, decode, encode
from marketplace.gateway.replays import Asked, Kept, Tried
from marketplace.gateway.seen import TELL_S, Watcher
from marketplace.gateway.upstream import Upstream
from marketplace.ledger.writer import LedgerWriter

if TYPE_CHECKING:
    from marketplace.gateway.express._core import Core

log = logging.getLogger(__name__)

_REPORT_S = 1.0
_COLLECT_AT = (5_000, 20, 20)
"""Served calls make little garbage in cycles, so looking for it may be rare. Refused ones make more (an error
and the frames that it came through), each with its request's body."""


class Office:
    """The office as a worker sees it: a `directory.Loader` and a `replays.Archive`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def options(self) -> Options:
        """Return how to work."""
        return decode(await self._channel.ask("options", b""), Options)

    async def key(self, sha256: str) -> KeyRecord:
        """See `Lookup.key`; so with the others."""
        return decode(await self._channel.ask("key", sha256.encode()), KeyRecord)

    async def listing(self, slug: str) -> ListingRecord:
        return decode(await self._channel.ask("listing", slug.encode()), ListingRecord)

    async def ladder(self, name: str) -> OrgLadder:
        return decode(await self._channel.ask("ladder", name.encode()), OrgLadder)

    async def caps(self, key_id: str) -> KeyCaps:
        return decode(await self._channel.ask("caps", key_id.encode()), KeyCaps)

    async def recall(self, asked: Asked) -> Answer | None:
        """Return the answer of a settled call."""
        found = await self._channel.ask("recall", encode(asked))
        return decode(found, Answer) if found else None

    async def remember(self, kept: Kept) -> None:
        """Keep an answer."""
        await self._channel.ask("remember", encode(kept))

    async def tried(self, generation_id: str) -> Tried:
        """Return what the ledger knows of a generation."""
        return decode(await self._channel.ask("tried", generation_id.encode()), Tried)


class Worker:
    """One worker between its start and its end."""

    def __init__(
        self, listener: socket.socket, channel: socket.socket, passage: socket.socket
    ) -> None:
        self._listener = listener
        self._ends = channel, passage
        self._leave = asyncio.Event()
        self._adopting: set[asyncio.Task[None]] = set()
        self._directory: Directory | None = None
        self._hot: Hot | None = None
        self._express: Express | None = None

    async def run(self) -> None:
        """Serve until SIGTERM, or until the office goes away."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave.set)
        channel = await Channel.open(self._ends[0], no_answers, self._hears)
        channel.closed.add_done_callback(lambda _: self._leave.set())
        office = Office(channel)
        options = await office.options()
        set_up(options.log)
        self._directory = Directory(office)
        upstream = Upstream(options.upstream_connect_s, options.upstream_silence_s)
        core = core_type() if is_wanted(options) else None
        writer = await asyncio.to_thread(
            LedgerWriter,
            lambda: connect(options.database_url),
            options.lane,
            turn_of(options) if core is not None else None,
        )
        hot = Hot(options, self._directory, writer, upstream, options.books, office)
        self._hot = hot
        if Watcher.wanted(options):
            hot.watcher = Watcher(
                options,
                hot.clock,
                lambda told: channel.tell("seen", told),
                lambda: channel.behind,
            )
        passage = Passage(self._ends[1], self._adopt)
        trusted = frozenset(options.trusted_proxies)
        self._door = Door(hot.serve, hot.turned_away, passage, options.body_limit_bytes, trusted)
        close_listener = await self._listen(hot, core)
        chores = [
            asyncio.ensure_future(hot.renew()),
            asyncio.ensure_future(hot.reserves.keep()),
            asyncio.ensure_future(self._report(channel, hot)),
            asyncio.ensure_future(_tell_seen(hot)),
        ]
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AT)
        channel.tell("ready", b"")
        await self._leave.wait()
        hot.draining = True
        close_listener()
        self._door.close()
        await hot.drain(options.drain_s, self._express_calls)
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        await upstream.close()
        if self._express is not None:
            self._express.close()
        await hot.reserves.close()
        await asyncio.to_thread(writer.close)
        passage.close()
        if hot.watcher is not None:
            hot.watcher.flush()
        channel.tell("report", self._told(hot))
        channel.close()
        if self._express is not None:
            self._express.end()

    def _hears(self, what: str, payload: bytes) -> None:
        if what == "markers" and self._directory is not None:
            self._directory.notice(msgspec.msgpack.decode(payload))
        elif what == "share" and self._hot is not None:
            workers = msgspec.msgpack.decode(payload, type=int)
            self._hot.share(workers)
            if self._express is not None:
                self._express.shared(workers)
        elif what == "leave":
            self._leave.set()

    async def _listen(self, hot: Hot, core: type[Core] | None) -> Callable[[], None]:
        """Take connections, with compiled code where there is some; return what ends that."""
        if core is not None:
            express = self._express = Express(core, hot, self._door, self._listener)
            await express.start()
            return express.leave
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            self._door.connection, sock=self._listener, backlog=BACKLOG
        )
        return server.close

    def _express_calls(self) -> int:
        return self._express.running if self._express is not None else 0

    def _adopt(self, connection: socket.socket, read: bytes) -> None:
        no_delay(connection)
        if self._express is not None:
            self._express.adopt(connection, read)
            return
        task = asyncio.ensure_future(self._door.adopt(connection, read))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _report(self, channel: Channel, hot: Hot) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            channel.tell("report", self._told(hot))

    def _told(self, hot: Hot) -> bytes:
        express, running = self._express, self._express_calls()
        if express is not None:
            express.count()
        now = Now(
            running=hot.running + running,
            holds=len(hot.open_calls) + running,
            connections=express.connections if express else len(self._door.connections),
            queued_ledger=hot.writer.queued + (express.queued if express else 0),
            waiting=hot.turns.waiting(),
            endpoints=[_plain(standing) for standing in hot.router.standings()],
            cpu_s=sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
            memory_bytes=_memory_bytes(),
            unseen=hot.watcher.dropped if hot.watcher is not None else 0,
        )
        return msgspec.msgpack.encode(Report(hot.counters, now))


async def _tell_seen(hot: Hot) -> None:
    while hot.watcher is not None:
        await asyncio.sleep(TELL_S)
        hot.watcher.flush()


def _memory_bytes() -> int:
    """Return this process's resident memory; 0 where the system does not say (see proc(5), statm)."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _plain(standing: Any) -> dict[str, Any]:
    told: dict[str, Any] = standing._asdict() if hasattr(standing, "_asdict") else vars(standing)
    return told


def main() -> None:
    """Run as the office starts it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name in ("listener", "channel", "passage"):
        parser.add_argument(f"--{name}", type=int, required=True, help="an inherited descriptor")
    told = parser.parse_args()
    set_up("text")  # until the office has said how
    ends = [inherit(number) for number in (told.listener, told.channel, told.passage)]

    async def serve() -> None:
        await Worker(*ends).run()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
