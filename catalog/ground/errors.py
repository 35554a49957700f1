"""Every error this house can raise, and what it means to the caller.

    TokenMartError (abstract)
    ├── BadRequest            400  the request itself is wrong
    │   ├── ContextTooLong    400  prompt and output do not fit the model's context
    │   └── IntegrityError    400  bytes do not match the digest they were announced with
    ├── Unauthenticated       401  no key, or not a key of ours
    ├── PaymentRequired       402  nobody pays: vouchers and wallet do not cover the call
    ├── Forbidden             403  the key is good, but not for this
    ├── NotFound              404  no such thing, or not visible to this caller
    ├── RequestTimeout        408  the request did not arrive whole in time
    ├── Conflict              409  the state has moved on, or the name is taken
    ├── PreconditionFailed    412  the caller's idea of the current state is old
    ├── PayloadTooLarge       413  over a size limit
    ├── Unprocessable         422  well formed, but it contradicts what was said before
    ├── RateLimited           429  too much at once; try again after `retry_after_s`
    ├── HeadTooLong           431  the lines before the body are over their limit
    ├── InternalError         500  our fault
    │   └── LedgerCorrupt     500  a balance or the chain is off: stop, and look
    ├── UpstreamFailed        502  the engine answered nonsense or broke off
    ├── Unavailable           503  no healthy engine, or we are draining
    │   └── EndpointsFull     503  healthy ones have all the calls that they take
    └── UpstreamTimeout       504  the engine took too long

Raise the one that knows its meaning; never build a response by hand. `catalog.ground.rendering` turns an
error into OpenAI's error object, Anthropic's or problem+json, and nothing else does.
"""

from __future__ import annotations

from typing import Any, ClassVar


class TokenMartError(Exception):
    """Abstract base. Subclasses set the category; instances carry the words.

    `message` says what was wrong, `rule` names the rule or clause that refused, `remedy` says what to
    do about it, `param` is the request field at fault, and `details` holds machine-readable facts
    (JSON types only). `code` is stable: programs may compare it. `headers` go out with the answer, their
    names in lower case.
    """

    status: ClassVar[int]
    type: ClassVar[str]
    default_code: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        rule: str | None = None,
        remedy: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if not hasattr(type(self), "status"):
            raise TypeError(f"{type(self).__name__} is abstract: raise one of its categories")
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.rule = rule
        self.remedy = remedy
        self.details = details or {}
        self.retry_after_s = retry_after_s
        self.headers = headers or {}

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message} {self.remedy}"


class BadRequest(TokenMartError):
    status = 400
    type = "invalid_request_error"
    default_code = "bad_request"


class ContextTooLong(BadRequest):
    default_code = "context_length_exceeded"


class IntegrityError(BadRequest):
    default_code = "integrity_error"


class Unauthenticated(TokenMartError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class PaymentRequired(TokenMartError):
    status = 402
    type = "insufficient_quota"
    default_code = "insufficient_quota"


class Forbidden(TokenMartError):
    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFound(TokenMartError):
    status = 404
    type = "not_found_error"
    default_code = "not_found"


class RequestTimeout(TokenMartError):
    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class Conflict(TokenMartError):
    status = 409
    type = "conflict_error"
    default_code = "conflict"


class PreconditionFailed(TokenMartError):
    status = 412
    type = "conflict_error"
    default_code = "precondition_failed"


class PayloadTooLarge(TokenMartError):
    status = 413
    type = "invalid_request_error"
    default_code = "payload_too_large"


class Unprocessable(TokenMartError):
    status = 422
    type = "invalid_request_error"
    default_code = "unprocessable"


class RateLimited(TokenMartError):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class HeadTooLong(TokenMartError):
    status = 431
    type = "invalid_request_error"
    default_code = "head_too_long"


class InternalError(TokenMartError):
    status = 500
    type = "server_error"
    default_code = "internal_error"


class LedgerCorrupt(InternalError):
    default_code = "ledger_corrupt"


class UpstreamFailed(TokenMartError):
    status = 502
    type = "upstream_error"
    default_code = "upstream_failed"


class Unavailable(TokenMartError):
    status = 503
    type = "service_unavailable"
    default_code = "service_unavailable"


class EndpointsFull(Unavailable):
    default_code = "no_healthy_endpoint"


class UpstreamTimeout(TokenMartError):
    status = 504
    type = "upstream_error"
    default_code = "upstream_timeout"
