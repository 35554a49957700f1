"""The error object of Anthropic's Messages API."""

from __future__ import annotations

import json

import pytest

from catalog.ground import errors
from catalog.ground.errors import PaymentRequired, RateLimited, TokenMartError
from catalog.ground.rendering import render_anthropic


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.BadRequest, "invalid_request_error"),
        (errors.Unauthenticated, "authentication_error"),
        (errors.PaymentRequired, "billing_error"),
        (errors.Forbidden, "permission_error"),
        (errors.NotFound, "not_found_error"),
        (errors.Conflict, "conflict_error"),
        (errors.PreconditionFailed, "invalid_request_error"),
        (errors.PayloadTooLarge, "request_too_large"),
        (errors.HeadTooLong, "invalid_request_error"),
        (errors.RateLimited, "rate_limit_error"),
        (errors.InternalError, "api_error"),
        (errors.UpstreamFailed, "api_error"),
        (errors.Unavailable, "overloaded_error"),
        (errors.UpstreamTimeout, "timeout_error"),
    ],
)
def test_every_category_has_its_type(error: type[TokenMartError], kind: str) -> None:
    rendered = render_anthropic(error("No."), "gen_1")
    told = json.loads(rendered.body)
    assert rendered.status == error.status
    assert (told["type"], told["error"]["type"]) == ("error", kind)
    assert told["request_id"] == rendered.headers["request-id"] == "gen_1"


def test_code_rule_remedy_and_details_stand_where_the_sdk_looks() -> None:
    error = PaymentRequired("No.", rule="a.b", remedy="Do.", details={"required_u": 7})
    told = json.loads(render_anthropic(error).body)["error"]
    assert told["message"] == "No. Do."
    assert told["details"] == {
        "error_code": "insufficient_quota",
        "rule": "a.b",
        "remedy": "Do.",
        "required_u": 7,
    }


def test_headers_that_clients_act_on() -> None:
    headers = render_anthropic(RateLimited("Slow.", retry_after_s=0.2)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "200")
    assert "request-id" not in headers


def test_a_stranger_error_gives_nothing_away() -> None:
    rendered = render_anthropic(ValueError("/secret/path"))
    assert rendered.status == 500
    assert b"secret" not in rendered.body
