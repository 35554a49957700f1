"""What every endpoint of the hub shares: the hub itself, raw paths, bodies, URLs, the route class."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlmodel import Session
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from catalog.artifacts.store import ArtifactStore
from catalog.ground.clock import Clock
from catalog.ground.database import Database
from catalog.ground.errors import (
    BadRequest,
    PayloadTooLarge,
    TokenMartError,
    Unauthenticated,
    Unavailable,
)
from catalog.hub import answers
from catalog.hub.access import Gate
from catalog.hub.commits import Workbench
from catalog.hub.downloads import DownloadCounter
from catalog.hub.identity import Caller, Identify
from catalog.hub.limits import MIB, HubLimits
from catalog.hub.meter import RequestMeter
from catalog.hub.signing import Signer

JSON_BODY_MAX_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class Hub:
    """Everything the endpoints need. `public_url` overrides the origin that requests name in `Host`;
    `accel_prefix` is the internal location under which nginx serves the store's `blobs` folder.
    """

    database: Database
    store: ArtifactStore
    identify: Identify
    gate: Gate
    limits: HubLimits
    signer: Signer
    clock: Clock
    meter: RequestMeter
    downloads: DownloadCounter
    public_url: str | None = None
    accel_prefix: str | None = None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that reads; the rows keep their values when the block is left."""
        with self.database.reading() as session:
            yield session
            session.expunge_all()

    def caller(self, request: Request) -> Caller | None:
        """Return who calls, None for a stranger; `Unauthenticated` for a key that is not ours."""
        header = request.headers.get("authorization")
        caller = self.identify(header)
        if caller is None and header:
            raise Unauthenticated("Invalid credentials in Authorization header")
        return caller

    def known_caller(self, request: Request) -> Caller:
        """Return who calls; `Unauthenticated` for a stranger."""
        caller = self.caller(request)
        if caller is None:
            raise Unauthenticated("This needs a key.", remedy="Log in with `hf auth login`.")
        return caller

    def base_url(self, request: Request) -> str:
        """Return the origin that the client used: its URLs must come back on exactly that one."""
        return self.public_url or f"{request.url.scheme}://{request.url.netloc}"

    def bench(self) -> Workbench:
        """Return what making commits needs."""
        return Workbench(self.store, self.limits, self.gate, self.clock)


def raw_segments(request: Request) -> list[str]:
    """Return the path's segments, split before they are decoded: `%2F` does not divide."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    try:
        parts = raw.split(b"?")[0].decode("ascii").split("/")[1:]
        return [unquote(part, errors="strict") for part in parts]
    except UnicodeDecodeError:
        raise BadRequest("The path is not percent-encoded UTF-8.", rule="hub.paths") from None


_SPELLED_OUT = ("heads", "tags", "pr", "convert", "releases")


def revision_and_path(request: Request, first: int) -> tuple[str, str]:
    """Return revision and file path, which begin at segment `first` (0-based) of the URL.

    A client encodes the slashes of `refs/pr/1`; people who type a URL do not, so that form is known too.
    """
    parts = raw_segments(request)[first:]
    width = 3 if len(parts) >= 3 and parts[0] == "refs" and parts[1] in _SPELLED_OUT else 1
    if not parts or not parts[0]:
        raise BadRequest("The URL names no revision.", rule="hub.paths")
    return "/".join(parts[:width]), "/".join(parts[width:]).strip("/")


async def read_body(request: Request, max_bytes: int = JSON_BODY_MAX_BYTES) -> bytes:
    """Return a small body; `PayloadTooLarge` beyond `max_bytes`."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise PayloadTooLarge(f"The body is larger than {max_bytes} bytes.", rule="hub.body")
    return bytes(body)


async def json_object(request: Request) -> dict[str, Any]:
    """Return the body as a JSON object, `{}` when there is none; `BadRequest` otherwise."""
    body = await read_body(request)
    try:
        document = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.", rule="hub.body") from None
    if not isinstance(document, dict):
        raise BadRequest("The body is not a JSON object.", rule="hub.body")
    return document


JsonObject = Annotated[dict[str, Any], Depends(json_object)]


def text_field(body: dict[str, Any], name: str, default: str | None = None) -> str:
    """Return a text of the body; `BadRequest` when it is missing or something else."""
    value = body.get(name)
    if isinstance(value, str):
        return value
    if value is None and default is not None:
        return default
    raise BadRequest(f"{name!r} must be a text.", param=name, rule="hub.body")


def objects_field(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects of the body, empty when it is missing; `BadRequest` for anything else."""
    value = body.get(name) or []
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    raise BadRequest(f"{name!r} must be a list of objects.", param=name, rule="hub.body")


def flag(value: object) -> bool:
    """Return a boolean as any client version spells it: true, `True`, `true`, `1`."""
    return value is True or str(value).lower() in ("true", "1")


def answer(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON as it stands."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return Response(body, status, headers, media_type="application/json")


def page_link(hub: Hub, request: Request, **changed: object) -> dict[str, str]:
    """Return the `Link` header to the next page: this request's URL with some parameters changed."""
    url = request.url.include_query_params(**changed)
    query = f"?{url.query}" if url.query else ""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw.split(b"?")[0].decode("ascii", "replace")
    return {"Link": f'<{hub.base_url(request)}{path}{query}>; rel="next"'}


def new_router(hub: Hub) -> APIRouter:
    """Return a router whose routes are metered and render errors as the clients read them."""

    class HubRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def metered(request: Request) -> Response:
                try:
                    hub.meter.take(request)
                    return await handle(request)
                except TokenMartError as error:
                    return answers.render(error)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    return answers.render(
                        Unavailable(
                            "There is no room left on the disk here; what came of this was removed.",
                            code="storage_full",
                            rule="hub.storage",
                            remedy="Tell the operator, and upload again.",
                        )
                    )
                except ClientDisconnect:
                    return Response(status_code=400)  # nobody is there to read it
                except RequestValidationError as error:
                    wrong = "; ".join(
                        f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()
                    )
                    return answers.render(BadRequest(wrong, rule="hub.body"))

            return metered

    return APIRouter(route_class=HubRoute)
