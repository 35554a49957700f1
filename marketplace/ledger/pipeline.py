"""Several statements to PostgreSQL in one round trip, by libpq's pipeline mode.

`psycopg`'s cursors cost more processor time than the statements of a batch, so this speaks its `pq` layer
itself: parameters and answers are text, statements are prepared on the server the first time.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from psycopg import errors
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus

_FINE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)

Statement = tuple[bytes, Sequence[bytes]]
"""SQL with `$1`, `$2`, … and their values in PostgreSQL's text form."""


class Pipeline:
    """What is said over one `psycopg` connection, in the order in which it was said."""

    def __init__(self, connection: Any) -> None:
        self._pgconn = connection.pgconn
        self._poll = select.poll()
        self._names: dict[bytes, bytes] = {}
        self._numbers = count()

    def talk(self, statements: Sequence[Statement], *, prepare: bool) -> list[Any]:
        """Send every statement, wait for all answers, return them (`psycopg.pq.PGresult`) in order.

        The first error is raised; the statements after it were not executed. Prepare only on a
        connection that is this pipeline's own: a pool forgets prepared statements behind its back.
        """
        pgconn = self._pgconn
        if not prepare:
            return self._round_trip([(pgconn.send_query_params, *each) for each in statements])
        names = self._names
        fresh = {sql for sql, _ in statements if sql not in names}
        if fresh:
            named = {sql: b"tm_%d" % next(self._numbers) for sql in fresh}
            self._round_trip([(pgconn.send_prepare, name, sql) for sql, name in named.items()])
            names.update(named)
        send = pgconn.send_query_prepared
        return self._round_trip([(send, names[sql], values) for sql, values in statements])

    def _round_trip(self, said: list[tuple[Callable[[bytes, Any], None], bytes, Any]]) -> list[Any]:
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        for send, first, second in said:
            send(first, second)
        pgconn.pipeline_sync()
        self._flush()
        answers = self._answers()
        pgconn.exit_pipeline_mode()
        for answer in answers:
            if answer.status not in _FINE:
                raise _error(answer)
        return answers

    def _flush(self) -> None:
        pgconn = self._pgconn
        while pgconn.flush():
            self._wait(select.POLLIN | select.POLLOUT)
            pgconn.consume_input()

    def _answers(self) -> list[Any]:
        pgconn = self._pgconn
        answers: list[Any] = []
        while True:
            while pgconn.is_busy():
                self._wait(select.POLLIN)
                pgconn.consume_input()
            answer = pgconn.get_result()
            if answer is None:
                if pgconn.status == ConnStatus.BAD:
                    raise _lost(answers)
                continue
            if answer.status == ExecStatus.PIPELINE_SYNC:
                return answers
            answers.append(answer)

    def _wait(self, events: int) -> None:
        self._poll.register(self._pgconn.socket, events)
        self._poll.poll()


def _lost(answers: list[Any]) -> Exception:
    """Return why the connection is gone: the last thing that was heard, when it was an error."""
    if answers and answers[-1].status not in _FINE:
        return _error(answers[-1])
    return errors.OperationalError("the connection was lost")


def _error(answer: Any) -> Exception:
    state = answer.error_field(DiagnosticField.SQLSTATE)
    if state is None:  # not from the server, so the connection is to blame
        return errors.OperationalError(answer.get_error_message())
    try:
        kind: type[Exception] = errors.lookup(state.decode())
    except KeyError:
        kind = errors.DatabaseError
    return kind(answer.get_error_message())
