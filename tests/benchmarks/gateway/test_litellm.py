"""LiteLLM books every call through the query engine that stands in for Prisma's.

They need what `make bench-gateway` installs, and are skipped where that is not there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gateway import install, litellm
from benchmarks.gateway.__main__ import upstream
from benchmarks.gateway.errors import NotInstalled
from benchmarks.gateway.ours import postgres_server
from benchmarks.gateway.processes import cpu_s, tree
from benchmarks.gateway.scenarios import MAIN, load
from benchmarks.gateway.targets import KEY, Place

# What LiteLLM asks of its client, in small: every kind of value, relation, filter, transaction and error.
_ASKED = """
import asyncio, json, sys
from datetime import datetime, timezone
from prisma import Json, Prisma
from prisma.errors import RecordNotFoundError, UniqueViolationError

async def main():
    db = Prisma()
    await db.connect()
    keys, spend, config = db.litellm_verificationtoken, db.litellm_spendlogs, db.litellm_config
    budgets = db.litellm_budgettable
    at = datetime(2026, 11, 22, 10, 30, 1, 250_000, tzinfo=timezone.utc)
    who = {"created_by": "me", "updated_by": "me"}
    made = await budgets.create({"max_budget": 0.1, "tpm_limit": 2**62, "budget_reset_at": at,
                                 "allowed_models": ["a", 'b "quoted"\\n'], **who})
    key = {"token": "t", "metadata": Json({"a": [1, "x", None]}), "litellm_budget_table":
           {"connect": {"budget_id": made.budget_id}}}
    await keys.create(key)
    found = await keys.find_unique({"token": "t"}, include={"litellm_budget_table": True})
    budget = found.litellm_budget_table
    assert found.metadata == {"a": [1, "x", None]}, found
    assert (budget.max_budget, budget.tpm_limit, budget.budget_reset_at) == (0.1, 2**62, at), budget
    assert budget.allowed_models == ["a", 'b "quoted"\\n'], budget
    assert await keys.find_first(where={"metadata": {"path": ["a"], "equals": Json([1, "x", None])}})
    assert await keys.find_first(where={"metadata": {"equals": Json({})}}) is None
    assert await keys.find_unique({"token": "other"}) is None
    async with db.batch_() as batch:
        batch.litellm_verificationtoken.update_many(where={"token": "t"}, data={"spend": {"increment": 0.25}})
        batch.litellm_verificationtoken.update(where={"token": "t"}, data={"spend": {"increment": 0.5}})
    assert (await keys.find_unique({"token": "t"})).spend == 0.75
    create = {"param_name": "p", "param_value": Json("text")}
    for value in ("text", {"b": True}):
        await config.upsert({"param_name": "p"},
                            {"create": create, "update": {"param_value": Json({"b": True})}})
        assert (await config.find_unique({"param_name": "p"})).param_value == value
    rows = [{"request_id": str(n), "call_type": "x", "startTime": at, "endTime": at, "api_key": "t",
             "spend": 0.5 * n} for n in range(3)]
    assert await spend.create_many(rows, skip_duplicates=True) == 3
    assert await spend.create_many(rows, skip_duplicates=True) == 0
    (group,) = await spend.group_by(by=["api_key"], sum={"spend": True}, count=True)
    assert (group["_sum"]["spend"], group["_count"]["_all"]) == (1.5, 3), group
    assert await spend.count(where={"startTime": {"gte": at}, "request_id": {"in": ["0", "1"]}}) == 2
    ordered = await spend.find_many(order={"spend": "desc"}, take=2, skip=1)
    assert [row.request_id for row in ordered] == ["1", "0"], ordered
    (raw,) = await db.query_raw('SELECT count(*) n, max("startTime") at, $1::jsonb j, '
                                "array_agg(request_id::name) names FROM \\"LiteLLM_SpendLogs\\"", '{"c": 1}')
    assert (raw["n"], raw["j"], sorted(raw["names"])) == (3, {"c": 1}, ["0", "1", "2"]), raw
    assert await db.execute_raw('DELETE FROM "LiteLLM_SpendLogs" WHERE spend > $1', 0.9) == 1
    async with db.tx() as tx:
        await tx.litellm_spendlogs.delete_many(where={"request_id": "0"})
        assert await tx.litellm_spendlogs.count() == 1
        assert await spend.count() == 2
    try:
        async with db.tx() as tx:
            await tx.litellm_spendlogs.delete_many()
            raise KeyError
    except KeyError:
        assert await spend.count() == 1
    try:
        await keys.create({"token": "t"})
    except UniqueViolationError:
        pass
    else:
        raise AssertionError("a second key of the same name")
    assert await keys.delete({"token": "other"}) is None
    try:
        await keys.find_unique_or_raise({"token": "other"})
    except RecordNotFoundError:
        pass
    else:
        raise AssertionError("a key that is not there")
    await db.disconnect()

asyncio.run(main())
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    try:
        install.prisma_ready(offline=True)
    except NotInstalled:
        pytest.skip("make bench-gateway has not installed LiteLLM and its query engine")
    with upstream(tmp_path, offline=True) as found:
        yield found


def test_the_engine_does_what_litellm_asks_of_it(place: Place) -> None:
    engine = install.prisma_ready(offline=True)
    python = install.python_ready("litellm", offline=True) / "python"
    programs = litellm.programs(place, engine)
    with postgres_server(place.folder) as (url, _):
        litellm.migrate(url)
        binary = str(programs / "query-engine")
        environment = {**os.environ, "DATABASE_URL": url, "PRISMA_QUERY_ENGINE_BINARY": binary}
        command = [str(python), "-c", _ASKED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_call_is_in_the_log_and_on_the_key(place: Place) -> None:
    with litellm.litellm(place) as target:
        assert target.key not in ("", KEY)
        # The query engine is LiteLLM's child, and a tree of its own all the same.
        assert target.engine_pid in tree(target.engine_pid)
        assert target.engine_pid not in tree(target.pid)
        before_s = cpu_s(target.engine_pid)
        calls = 1 + load(target, MAIN, 0.5)["requests"]
        assert cpu_s(target.engine_pid) >= before_s > 0
    assert target.booked
    assert target.booked.rows == calls
    # 10 tokens at 10 and 16 at 20 millionths of a dollar.
    assert target.booked.log_usd == pytest.approx(calls * 0.00042)
    assert target.booked.key_usd == pytest.approx(calls * 0.00042)


def test_without_the_engine_there_is_no_database_and_the_table_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(offline: bool) -> Path:
        raise NotInstalled("npm failed")

    monkeypatch.setattr(install, "prisma_ready", nothing)
    with litellm.litellm(place) as target:
        assert (target.key, target.engine_pid, target.database_pid) == (KEY, 0, 0)
        assert "NO DATABASE" in target.does
        assert "npm failed" in target.does
        assert load(target, MAIN, 0.1)["requests"] > 0
