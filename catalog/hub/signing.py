"""Signed words: what an upload URL or a Xet token says, so that nothing has to be looked up for it.

The clients send no key with an LFS PUT, so its URL must carry its own right: who may send which bytes into
which repository, until when. `<base64url(JSON)>.<base64url(HMAC-SHA256)>`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from catalog.ground.clock import Clock
from catalog.ground.errors import Forbidden


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Signer:
    """Signs and reads claims with one secret of at least 16 bytes."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        if len(secret) < 16:
            raise ValueError("the signing secret needs at least 16 bytes")
        self._secret = secret
        self._clock = clock

    def _mac(self, body: str) -> str:
        return _encode(hmac.digest(self._secret, body.encode(), hashlib.sha256))

    def sign(self, purpose: str, claims: dict[str, Any], *, life_us: int) -> str:
        """Return a word that `read` accepts for `purpose` until `life_us` from now."""
        document = claims | {"for": purpose, "exp": self._clock() + life_us}
        body = _encode(json.dumps(document, separators=(",", ":")).encode())
        return f"{body}.{self._mac(body)}"

    def read(self, purpose: str, word: str) -> dict[str, Any]:
        """Return the claims; `Forbidden` when the word is not ours, for something else, or too old."""
        body, _, mac = word.partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            raise Forbidden(
                "The upload link is not one of ours.", rule="hub.links", code="link_invalid"
            )
        claims: dict[str, Any] = json.loads(_decode(body))
        if claims.get("for") != purpose:
            raise Forbidden(
                "The link is for something else.", rule="hub.links", code="link_invalid"
            )
        if claims["exp"] < self._clock():
            raise Forbidden(
                "The upload link has expired.",
                code="link_expired",
                rule="hub.links",
                remedy="Start the upload again; files that arrived are not sent twice.",
            )
        return claims
