"""The journal's SQL for PostgreSQL: a batch is two round trips.

Rows are locked in the order of their ids, first accounts, then holds, so no two writers deadlock. Rows
and lists travel as one JSON value each, because making it costs this process a fraction of what COPY or
arrays of columns do, and the chain has made it already.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from psycopg.errors import DivisionByZero
from psycopg.pq import TransactionStatus

from catalog.ground.errors import LedgerCorrupt
from marketplace.ledger.chain import as_json
from marketplace.ledger.dialect import (
    ACCOUNT_ID,
    ACCOUNTS,
    EVENT_COLUMNS,
    HOLD_COLUMNS,
    LANE_ID,
    OPEN_LANE,
    TRANSFER_COLUMNS,
    USAGE_COLUMNS,
    Legs,
    Taken,
    Written,
    decode_legs,
)
from marketplace.ledger.pipeline import Pipeline, Statement

_LISTED = b"ANY(ARRAY(SELECT jsonb_array_elements_text($1::jsonb)))"
_TEXT = ("usage_source", "outcome", "raw_usage", "route", "request_sha256", "tx", "legs", "plan")
TEXT_COLUMNS = frozenset((*USAGE_COLUMNS[:10], *_TEXT))
"""Which columns of the journal hold text; the others hold whole numbers."""
_BEGIN: Statement = (b"BEGIN", ())
_COMMIT: Statement = (b"COMMIT", ())
_UNHURRIED: Statement = (b"SET LOCAL synchronous_commit = off", ())
_ROLLBACK: Statement = (b"ROLLBACK", ())
_LANE = b"SELECT next_seq, next_batch, head FROM ledger_lane WHERE id=$1 FOR UPDATE"
_ORDERED = b"ORDER BY id FOR NO KEY UPDATE"
_LOCK = b"%s = ANY($1::int[]) %s" % (ACCOUNTS.encode(), _ORDERED)
_LOCK_AND_ENDING = (
    b"%s = ANY($2::int[] || ARRAY(SELECT (leg->>0)::int FROM ledger_hold AS h, "
    b"json_array_elements(h.legs::json) AS leg WHERE h.tx = %s)) %s"
) % (ACCOUNTS.encode(), _LISTED, _ORDERED)
_TAKE = (
    b"WITH ending AS (SELECT tx FROM ledger_hold WHERE tx = %s ORDER BY tx FOR UPDATE) "
    b"DELETE FROM ledger_hold AS h USING ending WHERE h.tx = ending.tx RETURNING h.tx, h.legs"
) % _LISTED
_POSTED = (
    b"WITH given AS (SELECT jsonb_array_elements_text($1::jsonb) AS tx) "
    b"SELECT tx FROM ledger_transfer WHERE tx IN (SELECT tx FROM given) UNION ALL "
    b"SELECT tx FROM ledger_archived_tx WHERE tx IN (SELECT tx FROM given)"
)
_SETTLED = b"SELECT id FROM usage_event WHERE id = %s" % _LISTED
_IS_HELD = b"SELECT 1 FROM ledger_hold WHERE tx=$1 AND lane=$2 AND held_at_us=$3"
_RENEW = b"UPDATE ledger_hold SET expires_at_us=$1 WHERE tx=$2"
_UPDATE_ACCOUNTS = (
    # COMMIT is on its way already, so a row that is not there has to be an error here: x / 0.
    b"WITH done AS (UPDATE ledger_account AS a SET dr_pending=v.b, dr_posted=v.c, cr_pending=v.d, "
    b"cr_posted=v.e FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[]) "
    b"AS v(b, c, d, e, id) WHERE a.id = v.id RETURNING 1) "
    b"SELECT 1 / (count(*) = cardinality($5::int[]))::int FROM done"
)
_SEAL = (
    b"WITH sealed AS (INSERT INTO ledger_batch (lane, n, first_seq, last_seq, sha256) "
    b"VALUES ($1, $2, $3, $4, $5) RETURNING *) UPDATE ledger_lane AS l SET "
    b"next_seq=s.last_seq+1, next_batch=s.n+1, head=s.sha256 FROM sealed AS s WHERE l.id=s.lane"
)


def _insert(table: str, columns: Sequence[str]) -> bytes:
    """Return the statement that inserts rows given as one JSON array of arrays."""
    fields = (
        f"r->>{number}" if column in TEXT_COLUMNS
        # Only this may be null, which as JSON is no number.
        else f"(r->>{number})::bigint" if column == "debit_total"
        else f"(r->{number})::bigint"
        for number, column in enumerate(columns)
    )  # fmt: skip
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(fields)} "
        "FROM jsonb_array_elements($1::jsonb) AS r"
    ).encode()


_INSERT_TRANSFERS = _insert("ledger_transfer", TRANSFER_COLUMNS)
_INSERT_HOLDS = _insert("ledger_hold", HOLD_COLUMNS)
_INSERT_EVENTS = _insert("usage_event", EVENT_COLUMNS)


class PostgresDialect:
    """One `psycopg` connection.

    After `begin` the transaction is ours: BEGIN goes out with the first statement, what is written waits
    for COMMIT and goes out with it, and statements are prepared. Inside somebody else's transaction
    everything is sent at once.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._pipeline = Pipeline(connection)
        self._ours = False
        self._unsent: list[Statement] = []

    def begin(self) -> None:
        self._ours = True
        self._unsent = [_BEGIN]

    def commit(self, *, durable: bool = True) -> None:
        self._send(*(() if durable else (_UNHURRIED,)), _COMMIT)
        self._ours = False

    def rollback(self) -> None:
        self._unsent = []
        self._ours = False
        if self._connection.info.transaction_status != TransactionStatus.IDLE:
            self._pipeline.talk([_ROLLBACK], prepare=False)

    def close(self) -> None:
        self._connection.close()

    def open_lane(self, name: str, at_us: int) -> int:
        execute = self._connection.execute
        execute(OPEN_LANE.replace("?", "%s"), (name, at_us))
        return int(execute(LANE_ID.replace("?", "%s"), (name,)).fetchone()[0])

    def account_id(self, code: str) -> int | None:
        found = self._connection.execute(ACCOUNT_ID.replace("?", "%s"), (code,)).fetchone()
        return found and int(found[0])

    def take(
        self, lane_id: int, ending: Sequence[str], posts: Sequence[str], accounts: Collection[int]
    ) -> Taken:
        asked: list[Statement] = [(_LANE, (b"%d" % lane_id,))]
        if ending:
            listed = as_json(ending)
            asked += ((_LOCK_AND_ENDING, (listed, _array(accounts))), (_TAKE, (listed,)))
        elif accounts:
            asked.append((_LOCK, (_array(accounts),)))
        if posts:
            asked.append((_POSTED, (as_json(posts),)))
        answers = self._send(*asked)
        next_seq, next_batch, head = _texts(answers[0])[0]
        found = _numbers(answers[1]) if ending or accounts else []
        taken = _texts(answers[2]) if ending else []
        holds: dict[str, Legs] = {tx: decode_legs(legs) for tx, legs in taken}
        # A hold that was opened between the two statements has accounts that nobody has locked.
        missing = {leg[0] for legs in holds.values() for leg in legs} - {row[0] for row in found}
        if missing:
            found += _numbers(self._send((_LOCK, (_array(missing),)))[0])
        posted = {tx for (tx,) in _texts(answers[-1])} if posts else set()
        totals = {account_id: row for account_id, *row in found}
        return Taken((int(next_seq), int(next_batch), head), holds, posted, totals)

    def head(self, lane_id: int) -> str:
        # Its lock waits for a transaction of ours that the server has not given up yet.
        (answer,) = self._send((_LANE, (b"%d" % lane_id,)))
        return str(_texts(answer)[0][2])

    def is_held(self, lane_id: int, tx: str, at_us: int) -> bool:
        (answer,) = self._send((_IS_HELD, (tx.encode(), b"%d" % lane_id, b"%d" % at_us)))
        return bool(answer.ntuples)

    def settled(self, event_ids: Sequence[str]) -> set[str]:
        (answer,) = self._send((_SETTLED, (as_json(event_ids),)))
        return {event_id for (event_id,) in _texts(answer)}

    def renew(self, tx: str, expires_at_us: int) -> bool:
        (answer,) = self._send((_RENEW, (b"%d" % expires_at_us, tx.encode())))
        return bool(answer.command_tuples)

    def write(self, rows: Written) -> None:
        unsent = self._unsent
        if rows.accounts:
            columns = [_array(column) for column in zip(*rows.accounts, strict=True)]
            unsent.append((_UPDATE_ACCOUNTS, columns))
        if rows.transfers:
            unsent.append((_INSERT_TRANSFERS, (rows.transfers_json,)))
        if rows.holds:
            unsent.append((_INSERT_HOLDS, (as_json(rows.holds),)))
        if rows.events:
            unsent.append((_INSERT_EVENTS, (rows.events_json,)))
        if rows.seal is not None:
            lane, n, first_seq, last_seq, head = rows.seal
            numbers = [b"%d" % number for number in (lane, n, first_seq, last_seq)]
            unsent.append((_SEAL, (*numbers, head.encode())))
        if not self._ours:
            self._send()

    def _send(self, *statements: Statement) -> list[Any]:
        """Send what waits, then `statements`; return the answers to these."""
        said, self._unsent = [*self._unsent, *statements], []
        if not said:
            return []
        try:
            answers = self._pipeline.talk(said, prepare=self._ours)
        except DivisionByZero as error:
            raise LedgerCorrupt("An account vanished under its lock.") from error
        return answers[len(said) - len(statements) :]


def _array(numbers: Collection[int]) -> bytes:
    """Return whole numbers as an array in PostgreSQL's text form."""
    return b"{%s}" % as_json(numbers)[1:-1]


def _texts(answer: Any) -> list[tuple[Any, ...]]:
    get, columns = answer.get_value, range(answer.nfields)
    return [
        tuple([get(row, column).decode() for column in columns]) for row in range(answer.ntuples)
    ]


def _numbers(answer: Any) -> list[tuple[Any, ...]]:
    get, columns = answer.get_value, range(answer.nfields)
    return [tuple([int(get(row, column)) for column in columns]) for row in range(answer.ntuples)]
