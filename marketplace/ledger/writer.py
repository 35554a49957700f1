"""The ledger's writer: one thread, one connection, one transaction at a time, as many calls as wait.

While one transaction is being made durable, the next operations queue up and go together into the next
one. A transaction costs about as much as four calls in it, so under load the writer also waits a moment
for the callers that it has just answered: until as many as were there before have come again, and never
longer than `company.WAIT_S`. A lonely call never waits, and nobody does where too few come for it to pay.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from catalog.ground.clock import now_us
from catalog.ground.errors import (
    Conflict,
    InternalError,
    LedgerCorrupt,
    NotFound,
    TokenMartError,
    Unavailable,
)
from marketplace.ledger.chart import CLEARING
from marketplace.ledger.company import WAIT_S, Company
from marketplace.ledger.dialect import Dialect, dialect_of
from marketplace.ledger.journal import BatchRun
from marketplace.ledger.operations import Hold, Operation, Outcome, Renew

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 512
_RECONNECT_S = 0.2
_PATIENCE_S = 10.0
"""How long queued operations wait for a database that is away before they are refused."""
_UNHURRIED = frozenset((Hold, Renew))
"""What need not be on disk before it is answered: a power cut that forgets it has cut the call too."""

Result = Outcome | TokenMartError
Waiting = Future[Outcome] | asyncio.Future[Outcome]


class LedgerWriter:
    """Applies operations in batches. Start it, submit from any thread or event loop, close it.

    A refusal (`PaymentRequired`, `Conflict`) concerns its own operation only. When the database is away
    the writer reconnects and repeats the batch, unless its lane's head says that it has been committed
    (or a hold's row, where the batch has left nothing else: calls that cost nothing);
    after ten seconds the waiting operations are refused with `Unavailable`.

    `connect` opens a driver connection (`Database.raw_connection`, or `catalog.ground.driver.connect` on
    a URL in a process without SQLAlchemy); `name` is the writer's lane, opened when there is none: its
    own, nobody else writes there. `turn` is entered for each transaction: where a process has another
    writer on the same SQLite database, it lets each of them have the lock in turn.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        name: str,
        turn: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._connect = connect
        self._turn = turn or contextlib.nullcontext()
        connection = connect()
        try:
            dialect = dialect_of(connection)
            self._lane = dialect.open_lane(name, now_us())
            self._clearing = _clearing_id(dialect)
        finally:
            connection.close()
        self._queue: deque[tuple[Operation, Waiting]] = deque()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._wanted = 0
        """How many queued operations wake the thread; 0 while it is awake."""
        self._company = Company()
        self._closing = self._closed = False
        self._dialect: Dialect | None = None
        self._unseen: tuple[BatchRun, list[Result]] | None = None
        """The last try of this batch that may have been committed, and what it answers."""
        self._writing = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._writing.start()

    def submit(self, operation: Operation) -> Outcome:
        """Apply one operation and wait for it to be durable; raises its refusal."""
        waiting: Future[Outcome] = Future()
        self.enqueue(operation, waiting)
        return waiting.result()

    def send(self, operation: Operation) -> asyncio.Future[Outcome]:
        """Apply one operation; returns the running loop's future of its outcome or refusal.

        Cancelling the future does not withdraw the operation.
        """
        waiting: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.enqueue(operation, waiting)
        return waiting

    async def apply(self, operation: Operation) -> Outcome:
        """Apply one operation and wait for it to be durable; raises its refusal."""
        return await self.send(operation)

    def close(self) -> None:
        """Finish what is queued, then stop."""
        self._closing = True
        self._wake()
        self._writing.join()

    @property
    def queued(self) -> int:
        """How many operations wait for the next transaction."""
        return len(self._queue)

    def enqueue(self, operation: Operation, waiting: Waiting) -> None:
        """Apply one operation and answer `waiting`, a future or what is used like one: `get_loop` from any
        thread, `done`, `set_result` and `set_exception` in that loop. Raises `Unavailable` when closing.
        """
        if self._closing:
            raise _closing()
        self._queue.append((operation, waiting))
        # The thread says what it waits for before it looks at the queue for the last time, so nobody is
        # overlooked; while it works, nobody has to wake it.
        if 0 < self._wanted <= len(self._queue):
            self._wake()
        if self._closed:
            self._refuse_rest()

    def _wake(self) -> None:
        self._wanted = 0
        with contextlib.suppress(RuntimeError):  # the gate is open already
            self._gate.release()

    def _refuse_rest(self) -> None:
        """Answer whoever came while the writer left; it and they both look, so nobody is forgotten."""
        while self._queue:
            with contextlib.suppress(IndexError):
                _deliver([self._queue.popleft()], [_closing()])

    def _run(self) -> None:
        while True:
            while not self._queue and not self._closing:
                self._sleep(1, -1)
            if not self._queue:
                break
            expected = self._company.expected(len(self._queue))
            if expected:
                self._sleep(min(expected, _MOST_AT_ONCE), WAIT_S)
            count = min(len(self._queue), _MOST_AT_ONCE)
            self._company.began(count, time.monotonic())
            batch = [self._queue.popleft() for _ in range(count)]
            try:
                results = self._durably([operation for operation, _ in batch])
            except Exception as error:
                # Whatever it is, it must not end the thread: everybody would wait for ever.
                log.exception("a batch of the ledger failed")
                self._disconnect()
                results = [_meaning(error)] * count
            self._company.answered(count, len(self._queue))
            _deliver(batch, results)
        self._closed = True
        self._refuse_rest()
        self._disconnect()

    def _sleep(self, wanted: int, seconds: float) -> None:
        """Sleep until so many operations are queued, or so long (-1: for ever); may wake for nothing."""
        self._wanted = wanted
        if len(self._queue) < wanted and not self._closing:
            self._gate.acquire(timeout=seconds)
        self._wanted = 0

    def _durably(self, operations: list[Operation]) -> list[Result]:
        deadline = time.monotonic() + _PATIENCE_S
        self._unseen = None
        while True:
            try:
                return self._transaction(operations)
            except Exception as error:
                if not _is_away(error):
                    return self._halves(operations, error)
                self._disconnect()
                if time.monotonic() > deadline or _is_full(error):
                    # A database that says that it is full has taken the batch back.
                    told = _is_full(error) and not isinstance(error, OSError)
                    sure = told or self._unseen is None
                    return [_unavailable(error, sure=sure)] * len(operations)
                time.sleep(_RECONNECT_S)

    def _halves(self, operations: list[Operation], error: Exception) -> list[Result]:
        """Find who spoiled the batch: it alone gets the error."""
        if len(operations) == 1:
            return [_meaning(error)]
        middle = len(operations) // 2
        return self._durably(operations[:middle]) + self._durably(operations[middle:])

    def _transaction(self, operations: list[Operation]) -> list[Result]:
        if self._dialect is None:
            self._dialect = dialect_of(self._connect())
        with self._turn:
            return self._in_turn(self._dialect, operations)

    def _in_turn(self, dialect: Dialect, operations: list[Operation]) -> list[Result]:
        dialect.begin()
        try:
            results = self._committed_unseen()
            if results is None:
                run = BatchRun(dialect, self._lane, self._clearing)
                results = run.apply(operations)
                self._unseen = (run, results) if run.head or run.opened else None
            dialect.commit(durable=not _UNHURRIED.issuperset(map(type, operations)))
        except BaseException:
            with contextlib.suppress(Exception):
                dialect.rollback()
            raise
        return results

    def _committed_unseen(self) -> list[Result] | None:
        """Return what the try before this one has done, if only the answer to its COMMIT was lost."""
        if self._unseen is None or self._dialect is None:
            return None
        run, results = self._unseen
        # Asked for in any case: it waits until that try has ended.
        done = self._dialect.head(self._lane) == run.head
        if run.opened:
            done = self._dialect.is_held(self._lane, *run.opened)
        return results if done else None

    def _disconnect(self) -> None:
        if self._dialect is not None:
            with contextlib.suppress(Exception):
                self._dialect.close()
        self._dialect = None


def _clearing_id(dialect: Dialect) -> int:
    found = dialect.account_id(CLEARING)
    if found is None:
        raise NotFound(
            "There is no ledger in this database.",
            rule="ledger.account",
            remedy="Run `tokenmart init`.",
        )
    return found


def _deliver(batch: list[tuple[Operation, Waiting]], results: list[Result]) -> None:
    """Answer everybody; each event loop is woken once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Any, Result]]] = {}
    for (_, waiting), result in zip(batch, results, strict=True):
        if waiting.__class__ is Future:
            _answer(((waiting, result),))
            continue
        loop = waiting.get_loop()  # type: ignore[union-attr]
        if loop in by_loop:
            by_loop[loop].append((waiting, result))
        else:
            by_loop[loop] = [(waiting, result)]
    for loop, answers in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop has gone; so have those who waited
            loop.call_soon_threadsafe(_answer, answers)


def _answer(answers: Iterable[tuple[Any, Result]]) -> None:
    for waiting, result in answers:
        if waiting.done():
            continue
        if isinstance(result, TokenMartError):
            waiting.set_exception(result)
        else:
            waiting.set_result(result)


def _named(error: Exception, *names: str) -> bool:
    # By name, because SQLite's driver and PostgreSQL's share none of their classes.
    return any(parent.__name__ in names for parent in type(error).__mro__)


def _is_away(error: Exception) -> bool:
    return _named(error, "OperationalError", "InterfaceError", "OSError")


def _is_full(error: Exception) -> bool:
    if getattr(error, "errno", None) == errno.ENOSPC:
        return True
    return _named(error, "DiskFull") or getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"


def _meaning(error: Exception) -> TokenMartError:
    if isinstance(error, TokenMartError):
        return error
    if not _named(error, "IntegrityError"):
        return InternalError(f"The ledger could not book this: {error!r}.", rule="ledger.writer")
    if _named(error, "CheckViolation") or "CHECK constraint" in str(error):
        return LedgerCorrupt(f"The database refused a balance: {error}", rule="ledger.check")
    return Conflict("This id has been used for something else.", rule="ledger.once")


def _closing() -> Unavailable:
    return Unavailable("The ledger is closing.", remedy="Try another replica.")


def _unavailable(error: Exception, *, sure: bool) -> Unavailable:
    why = "its disk is full" if _is_full(error) else "it cannot be reached"
    outcome = "Nothing was charged." if sure else "Whether it has booked this is not known yet."
    return Unavailable(
        f"The ledger cannot write: {why}. {outcome}",
        code="ledger_unavailable",
        rule="ledger.durable",
        remedy="Try again later.",
        retry_after_s=5,
    )
