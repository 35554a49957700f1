"""The office behind the door: starts the workers, tells them what the database knows, adopts connections.

    office ─┬─ worker   listener (shared), channel (questions, news), passage (connections both ways)
            └─ worker   …

One office for each machine. A worker that dies is started again; what it had promised expires, and every
answer that a client saw complete is settled, because that is written before the answer's last byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from catalog.ground.errors import Unavailable
from catalog.ground.ids import new_id
from marketplace.gateway.channel import Channel
from marketplace.gateway.counters import Counters, Now, Report
from marketplace.gateway.handover import Passage, no_delay, pair
from marketplace.gateway.lookup import Lookup
from marketplace.gateway.observer import Observer
from marketplace.gateway.options import Options
from marketplace.gateway.presence import RENEW_S, Presence
from marketplace.gateway.records import decode, encode
from marketplace.gateway.replays import Asked, Kept
from marketplace.gateway.seen import decode as decode_seen

log = logging.getLogger(__name__)

WATCH_S = 0.25
"""How often the change markers are read: how long a revoked key may still call."""
_START_S = 30.0
_AGAIN_S = 0.5
_LAST_WORDS_S = 1.0

# glibc (mallopt(3)): blocks of this size are given back when they are freed. Left alone it learns to keep
# them, and long bodies that came and went leave a worker twice as large. The heap's last 4 MiB stay: to give
# them back and take them again with every prompt of 50 kB costs more than to copy it.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "4194304"}

_LOADERS: dict[str, Callable[[Lookup, str], Any]] = {
    "key": Lookup.key,
    "listing": Lookup.listing,
    "ladder": Lookup.ladder,
    "caps": Lookup.caps,
    "tried": Lookup.tried,
}
Adopt = Callable[[socket.socket, bytes], Awaitable[None]]


class WorkerHandle:
    """One worker process, seen from the office."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Channel | None = None
        self.passage: Passage | None = None
        self.ready = asyncio.Event()
        self.now = Now()
        self.counters = Counters()
        self.past_cpu_s = 0.0
        """Processor time of those that it has replaced."""


class GatewayOffice:
    """All workers of this machine. `adopt` serves a connection that is not for a worker."""

    def __init__(
        self,
        options: Options,
        count: int,
        listener: socket.socket,
        lookup: Lookup,
        adopt: Adopt,
        observer: Observer | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._options = options
        self._listener = listener
        self._lookup = lookup
        self._adopt_connection = adopt
        self.workers = [WorkerHandle(number) for number in range(count)]
        self._past = Counters()
        self._past_unseen = 0
        self._markers = b""
        self._presence = presence
        self._share = msgspec.msgpack.encode(count)
        """Among how many workers, on all machines, the limits are divided."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leaving = False
        self._unread: set[str] = set()
        self.observer = observer
        self.restarts = 0
        self.heard: Callable[[dict[str, int]], None] | None = None

    async def start(self) -> None:
        """Start every worker and return when all of them serve."""
        if self.observer is not None:
            self.observer.start()
        self._run(self._watch())
        if self._presence is not None:
            await self._learn_share(self._presence)
            self._run(self._be_present(self._presence))
        for worker in self.workers:
            self._run(self._keep(worker))
        waiting = [worker.ready.wait() for worker in self.workers]
        try:
            await asyncio.wait_for(asyncio.gather(*waiting), _START_S)
        except TimeoutError:
            raise Unavailable(
                f"The workers did not start within {_START_S:g} s.",
                rule="gateway.workers",
                remedy="What kept them is above, on standard error.",
            ) from None

    async def stop(self) -> None:
        """Let the workers finish what they have begun, and return when they have ended."""
        self._leaving = True
        # With the workers' copies closed as well, who comes now is refused, and does not wait in vain.
        self._listener.close()
        processes = [w.process for w in self.workers if w.process is not None]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        ending = [asyncio.ensure_future(process.wait()) for process in processes]
        if ending:
            _, late = await asyncio.wait(ending, timeout=self._options.drain_s + 10)
            if late:
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._presence is not None:
            with contextlib.suppress(Exception):  # others will miss us without our saying so
                await asyncio.to_thread(self._presence.leave)
        if self.observer is not None:
            await self.observer.close()

    @property
    def serves(self) -> bool:
        """Whether calls are welcome."""
        return not self._leaving and any(worker.ready.is_set() for worker in self.workers)

    def hand_back(self, connection: int, read: bytes) -> bool:
        """Give a connection that makes a call again to the worker with the fewest; False if there is none."""
        fit = [w for w in self.workers if w.passage is not None and w.ready.is_set()]
        fit.sort(key=lambda worker: worker.now.connections)
        return any(w.passage is not None and w.passage.send(connection, read) for w in fit)

    def totals(self) -> Counters:
        """Return what all workers have counted since the office started, the dead ones included."""
        total = Counters()
        total.add(self._past)
        for worker in self.workers:
            total.add(worker.counters)
        return total

    def unseen(self) -> int:
        """Return of how many requests the workers could not tell, the dead workers' included."""
        return self._past_unseen + sum(worker.now.unseen for worker in self.workers)

    def _run(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, worker: WorkerHandle) -> None:
        """Keep a worker alive until the office leaves."""
        while not self._leaving:
            try:
                await self._one_life(worker)
            except Exception:
                log.exception("worker %d could not be started", worker.number)
            worker.ready.clear()
            self._past.add(worker.counters)
            self._past_unseen += worker.now.unseen
            worker.past_cpu_s += worker.now.cpu_s
            worker.counters, worker.now = Counters(), Now()
            # Ctrl-C and some supervisors tell all processes at once to end, and a worker may be first.
            await asyncio.sleep(_AGAIN_S)
            if not self._leaving:
                self.restarts += 1
                log.error("worker %d has ended; it is started again", worker.number)

    async def _one_life(self, worker: WorkerHandle) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        gate, their_gate = pair()
        kept = (self._listener.fileno(), theirs.fileno(), their_gate.fileno())
        names = ("--listener", "--channel", "--passage")
        arguments = [f"{name}={number}" for name, number in zip(names, kept, strict=True)]
        worker.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "marketplace.gateway.worker", *arguments),
            pass_fds=kept,
            env=os.environ | _ALLOCATION,
        )
        theirs.close()
        their_gate.close()
        worker.passage = Passage(gate, self._adopt)
        worker.channel = await Channel.open(ours, self._answers, self._hearing(worker))
        try:
            await worker.process.wait()
            # What it said last is still to be read.
            await asyncio.wait([worker.channel.closed], timeout=_LAST_WORDS_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
            worker.passage.close()
            worker.channel.close()
            worker.passage = worker.channel = None

    def _adopt(self, connection: socket.socket, read: bytes) -> None:
        no_delay(connection)
        self._run(self._adopt_connection(connection, read))

    async def _answers(self, what: str, payload: bytes) -> bytes:
        """Serve a worker's question; raises `Unavailable` when the database is away."""
        try:
            return await self._looked_up(what, payload)
        except (OperationalError, InterfaceError) as error:
            if not error.connection_invalidated:
                raise database_away(error) from error
        # The pool had kept a connection from before the database was restarted, and has thrown away all
        # of that age now. Whatever a worker asks for may be done twice.
        try:
            return await self._looked_up(what, payload)
        except (OperationalError, InterfaceError) as error:
            raise database_away(error) from error

    async def _looked_up(self, what: str, payload: bytes) -> bytes:
        if what == "options":
            lane = new_id("gateway")
            return encode(msgspec.structs.replace(self._options, lane=lane))
        if what == "recall":
            found = await asyncio.to_thread(self._lookup.recall, decode(payload, Asked))
            return encode(found) if found is not None else b""
        if what == "remember":
            await asyncio.to_thread(self._lookup.remember, decode(payload, Kept))
            return b""
        load = _LOADERS[what]
        return encode(await asyncio.to_thread(load, self._lookup, payload.decode()))

    def _hearing(self, worker: WorkerHandle) -> Callable[[str, bytes], None]:
        def hears(what: str, payload: bytes) -> None:
            if what == "ready":
                worker.ready.set()
                self._tell_markers(worker)
                self._tell_share(worker)
            elif what == "report":
                report = msgspec.msgpack.decode(payload, type=Report)
                worker.counters, worker.now = report.counters, report.now
            elif what == "seen" and self.observer is not None:
                self.observer.hears(decode_seen(payload))

        return hears

    async def _watch(self) -> None:
        """Read the change markers again and again, and tell the workers what they say."""
        while True:
            try:
                markers = await asyncio.to_thread(self._lookup.markers)
            except Exception as error:
                # A database that is away tells nothing; after a while the workers stop trusting
                # what they remember (`Directory.check_fresh`).
                self._say_once("the change markers", error)
            else:
                self._say_once("the change markers", None)
                self._markers = msgspec.msgpack.encode(markers)
                if self.heard is not None:
                    self.heard(markers)
                for worker in self.workers:
                    self._tell_markers(worker)
            await asyncio.sleep(WATCH_S)

    async def _be_present(self, presence: Presence) -> None:
        """Say again and again that this machine is there, and tell the workers how many all are."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._learn_share(presence)
            except Exception as error:
                self._say_once("who else serves", error)
                continue
            self._say_once("who else serves", None)
            for worker in self.workers:
                self._tell_share(worker)

    def _say_once(self, what: str, error: Exception | None) -> None:
        """Log that something cannot be read when that begins and when it ends, not every time."""
        if error is not None and what not in self._unread:
            self._unread.add(what)
            words = error.orig if isinstance(error, DBAPIError) else error
            log.warning("%s cannot be read: %s", what, words)
        elif error is None and what in self._unread:
            self._unread.remove(what)
            log.warning("%s can be read again", what)

    async def _learn_share(self, presence: Presence) -> None:
        self._share = msgspec.msgpack.encode(await asyncio.to_thread(presence.renew))

    def _tell_share(self, worker: WorkerHandle) -> None:
        if worker.channel is not None:
            worker.channel.tell("share", self._share)

    def _tell_markers(self, worker: WorkerHandle) -> None:
        if worker.channel is not None and self._markers:
            worker.channel.tell("markers", self._markers)


def database_away(error: DBAPIError) -> Unavailable:
    """Return what is told to whoever asked while the database was away; the log has its words."""
    log.warning("a question cannot be answered: %s", error.orig)
    return Unavailable(
        "The gateway's database does not answer; nothing was charged.",
        code="database_away",
        rule="gateway.database",
        retry_after_s=2,
    )
