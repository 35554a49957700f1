"""LiteLLM's proxy: as it is run, with a database, virtual keys, budgets and a spend log; or without.

Its settings are those that its documentation asks for in production: one uvicorn worker (on uvloop and
httptools), logs of errors only, spend written in batches of a minute, a pool of ten connections. Prices make
every call cost something. Without a database it has the master key, and a budget that it keeps in memory.

With a database two things are left out of its processor time, which favours it: PostgreSQL, and its query
engine, for which `prisma/engine.mjs` stands in. What it puts off for a minute it mostly does between our
samples, and that favours it too.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gateway import install
from benchmarks.gateway.errors import NotInstalled, Refused
from benchmarks.gateway.ours import postgres_server
from benchmarks.gateway.processes import counted_apart, free_port, started, tree
from benchmarks.gateway.targets import (
    KEY,
    PATH,
    Booked,
    Place,
    Target,
    answering,
    empty_folder,
    post,
)

LITELLM, WITHOUT_DATABASE = "litellm", "litellm-no-database"
_SETTINGS = """\
model_list:
  - model_name: mock
    litellm_params:
      model: openai/mock
      api_base: "{upstream}/v1"
      api_key: none
      input_cost_per_token: 0.00001
      output_cost_per_token: 0.00002
general_settings:
  proxy_batch_write_at: 60
  database_connection_pool_limit: 10
  disable_error_logs: true
  allow_requests_on_db_unavailable: true
litellm_settings: {{request_timeout: 600, set_verbose: false, json_logs: true, telemetry: false{more}}}
"""
_BUDGET = {"max_budget": 1_000_000, "budget_duration": "30d"}
_BOOKED = """
SELECT count(log), coalesce(sum(log.spend), 0), key.spend
FROM "LiteLLM_VerificationToken" key LEFT JOIN "LiteLLM_SpendLogs" log ON log.api_key = key.token
WHERE key.max_budget IS NOT NULL GROUP BY key.token
"""


@dataclass(frozen=True)
class _Proxy:
    """LiteLLM's proxy, started; it does not answer yet."""

    target: Target
    folder: Path
    process: subprocess.Popen[bytes]

    def answering(self, target: Target) -> Target:
        """Wait until a call is answered as this target makes it; return it."""
        return answering(target, self.folder, self.process)


@contextmanager
def litellm(place: Place) -> Iterator[Target]:
    """LiteLLM with its database; where that cannot be had, without, and the target says why."""
    with ExitStack() as stack:
        try:
            engine = install.prisma_ready(place.offline)
            url, database_pid = stack.enter_context(postgres_server(place.folder))
        except NotInstalled as error:
            found = _in_memory(place, LITELLM, f": {error}")
        else:
            found = _with_database(place, engine, url, database_pid)
        yield stack.enter_context(found)


@contextmanager
def without_database(place: Place) -> Iterator[Target]:
    """LiteLLM with a master key and nothing else, to see what its accounts cost."""
    with _in_memory(place, WITHOUT_DATABASE, "") as target:
        yield target


@contextmanager
def _in_memory(place: Place, name: str, why: str) -> Iterator[Target]:
    does = f"master key, budget and spend in memory; NO DATABASE{why}"
    budget = "".join(f", {word}: {value}" for word, value in _BUDGET.items())
    with _proxy(place, name, does, {}, budget) as proxy:
        yield proxy.answering(proxy.target)


@contextmanager
def _with_database(place: Place, engine: Path, url: str, database_pid: int) -> Iterator[Target]:
    does = (
        "virtual key with a budget, spend log, its DATABASE, written once a minute; "
        "only its Python process counts, not PostgreSQL nor its query engine: that favours it"
    )
    migrate(url)
    folder = programs(place, engine)
    environment = {
        "DATABASE_URL": url,
        "DISABLE_SCHEMA_UPDATE": "true",
        "PRISMA_QUERY_ENGINE_BINARY": str(folder / "query-engine"),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    booked = Booked()
    with _proxy(place, LITELLM, does, environment) as proxy:
        key = _virtual_key(proxy.answering(proxy.target))
        engine_pid = _engine_pid(proxy.process.pid, engine)
        with counted_apart(engine_pid):
            target = replace(
                proxy.target,
                key=key,
                engine_pid=engine_pid,
                database_pid=database_pid,
                booked=booked,
            )
            yield proxy.answering(target)
            if engine_pid not in tree(engine_pid):
                raise Refused(f"{LITELLM}: its query engine ended, and its time became LiteLLM's")
    # Told to end, LiteLLM wrote what it still had to write.
    _read(url, booked)
    if not (booked.rows and booked.log_usd and booked.key_usd):
        raise Refused(f"{LITELLM} did not account for its calls: {booked}")


@contextmanager
def _proxy(
    place: Place, name: str, does: str, environment: Mapping[str, str], settings: str = ""
) -> Iterator[_Proxy]:
    ready = install.python_ready(install.LITELLM, place.offline)
    folder, port = place.folder / name, free_port()
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(_SETTINGS.format(upstream=place.upstream, more=settings))
    # The price map comes with the package; its documentation asks for the other two in production.
    production = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_MASTER_KEY": KEY,
    }
    command: list[str | Path] = [ready / "litellm", "--config", folder / "config.yaml"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with started(command, folder, {**production, **environment}) as process:
        url = f"http://127.0.0.1:{port}{PATH}"
        version = install.version(ready, install.LITELLM)
        yield _Proxy(Target(name, url, process.pid, version, does), folder, process)


def programs(place: Place, engine: Path) -> Path:
    """Write the two programs that LiteLLM calls: the query engine, and Prisma's command line.

    The latter would compare schema and database, and has nothing to find: the one was made for the other.
    """
    folder = empty_folder(place, LITELLM) / "bin"
    folder.mkdir()
    node = install.node_ready(place.offline) / "bin/node"
    serve = f"exec {shlex.quote(str(node))} {shlex.quote(str(engine))}"
    for name, does in (("query-engine", f'{serve} "$@"'), ("prisma", "exit 0")):
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    return folder


def migrate(url: str) -> None:
    """Make LiteLLM's tables by the migrations that come with it."""
    import psycopg

    ready = install.python_ready(install.LITELLM, offline=True)
    shipped = install.package_folder(ready, "litellm_proxy_extras") / "migrations"
    with psycopg.connect(url, autocommit=True) as connection:
        for migration in sorted(shipped.glob("*/migration.sql")):
            connection.execute(migration.read_bytes())


def _virtual_key(target: Target) -> str:
    """Let LiteLLM make a key with a budget, as its operator does."""
    status, told = post(target, "/key/generate", {**_BUDGET, "models": [target.model]})
    if status != 200:
        raise Refused(f"{LITELLM} makes no key: {status} {told[:300]}")
    return str(json.loads(told)["key"])


def _engine_pid(root: int, engine: Path) -> int:
    found = []
    for pid in tree(root):
        with suppress(OSError):
            if str(engine) in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                found.append(pid)
    if len(found) != 1:
        raise Refused(f"{LITELLM} runs {len(found)} query engines, not one")
    return found[0]


def _read(url: str, booked: Booked) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        (row,) = connection.execute(_BOOKED).fetchall()
    booked.rows, booked.log_usd, booked.key_usd = row
