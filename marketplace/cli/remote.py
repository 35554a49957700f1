"""The marketplace's API from the command line, for whoever has a key and not the database."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import typer

from catalog.ground.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    PaymentRequired,
    TokenMartError,
    Unauthenticated,
    Unavailable,
)
from catalog.ground.ids import new_id

_TIMEOUT_S = 60.0
_ERRORS: dict[int, type[TokenMartError]] = {
    401: Unauthenticated,
    402: PaymentRequired,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
}

KeyOption = Annotated[
    str, typer.Option("--key", envvar="TOKENMART_KEY", help="your key", show_envvar=True)
]
UrlOption = Annotated[
    str, typer.Option("--url", envvar="TOKENMART_URL", help="the marketplace", show_envvar=True)
]
HERE = "http://127.0.0.1:8000"


class Remote:
    """The API under `url`/api, entered with a key. Its refusals are raised as our own errors."""

    def __init__(self, url: str, key: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadRequest(f"{url!r} is not a web address.", rule="remote.url", param="url")
        self._url = url.rstrip("/")
        self._key = key

    def read(self, path: str, **query: str | int | None) -> bytes:
        """Return the bytes at `/api{path}`."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", path + ("?" + urlencode(given) if given else ""), None)

    def get(self, path: str, **query: str | int | None) -> Any:
        """Return the JSON at `/api{path}`."""
        return json.loads(self.read(path, **query))

    def pages(self, path: str, **query: str | int | None) -> list[dict[str, Any]]:
        """Return every row of a list, page by page."""
        rows: list[dict[str, Any]] = []
        while True:
            page = self.get(path, **query)
            rows += page["data"]
            if page["next"] is None:
                return rows
            query["after"] = page["next"]

    def post(self, path: str, body: Any, tx: str | None = None) -> Any:
        """Write once under the key `tx` (a new one when there is none), and return the answer."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": tx or new_id("cli")}
        return json.loads(self._ask("POST", path, json.dumps(body).encode(), headers))

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None = None
    ) -> bytes:
        request = Request(  # noqa: S310, the scheme was looked at
            f"{self._url}/api{path}",
            body,
            {"Authorization": f"Bearer {self._key}", **(headers or {})},
            method=method,
        )
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                return bytes(answer.read())
        except HTTPError as error:
            raise _refusal(error.code, error.read()) from None
        except (URLError, TimeoutError) as error:
            raise Unavailable(
                f"{self._url} does not answer: {error}.", remedy="Check --url."
            ) from None


def _refusal(status: int, body: bytes) -> TokenMartError:
    try:
        told = json.loads(body)
        words = str(told.get("detail") or told.get("title"))
    except (ValueError, AttributeError):
        told, words = {}, f"The marketplace answered {status}."
    return _ERRORS.get(status, BadRequest)(words, rule=told.get("rule"), remedy=told.get("remedy"))
