"""The ceiling of `benchmarks.ledger`: a recorded trace, said again by the bare driver.

    python -m benchmarks.ledger_raw --url … --trace trace.msgpack

The same statements with the same values in the same transactions on a database in the same state. No
queue, no decisions, no chain, no JSON: what is left is the driver, the database and the disk.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from catalog.ground.database import Database


def play(database: Database, calls: Sequence[tuple[str, str, Any]]) -> tuple[float, float]:
    """Say every statement and read every answer; returns wall and CPU seconds."""
    connection = database.raw_connection()
    target = connection if database.kind == "sqlite" else connection.cursor()
    started, cpu = time.perf_counter(), time.process_time()
    for method, sql, values in calls:
        if method == "copy":
            with target.copy(sql) as copying:
                copying.write(values)
        elif method == "executemany":
            target.executemany(sql, values)
        else:
            done = target.execute(sql, values) if values is not None else target.execute(sql)
            if done.description is not None:
                done.fetchall()
    took = time.perf_counter() - started, time.process_time() - cpu
    connection.close()
    return took


def main() -> None:
    """Read the command line, play, print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_raw")
    parser.add_argument("--url", required=True)
    parser.add_argument("--trace", required=True, type=Path)
    arguments = parser.parse_args()
    calls = msgspec.msgpack.decode(
        arguments.trace.read_bytes(), type=list[tuple[str, str, Any]], strict=False
    )
    gc.collect()
    gc.freeze()
    seconds, cpu_s = play(Database(arguments.url), calls)
    commits = sum(sql == "COMMIT" for _, sql, _ in calls)
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "commits": commits}))


if __name__ == "__main__":
    main()
