"""Machines that share a database share its limits, as many as there are at the time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from support.market import SEED, Market, environment_of, wait_until
from support.workers import market_on_postgres

from catalog.ground.database import Database
from marketplace.gateway.presence import Presence

LIMIT = 6_000
"""Calls a minute that an organisation has unless its operator says otherwise."""


def _told(url: str, key: str) -> int:
    """Return how many calls a minute this machine says that the key may make here."""
    body = json.dumps({"model": SEED, "messages": [{"role": "user", "content": "白色"}]}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        body,
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.headers["x-ratelimit-limit-requests"])


def _second_machine(market: Market, data_dir: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "marketplace.cli", "serve", "gateway", "--port", "0"],
        env=environment_of(data_dir, market.database_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if "http" in line:
            return process, line.split()[-1]
    raise AssertionError("".join(printed))


def test_limits_are_divided_among_the_machines_that_serve(
    postgres_server: Callable[[str], str], tmp_path: Path
) -> None:
    with market_on_postgres(postgres_server, tmp_path / "one") as first:
        _, key = first.organisation(voucher_u=10_000_000)
        assert _told(first.url, key) == LIMIT
        process, second = _second_machine(first, tmp_path / "two")
        try:
            wait_until(lambda: _told(first.url, key) == LIMIT // 2)
            assert _told(second, key) == LIMIT // 2
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        wait_until(lambda: _told(first.url, key) == LIMIT)


def test_a_machine_that_falls_silent_counts_no_more(postgres_url: str) -> None:
    database = Database(postgres_url)
    silent, alive = Presence(database, 3), Presence(database, 2)
    assert silent.renew() == 3
    assert alive.renew() == 5
    with database.session() as session:
        session.connection().exec_driver_sql(
            "UPDATE gateway_presence SET seen_at_us = seen_at_us - 11000000 WHERE workers = 3"
        )
    assert alive.renew() == 2
    assert silent.renew() == 5  # it was only slow
    silent.leave()
    assert alive.renew() == 2
    database.engine.dispose()
