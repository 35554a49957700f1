"""The ceiling of `benchmarks.ledger`: a recorded trace, said again by the bare driver.

    python -m benchmarks.ledger_raw --url … --trace trace.msgpack

The same statements with the same values in the same transactions on a database in the same state. No
queue, no decisions, no chain, no JSON: what is left is the driver, the database and the disk.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from psycopg.pq import ExecStatus

from catalog.ground.database import Database
from catalog.ground.driver import sqlite_path

Call = tuple[str, Any, Any]


def play(database: Database, calls: Sequence[Call]) -> tuple[float, float]:
    """Say every statement and read every answer; returns wall and CPU seconds."""
    connection = database.raw_connection()
    connection.execute("SELECT id FROM ledger_lane").fetchall()  # so that SQLite's log is there
    started, cpu = time.perf_counter(), time.process_time()
    if database.kind == "sqlite":
        _sqlite(connection, calls, Path(sqlite_path(database.url) + "-wal"))
    else:
        _postgres(connection.pgconn, calls)
    took = time.perf_counter() - started, time.process_time() - cpu
    connection.close()
    return took


def _sqlite(connection: Any, calls: Sequence[Call], path: Path) -> None:
    with path.open("rb") as log:
        for method, sql, values in calls:
            if method == "fdatasync":
                os.fdatasync(log.fileno())
            elif method == "executemany":
                connection.executemany(sql, values)
            else:
                connection.execute(sql, values).fetchall()


def _postgres(pgconn: Any, calls: Sequence[Call]) -> None:
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    pgconn.enter_pipeline_mode()
    for method, name, what in calls:
        if method == "prepare":
            pgconn.send_prepare(name, what)
        elif method == "prepared":
            pgconn.send_query_prepared(name, what)
        else:
            pgconn.pipeline_sync()
            while pgconn.flush():
                poll.poll()
                pgconn.consume_input()
            _read_all(pgconn, poll)


def _read_all(pgconn: Any, poll: select.poll) -> None:
    while True:
        while pgconn.is_busy():
            poll.poll()
            pgconn.consume_input()
        answer = pgconn.get_result()
        if answer is None:
            continue
        status = ExecStatus(answer.status)
        if status == ExecStatus.PIPELINE_SYNC:
            return
        if status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            sys.exit(f"the replay failed: {answer.get_error_message()}")


def main() -> None:
    """Read the command line, play, print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_raw")
    parser.add_argument("--url", required=True)
    parser.add_argument("--trace", required=True, type=Path)
    arguments = parser.parse_args()
    calls = msgspec.msgpack.decode(arguments.trace.read_bytes(), type=list[Call], strict=False)
    gc.collect()
    gc.freeze()
    seconds, cpu_s = play(Database(arguments.url), calls)
    commits = sum(method == "execute" and sql == "COMMIT" for method, sql, _ in calls)
    names = {name for method, name, sql in calls if method == "prepare" and sql == b"COMMIT"}
    commits += sum(method == "prepared" and name in names for method, name, _ in calls)
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "commits": commits}))


if __name__ == "__main__":
    main()
