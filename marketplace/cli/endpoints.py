"""`tokenmart endpoint`: where listings are served."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from sqlmodel import Session, col, select

from catalog.ground.clock import now_us, to_iso
from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint
from marketplace.settings import Settings
from serving.routing import QUANTIZATIONS

app = typer.Typer(help="Engines that answer for listings.", no_args_is_help=True)

SHAPES = ("responses", "messages")
"""What an engine may speak beyond chat completions, which every engine speaks."""
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?")

EndpointArgument = Annotated[str, typer.Argument(help="id that `endpoint list` shows")]
ModelOption = Annotated[
    str | None, typer.Option(help="the name the engine knows (default: the listing)")
]
KeyOption = Annotated[
    str | None, typer.Option(envvar="TOKENMART_ENGINE_KEY", help="key that the engine asks for")
]
WeightOption = Annotated[
    int | None, typer.Option(min=0, help="its share among equals (default 1; 0: no requests)")
]
PriorityOption = Annotated[int | None, typer.Option(help="lower is tried first (default 0)")]
ProviderOption = Annotated[
    str | None, typer.Option(help="slug of who runs it: acme or acme/turbo (default self)")
]
QuantizationOption = Annotated[
    str | None, typer.Option(help=f"how weights are stored: {', '.join(sorted(QUANTIZATIONS))}")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data-collection",
        help="deny: promises not to keep prompts nor train on them (default allow)",
    ),
]
ZdrOption = Annotated[
    bool | None, typer.Option("--zdr/--no-zdr", help="keeps nothing of a request at all")
]
SupportsOption = Annotated[
    list[str] | None,
    typer.Option(help="a request parameter it understands (repeat; 'all': every one, the default)"),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(min=0, help="calls at once from each gateway (default 0: without a limit)"),
]
SpeaksOption = Annotated[
    str | None,
    typer.Option(
        help=f"shapes it answers itself: {','.join(SHAPES)} (default none: it gets chat completions)"
    ),
]


@app.command("add")
def add(
    listing: Annotated[str, typer.Argument(help="publisher/name")],
    url: Annotated[str, typer.Argument(help="the engine's address, without /v1")],
    model: ModelOption = None,
    api_key: KeyOption = None,
    weight: WeightOption = None,
    priority: PriorityOption = None,
    provider: ProviderOption = None,
    quantization: QuantizationOption = None,
    data_collection: DataOption = None,
    zdr: ZdrOption = None,
    supports: SupportsOption = None,
    max_concurrency: ConcurrencyOption = None,
    speaks: SpeaksOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Route a listing to an engine. Gateways use it within half a second."""
    fields = _fields(
        url=url,
        model=model or listing,
        api_key=api_key,
        weight=weight,
        priority=priority,
        provider=provider,
        quantization=quantization,
        data_collection=data_collection,
        zdr=zdr,
        supports=supports,
        max_concurrency=max_concurrency,
        speaks=speaks,
    )
    made = Endpoint(id=new_id("ept"), listing=listing, updated_at_us=now_us(), **fields)
    with _changing() as session:
        session.add(made)
        show([{"id": made.id, "listing": listing, "url": made.url}], form)


@app.command("update")
def update(
    endpoint: EndpointArgument,
    url: Annotated[str | None, typer.Option(help="the engine's address, without /v1")] = None,
    model: ModelOption = None,
    api_key: Annotated[str | None, typer.Option(help="key that the engine asks for")] = None,
    weight: WeightOption = None,
    priority: PriorityOption = None,
    provider: ProviderOption = None,
    quantization: QuantizationOption = None,
    data_collection: DataOption = None,
    zdr: ZdrOption = None,
    supports: SupportsOption = None,
    max_concurrency: ConcurrencyOption = None,
    speaks: SpeaksOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Change what is given, and nothing else. Gateways follow within half a second."""
    fields = _fields(
        url=url,
        model=model,
        api_key=api_key,
        weight=weight,
        priority=priority,
        provider=provider,
        quantization=quantization,
        data_collection=data_collection,
        zdr=zdr,
        supports=supports,
        max_concurrency=max_concurrency,
        speaks=speaks,
    )
    if not fields:
        raise BadRequest("Nothing is to be changed.", remedy="Name at least one option.")
    with _changing() as session:
        show([_row(_change(session, endpoint, fields))], form)


@app.command("list")
def list_(
    listing: Annotated[str | None, typer.Option(help="only of this listing")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List engines, in the order in which they are tried."""
    query = select(Endpoint).order_by(
        col(Endpoint.listing), col(Endpoint.priority), col(Endpoint.id)
    )
    if listing is not None:
        query = query.where(Endpoint.listing == listing)
    with Settings().database.reading() as session:
        rows = [_row(found) for found in session.exec(query)]
    show(rows, form)


@app.command("drain")
def drain(endpoint: EndpointArgument) -> None:
    """Send no new calls to an engine, so that it can be stopped when its calls have ended."""
    with _changing() as session:
        _change(session, endpoint, {"state": "draining"})
    say(f"draining {endpoint}; bring it back: tokenmart endpoint resume {endpoint}")


@app.command("resume")
def resume(endpoint: EndpointArgument) -> None:
    """Send calls to a drained engine again."""
    with _changing() as session:
        _change(session, endpoint, {"state": "up"})
    say(f"{endpoint} is up")


@app.command("remove")
def remove(endpoint: EndpointArgument) -> None:
    """Take an engine out of routing; calls that run there end undisturbed."""
    with _changing() as session:
        session.delete(_find(session, endpoint))
    say(f"removed {endpoint}")


@contextmanager
def _changing() -> Iterator[Session]:
    """A session whose changes gateways notice."""
    with Settings().database.session() as session:
        yield session
        session.flush()
        raise_marker(session, ENDPOINTS)


def _find(session: Session, endpoint: str) -> Endpoint:
    found = session.get(Endpoint, endpoint)
    if found is None:
        raise NotFound(
            f"There is no endpoint {endpoint!r}.", remedy="tokenmart endpoint list shows them."
        )
    return found


def _change(session: Session, endpoint: str, fields: dict[str, Any]) -> Endpoint:
    found = _find(session, endpoint)
    for name, value in fields.items():
        setattr(found, name, value)
    found.updated_at_us = now_us()
    session.add(found)
    return found


def _fields(**given: Any) -> dict[str, Any]:
    """Return the columns that the given options set. Raises `BadRequest` for what cannot be."""
    fields = {name: value for name, value in given.items() if value is not None}
    if "url" in fields:
        if not re.match(r"https?://[^/]", fields["url"]):
            raise _wrong("url", "must begin with http:// or https:// and name a host")
        fields["url"] = fields["url"].rstrip("/").removesuffix("/v1")
    if "provider" in fields and not _PROVIDER.fullmatch(fields["provider"]):
        raise _wrong("provider", "is a slug in lower case, like acme or acme/turbo")
    if "quantization" in fields and fields["quantization"] not in QUANTIZATIONS:
        raise _wrong("quantization", f"is one of {', '.join(sorted(QUANTIZATIONS))}")
    if fields.get("data_collection", "allow") not in ("allow", "deny"):
        raise _wrong("data_collection", "is allow or deny")
    if "supports" in fields:
        names = sorted(set(fields["supports"]))
        fields["supports"] = None if names == ["all"] else json.dumps(names)
    if "speaks" in fields:
        fields["speaks"] = _shapes(fields["speaks"])
    if fields.get("max_concurrency") == 0:
        fields["max_concurrency"] = None
    return fields


def _shapes(given: str) -> str | None:
    """Return the column for `responses,messages`; None for `none`."""
    names = sorted({name.strip() for name in given.split(",")} - {"none"})
    if not set(names) <= set(SHAPES):
        raise _wrong("speaks", f"names {' and '.join(SHAPES)}, with commas, or none")
    return json.dumps(names) if names else None


def _wrong(name: str, rule: str) -> BadRequest:
    return BadRequest(f"{name} {rule}.", code="invalid_value", param=name)


def _row(endpoint: Endpoint) -> dict[str, object]:
    return {
        "id": endpoint.id,
        "listing": endpoint.listing,
        "provider": endpoint.provider,
        "url": endpoint.url,
        "state": endpoint.state,
        "weight": endpoint.weight,
        "priority": endpoint.priority,
        "max_concurrency": endpoint.max_concurrency,
        "quantization": endpoint.quantization,
        "data_collection": endpoint.data_collection,
        "zdr": endpoint.zdr,
        "supports": "all"
        if endpoint.supports is None
        else ", ".join(json.loads(endpoint.supports)),
        "speaks": ", ".join(["chat", *json.loads(endpoint.speaks or "[]")]),
        "since": to_iso(endpoint.updated_at_us),
    }
