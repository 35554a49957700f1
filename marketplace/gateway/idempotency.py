"""Asking twice and being served once: what the header `Idempotency-Key` makes of a call.

    the same key, the same request    the answer of the first call, or 409 while that one still runs
    the same key, another request     422: nothing is served
    no key                            every call is a call of its own

The rules are those of the IETF draft "The Idempotency-Key HTTP Header Field" (section 2.6) and the length is
Stripe's. A key belongs to the organisation. With it, it decides the generation's id, so that the ledger
itself refuses to charge for the same thing twice, on whichever replica the second try arrives and however
the first one ended.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from catalog.ground.errors import BadRequest, Conflict, Unprocessable

HEADER = b"idempotency-key"
LONGEST_KEY = 255
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DOMAIN = b"tokenmart generation by idempotency key\0"
_PRINTABLE = frozenset(range(0x20, 0x7F))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the first call was answered. `request_sha256` is the `fingerprint` of what it had asked."""

    request_sha256: str
    status: int
    content_type: str
    body: bytes
    created_at_us: int


def generation_id(org_id: str, key: bytes) -> str:
    """Return `gen_…` for an organisation and the value of its `Idempotency-Key` header.

    It looks like every other generation's id but does not sort by time. `BadRequest` when the key is
    empty, longer than 255 characters, or has characters that are not printable ASCII.
    """
    if not 1 <= len(key) <= LONGEST_KEY or not _PRINTABLE.issuperset(key):
        raise BadRequest(
            f"An Idempotency-Key has 1 to {LONGEST_KEY} printable ASCII characters.",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
            rule="idempotency.key",
            remedy="Send a new random UUID for each call, and the same one when you repeat it.",
        )
    digest = hashlib.sha256(_DOMAIN + org_id.encode() + b"\0" + key).digest()
    value = int.from_bytes(digest[:16], "big")
    return "gen_" + "".join([_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5)])


def fingerprint(path: str, body: bytes) -> str:
    """Return what makes two requests the same one: SHA-256 (hex) of the path and the body."""
    return hashlib.sha256(path.encode() + b"\0" + body).hexdigest()


def expect_same(first_sha256: str, request_sha256: str) -> None:
    """Raise `Unprocessable` when a key comes again with another request."""
    if first_sha256 != request_sha256:
        raise Unprocessable(
            "This Idempotency-Key was first sent with another request.",
            code="idempotency_key_reused",
            param="Idempotency-Key",
            rule="idempotency.same_request",
            remedy="Use a new key for a new request; repeat the old one byte for byte.",
        )


def still_running(retry_after_s: float = 1.0) -> Conflict:
    """Return the error for a repeat that comes before the first call has ended."""
    return Conflict(
        "The first call with this Idempotency-Key is still running.",
        code="idempotency_key_in_use",
        param="Idempotency-Key",
        rule="idempotency.one_at_a_time",
        remedy="Repeat the request a little later: the answer is kept for you.",
        retry_after_s=retry_after_s,
    )


def too_often(tries: int) -> Conflict:
    """Return the error for a repeat of a call that has failed too often under one key."""
    return Conflict(
        f"The call with this Idempotency-Key has failed {tries} times; nothing was charged.",
        code="idempotency_key_spent",
        param="Idempotency-Key",
        rule="idempotency.tries",
        remedy="Use a new key to ask again.",
        headers={"x-should-retry": "false"},
    )


def answer_gone(generation: str) -> Conflict:
    """Return the error for a repeat of a call that has ended and whose answer is not kept."""
    return Conflict(
        "The call with this Idempotency-Key has ended, and its answer is not kept any more.",
        code="idempotency_answer_gone",
        param="Idempotency-Key",
        rule="idempotency.kept",
        remedy=f"Use a new key to ask again. GET /v1/generation/{generation} says what it was charged.",
        headers={"x-should-retry": "false"},  # OpenAI's SDKs repeat every other 409
    )
