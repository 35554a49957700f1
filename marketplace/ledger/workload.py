"""A workload for the ledger alone: prepare a database, put load on it, print what it did as JSON.

    python -m marketplace.ledger.workload prepare --url … [--past-events 1000000]
    python -m marketplace.ledger.workload run --url … --legs 3 --requests 20000 --tasks 64
    python -m marketplace.ledger.workload verify --url …

`benchmarks.ledger` starts it as a process, because benchmarks do not import the marketplace.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import text

from catalog.ground.clock import now_us
from catalog.ground.database import Database
from catalog.ground.errors import TokenMartError
from catalog.ground.ids import new_id
from marketplace.ledger import trace
from marketplace.ledger.accounts import account_id, apply_now, open_account, open_lane
from marketplace.ledger.chart import BANK, CLEARING, Code, Rule, grant, owner_unsettled, wallet
from marketplace.ledger.dialect import dialect_of
from marketplace.ledger.journal import BatchRun
from marketplace.ledger.operations import Available, Entry, Hold, Leg, Post, Settle
from marketplace.ledger.verify import verify
from marketplace.ledger.writer import LedgerWriter

ORGS = 64
LANE = "workload"
"""Opened beforehand, so that a trace of a run can be replayed on a copy of the prepared database."""
HELD_U = 900
USED_U = 600
_RICH_U = 10**15
_FILL = 2_000


def prepare(database: Database) -> None:
    """Migrate and open the accounts: for each organisation a wallet and two vouchers, filled."""
    from marketplace.migrations.migrate import migrate

    migrate(database)
    with database.session() as session:
        bank = account_id(session, BANK)
        open_account(session, owner_unsettled("maker"), Rule.PROJECTION)
        open_lane(session, LANE)
        for number in range(ORGS):
            codes = [wallet(f"o{number}"), grant(f"o{number}a"), grant(f"o{number}b")]
            for code in codes:
                account = open_account(session, code, Rule.DEBITS_WITHIN_CREDITS)
                entry = Entry(Code.TOPUP, bank, account, _RICH_U)
                apply_now(session, Post(f"fill:{code}", (entry,), now_us()))


class Books:
    """The account ids that the workload uses."""

    def __init__(self, database: Database) -> None:
        with database.reading() as session:
            self.clearing = account_id(session, CLEARING)
            self.owner = account_id(session, owner_unsettled("maker"))
            self.payers = [
                tuple(
                    account_id(session, code)
                    for code in (grant(f"o{n}a"), grant(f"o{n}b"), wallet(f"o{n}"))
                )
                for n in range(ORGS)
            ]


def hold(books: Books, tx: str, org: int, legs: int, at_us: int) -> Hold:
    """Return a hold of `HELD_U` in equal legs."""
    payers = books.payers[org][-legs:]

    def decide(_available: Available) -> tuple[tuple[Leg, ...], str]:
        promised = tuple(Leg(payer, HELD_U // legs, books.clearing) for payer in payers)
        return promised, _PLAN

    return Hold(tx, f"o{org}", payers, decide, at_us, at_us + 120_000_000)


def settle(books: Books, tx: str, org: int, legs: int, at_us: int) -> Settle:
    """Return its settlement for `USED_U`, with an accrual to one owner."""
    accrue = Entry(Code.ACCRUE, books.clearing, books.owner, USED_U)
    return Settle(tx, (USED_U // legs,) * legs, (accrue,), usage_row(tx, org, legs, at_us), at_us)


def usage_row(tx: str, org: int, legs: int, at_us: int) -> tuple[Any, ...]:
    """Return a usage event as long as real ones are (fields in the table's order)."""
    wallet_u = USED_U // legs
    return (
        tx, f"o{org}", f"key_{org:026d}", f"prj_{org:026d}", "maker/chat-mini", "0" * 64,
        f"end_{org % 4:026d}", "maker", "prc_01K0000000000000000000PRICE",
        '{"input_u_per_m":1000000,"output_u_per_m":2000000}', at_us, at_us + 9_000, at_us + 90_000,
        200, 0, 0, 200, 0, "provider", "ok", 1, USED_U, USED_U, wallet_u, USED_U - wallet_u, 0, 0,
        '{"prompt_tokens":200,"completion_tokens":200,"total_tokens":400}',
        '{"endpoint":"end_01","why":"first healthy"}', "f" * 64,
    )  # fmt: skip


_PLAN = '[1,900,400,7,300,0,[["grt_01K000000000000000000GRANTA",9,0,300,300,1,3333,0,10000,0]]]'


async def run(database: Database, legs: int, requests: int, tasks: int) -> dict[str, Any]:
    """Hold and settle `requests` calls from `tasks` tasks; return rates and growth."""
    books = Books(database)
    writer = LedgerWriter(database.raw_connection, LANE)
    # Who calls brings the id, so making it is not the ledger's time.
    ids = deque((new_id("gen"), number % ORGS) for number in range(requests))
    waits: list[float] = []

    async def caller() -> None:
        while ids:
            tx, org = ids.popleft()
            began = time.perf_counter()
            await writer.apply(hold(books, tx, org, legs, now_us()))
            await writer.apply(settle(books, tx, org, legs, now_us()))
            waits.append(time.perf_counter() - began)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(tasks)))
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    await asyncio.to_thread(writer.close)
    waits.sort()
    return {
        "requests": len(waits),
        "seconds": took,
        "per_s": len(waits) / took,
        "cpu_us_per_request": cpu / len(waits) * 1e6,
        "hold_and_settle_ms_p50": waits[len(waits) // 2] * 1e3,
        "hold_and_settle_ms_p99": waits[len(waits) * 99 // 100] * 1e3,
    }


def fill(database: Database, events: int) -> None:
    """Book `events` past calls of one leg through the journal, 2,000 a transaction."""
    books = Books(database)
    with database.session() as session:
        lane = open_lane(session, "past")
    connection = database.raw_connection()
    dialect = dialect_of(connection)
    for start in range(0, events, _FILL):
        ids = [(new_id("gen"), n % ORGS) for n in range(start, min(start + _FILL, events))]
        at_us = now_us()
        for operations in (
            [hold(books, tx, org, 1, at_us) for tx, org in ids],
            [settle(books, tx, org, 1, at_us) for tx, org in ids],
        ):
            dialect.begin()
            for outcome in BatchRun(dialect, lane, books.clearing).apply(operations):
                if isinstance(outcome, TokenMartError):
                    raise outcome
            dialect.commit()
    connection.close()


def size_bytes(database: Database) -> int:
    """Return how much the database has on disk, write-ahead log folded in."""
    with database.engine.connect() as connection:
        if database.kind == "postgresql":
            return int(
                connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
            )
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        return int(pages) * int(connection.execute(text("PRAGMA page_size")).scalar_one())


def _run(arguments: argparse.Namespace) -> None:
    database = (trace.TracedDatabase if arguments.trace else Database)(arguments.url)
    before = size_bytes(database)
    gc.collect()
    gc.freeze()
    if arguments.trace:
        # A trace keeps every row alive; walking them again and again is the trace's cost, not the ledger's.
        gc.disable()
    report = uvloop.run(run(database, arguments.legs, arguments.requests, arguments.tasks))
    report["bytes_per_request"] = (size_bytes(database) - before) / report["requests"]
    if arguments.trace and isinstance(database, trace.TracedDatabase):
        trace.save(database.calls, arguments.trace)
    print(json.dumps(report))


def _prepare(arguments: argparse.Namespace) -> None:
    database = Database(arguments.url)
    prepare(database)
    if arguments.past_events:
        fill(database, arguments.past_events)


def _verify(arguments: argparse.Namespace) -> None:
    report = verify(Database(arguments.url))
    told = {
        "rows": report.transfers + report.events,
        "seconds": report.seconds,
        "rows_per_s": report.rows_per_s,
        "problems": len(report.problems),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told))


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(prog="python -m marketplace.ledger.workload")
    verbs = parser.add_subparsers(required=True)
    preparing = verbs.add_parser("prepare", help="migrate and fill accounts")
    preparing.add_argument("--past-events", type=int, default=0)
    running = verbs.add_parser("run", help="hold and settle")
    running.add_argument("--legs", type=int, default=1, choices=(1, 3))
    running.add_argument("--requests", type=int, default=10_000)
    running.add_argument("--tasks", type=int, default=64)
    running.add_argument("--trace", type=Path, help="write every statement to this file")
    action: Callable[[argparse.Namespace], None]
    verifying = verbs.add_parser("verify", help="prove the ledger; print rate and memory")
    for verb, action in ((preparing, _prepare), (running, _run), (verifying, _verify)):
        verb.add_argument("--url", required=True)
        verb.set_defaults(action=action)
    arguments = parser.parse_args()
    arguments.action(arguments)


if __name__ == "__main__":
    main()
