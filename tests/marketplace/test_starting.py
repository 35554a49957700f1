"""What happens to a running marketplace when a second one is started, and when its database goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import openai
import pytest
from support.fault_database import PostgresServer, fragile
from support.market import SEED, TITLE, Market, environment_of, wait_until
from support.workers import children_of


def test_a_second_one_leaves_the_first_alone(market: Market, client: openai.OpenAI) -> None:
    port = market.url.rpartition(":")[2]
    second = market.run("up", "--port", port)
    assert second.returncode == 1
    assert "cannot be listened on" in second.stderr or "serves" in second.stderr
    assert "Traceback" not in second.stderr
    answer = client.chat.completions.create(
        model=SEED, messages=[{"role": "user", "content": TITLE}]
    )
    assert answer.choices[0].message.content


@pytest.mark.parametrize("market", ["sqlite"], indirect=True)
def test_an_sqlite_file_has_one_office(market: Market) -> None:
    for command in (("up",), ("serve", "gateway")):
        second = market.run(*command, "--port", "0")
        assert second.returncode == 1
        assert "Another TokenMart serves" in second.stderr


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://nobody@127.0.0.1:1/nothing", "TOKENMART_DATABASE_URL"),
        ("sqlite:////nowhere/at/all.db", "TOKENMART_DATABASE_URL"),
        ("", "tokenmart init"),
    ],
)
def test_a_database_that_is_not_there_is_a_sentence(tmp_path: Path, url: str, words: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "marketplace.cli", "usage"],
        env=environment_of(tmp_path, url),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("tokenmart: The database ")
    assert words in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    # /tmp itself: PostgreSQL refuses socket paths over 107 characters.
    with TemporaryDirectory(prefix="tm-start-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        with fragile("postgresql", Path(name)) as found:
            assert isinstance(found, PostgresServer)
            yield found


def test_an_engine_that_ends_without_a_database_comes_back(
    server: PostgresServer, tmp_path: Path
) -> None:
    market = Market(tmp_path, server.url, environment_of(tmp_path, server.url))
    market.start()
    try:
        assert _status(market) == 200
        server.stop()
        away = httpx2.get(f"{market.url}/v1/key", headers=_key(market))
        assert (away.status_code, away.json()["error"]["code"]) == (503, "database_away")
        assert int(away.headers["retry-after"]) > 0
        (seed_engine,) = children_of(market, b"serving.onnx_engine")
        os.kill(seed_engine, signal.SIGKILL)
        wait_until(lambda: any("where the engine is" in line for line in market.printed))
        server.mend()
        wait_until(lambda: _status(market) == 200, 30)
    finally:
        market.stop()
    assert market.process is not None
    assert market.process.returncode == 0


def _key(market: Market) -> dict[str, str]:
    return {"authorization": f"Bearer {market.demo_key}"}


def _status(market: Market) -> int:
    body = {"model": SEED, "messages": [{"role": "user", "content": TITLE}]}
    url = f"{market.url}/v1/chat/completions"
    return httpx2.post(url, json=body, headers=_key(market), timeout=30).status_code
