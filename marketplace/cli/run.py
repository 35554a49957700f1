"""`tokenmart init` and `tokenmart up`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from marketplace.cli.output import say
from marketplace.settings import Settings

if TYPE_CHECKING:
    from marketplace.seeding.catalogue import Seeded

_CURL = """
curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{title}"}}]}}'
"""
_TITLE = "夏季女士纯棉短袖T恤 白色 L码 2件装"


def init() -> None:
    """Make or migrate the database, and seed it (development only)."""
    settings = Settings()
    _prepare(settings)
    say(f"ready: {settings.database.url.rpartition('@')[2]}")


def up(
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one")] = None,
) -> None:
    """Set up, seed and start everything on this machine; prints a key and a curl line that works."""
    changes = {"host": host, "port": port}
    settings = Settings(**{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
    from marketplace.runtime import run_all

    seeded = _prepare(settings)

    def ready(url: str) -> None:
        say(f"TokenMart is up at {url} (Ctrl-C stops it). Ask it something:")
        if seeded is not None:
            print(
                _CURL.format(url=url, key=seeded.key, model=seeded.model, title=_TITLE), flush=True
            )
        say("Then: tokenmart usage")

    uvloop.run(run_all(settings, ready))


def _prepare(settings: Settings) -> Seeded | None:
    from marketplace.migrations.migrate import migrate
    from marketplace.seeding.catalogue import seed_marketplace

    migrate(settings.database)
    return seed_marketplace(settings) if settings.environment == "development" else None
