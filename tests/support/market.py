"""A running marketplace (`tokenmart up` as a user starts it) on each kind of database."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlmodel import select

from catalog.ground.clock import now_us
from catalog.ground.database import Database
from catalog.ground.ids import new_id, ulid
from catalog.ground.marker import raise_marker
from catalog.listings.actors import Actor
from catalog.listings.schemas import ListingDraft
from catalog.listings.service import create, move
from catalog.listings.states import Part
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint
from marketplace.ledger.verify import verify
from marketplace.members.keys import create_key, create_organisation
from marketplace.members.tables import Organisation
from marketplace.prices.components import Components
from marketplace.prices.service import publish_price
from marketplace.vouchers.service import fund, issue, programme

SEED = "tokenmart/listing-translator-mini"
TITLE = "夏季女士纯棉短袖T恤 白色 L码 2件装"


@dataclass
class Market:
    """A gateway process with its engine, and the database behind it."""

    data_dir: Path
    database_url: str
    environment: dict[str, str]
    process: subprocess.Popen[str] | None = None
    url: str = ""
    printed: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Start `tokenmart up` on a free port and wait until it says that it is up."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "marketplace.cli", "up", "--port", "0"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line)
            if line.startswith("TokenMart is up at "):
                self.url = line.split()[4]
            if "tokenmart usage" in line:
                break
        assert self.url, "".join(self.printed)
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.printed.extend(output)

    def kill(self) -> None:
        """SIGKILL everything at once: the office, its workers and the engine."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()

    def stop(self) -> None:
        """SIGTERM, as an operator stops it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
            self._reader.join()

    @property
    def demo_key(self) -> str:
        return (self.data_dir / "demo.key").read_text().strip()

    @property
    def database(self) -> Database:
        return Database(self.database_url)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line against this marketplace."""
        return subprocess.run(
            [sys.executable, "-m", "marketplace.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def organisation(self, voucher_u: int = 0) -> tuple[str, str]:
        """Make an organisation with a key and perhaps a voucher; return (its id, the key)."""
        tx = new_id("test")
        with self._database() as database, database.session() as session:
            org = create_organisation(session, f"org-{ulid().lower()}", "Test", now_us())
            _, secret = create_key(session, org.id, "test", now_us(), rpm=100_000, concurrency=1000)
            if voucher_u:
                made = programme(session, "starter")
                fund(session, f"fund:{tx}", made.id, voucher_u, now_us())
                issue(session, tx, made, org.id, voucher_u, now_us())
            org_id = org.id
        return org_id, secret

    def listing(
        self,
        components: Components,
        *,
        model: str = SEED,
        url: str | None = None,
        context_length: int = 256,
    ) -> str:
        """List a model at another price, served by the seed engine (or at `url`)."""
        slug = f"tokenmart/{ulid().lower()}"
        developer = Actor("dev", frozenset({Part.DEVELOPER, Part.OWNER}))
        operator = Actor("operator", frozenset({Part.OPERATOR}))
        draft = ListingDraft(
            slug=slug,
            kind="model",
            tier="park",
            title_zh="测试",
            title_en="Test",
            summary_zh="测试用",
            summary_en="For tests.",
            card_zh="测试",
            card_en="Test",
            vertical="general",
            tasks=["translation"],
            languages=["zh"],
            licence="Apache-2.0",
            context_length=context_length,
            max_output_tokens=64,
        )
        with self._database() as database, database.session() as session:
            owner = session.exec(
                select(Organisation.id).where(Organisation.slug == "tokenmart")
            ).one()
            create(session, developer, draft, owner_org=owner)
            move(session, developer, slug, "submit")
            move(session, operator, slug, "override", reason="test")
            move(session, operator, slug, "list")
            publish_price(session, slug, components, 0, "test", "test", now_us())
            seed = None if url else session.get_one(Endpoint, "ept_seed")
            endpoint = Endpoint(
                id=new_id("ept"),
                listing=slug,
                url=url or (seed.url if seed else ""),
                model=model,
                api_key=seed.api_key if seed else "",
                updated_at_us=now_us(),
            )
            session.add(endpoint)
            session.flush()
            raise_marker(session, ENDPOINTS)
        return slug

    @contextlib.contextmanager
    def _database(self) -> Iterator[Database]:
        database = self.database
        try:
            yield database
        finally:
            database.dispose()

    def problems(self) -> list[str]:
        """Prove the ledger."""
        with self._database() as database:
            return verify(database).problems

    def counter(self, name: str) -> int:
        """Read a counter of the gateway, summed over its labels; workers tell of it once a second."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        whole = f"tokenmart_gateway_{name}_total"
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith(whole)))

    def metric(self, name: str) -> float:
        """Read a counter or gauge of the engine."""
        with self._database() as database, database.reading() as session:
            url = session.get_one(Endpoint, "ept_seed").url
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def environment_of(data_dir: Path, database_url: str, **more: str) -> dict[str, str]:
    return os.environ | {
        "TOKENMART_DATA_DIR": str(data_dir),
        "TOKENMART_DATABASE_URL": database_url,
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
