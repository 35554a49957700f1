"""Reserves behind the door: many callers spend a voucher to its end, and nothing stays put aside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import openai
import pytest
from sqlalchemy import text
from support.market import Market, environment_of, wait_until
from support.upstream import Upstream, events_of
from support.workers import market_on_postgres

from marketplace.prices.components import Components

PRICE_U = 10_000
PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=PRICE_U)
CALLS = 600
CALLERS = 24
PATIENCE_S = 5.0
_NO_LIMITS = {"TOKENMART_ORG_RPM": "0", "TOKENMART_ORG_CONCURRENCY": "0"}


_KINDS = ["sqlite, one worker", "sqlite, Python alone", "postgresql, three"]


@pytest.fixture(scope="module", params=_KINDS)
def unlimited(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("reserves")
    if request.param.startswith("sqlite"):
        url = f"sqlite:///{folder / 'market.db'}"
        mode = {"TOKENMART_GATEWAY_EXPRESS": "off"} if "alone" in request.param else {}
        market = Market(folder, url, environment_of(folder, url, **_NO_LIMITS, **mode))
        market.start()
        yield market
        market.stop()
        return
    server: Callable[[str], str] = request.getfixturevalue("postgres_server")
    with market_on_postgres(server, folder, TOKENMART_WORKERS="3", **_NO_LIMITS) as market:
        yield market


def test_a_voucher_is_spent_to_its_end_by_many_callers(unlimited: Market, engine: Upstream) -> None:
    slug = unlimited.listing(PER_CALL, url=engine.url, model="m", context_length=100_000)
    org_id, key = unlimited.organisation(voucher_u=CALLS * PRICE_U)

    async def caller(client: openai.AsyncOpenAI) -> int:
        """Call until the money has been gone for longer than any worker may have kept it aside."""
        served, poor_since = 0, 0.0
        while not poor_since or time.monotonic() - poor_since < PATIENCE_S:
            try:
                await client.chat.completions.create(
                    model=slug, messages=[{"role": "user", "content": "hello"}]
                )
                served, poor_since = served + 1, 0.0
            except openai.APIStatusError as error:
                if error.status_code != 402:
                    raise
                poor_since = poor_since or time.monotonic()
                await asyncio.sleep(0.2)
        return served

    async def race() -> int:
        async with openai.AsyncOpenAI(
            base_url=f"{unlimited.url}/v1", api_key=key, max_retries=0
        ) as client:
            return sum(await asyncio.gather(*(caller(client) for _ in range(CALLERS))))

    assert asyncio.run(race()) == CALLS
    assert len(events_of(unlimited, org_id)) == CALLS
    wait_until(lambda: _count(unlimited, _PUT_ASIDE) == 0)
    assert _count(unlimited, _CHARGED) > CALLS // 4
    assert unlimited.problems() == []


_PUT_ASIDE = "SELECT count(*) FROM ledger_hold WHERE tx LIKE 'res_%'"
_CHARGED = "SELECT count(*) FROM ledger_transfer WHERE kind = 1 AND code = 4"
"""Calls that were paid without a hold of their own."""


def _count(market: Market, sql: str) -> int:
    with market._database() as database, database.reading() as session:
        return int(session.connection().execute(text(sql)).scalar_one())
