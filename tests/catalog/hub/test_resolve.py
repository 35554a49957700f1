"""Reading files: ranges, conditions, headers that keep a browser from running them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.hub.serve_blob import Span, Unsatisfiable, parse_range

BODY = bytes(range(256)) * 20


@pytest.fixture
def hub(thread_hub: Callable[..., Any]) -> Any:
    hub = thread_hub()
    hub.ask("POST", "/api/repos/create", {"name": "acme/m"})
    content = base64.b64encode(BODY).decode()
    value = {"path": "页/a b.html", "content": content, "encoding": "base64"}
    assert hub.commit("acme/m", {"key": "file", "value": value}).status == 200
    return hub


PLACE = "/acme/m/resolve/main/%E9%A1%B5/a%20b.html"


@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        (None, 200, (0, 5120)),
        ("bytes=0-0", 206, (0, 1)),
        ("bytes=100-199", 206, (100, 200)),
        ("bytes=5000-", 206, (5000, 5120)),
        ("bytes=5000-99999", 206, (5000, 5120)),
        ("bytes=-20", 206, (5100, 5120)),
        ("bytes=-99999", 206, (0, 5120)),
        ("bytes=0-1,5-6", 200, (0, 5120)),
        ("bytes=9-3", 200, (0, 5120)),
        ("lines=1-2", 200, (0, 5120)),
        ("bytes=5120-", 416, None),
    ],
)
def test_ranges(hub: Any, asked: str | None, status: int, span: tuple[int, int] | None) -> None:
    answer = hub.ask("GET", PLACE, headers={"Range": asked} if asked else {})
    assert answer.status == status
    if span is None:
        assert answer.headers["content-range"] == "bytes */5120"
        return
    assert answer.body == BODY[span[0] : span[1]]
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {span[0]}-{span[1] - 1}/5120"


def test_a_head_says_it_all(hub: Any) -> None:
    answer = hub.ask("HEAD", PLACE, key=None)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "5120")
    assert answer.headers["x-repo-commit"] == hub.ask("GET", "/api/models/acme/m").json()["sha"]
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-disposition"].startswith("attachment")


def test_conditions(hub: Any) -> None:
    etag = hub.ask("HEAD", PLACE).headers["etag"]
    assert hub.ask("GET", PLACE, headers={"If-None-Match": etag}).status == 304
    same = {"If-Range": etag, "Range": "bytes=0-9"}
    assert hub.ask("GET", PLACE, headers=same).status == 206
    other = {"If-Range": '"other"', "Range": "bytes=0-9"}
    assert hub.ask("GET", PLACE, headers=other).status == 200


def test_revisions_in_every_spelling(hub: Any) -> None:
    head = hub.ask("GET", "/api/models/acme/m").json()["sha"]
    for revision in ("main", head, "refs%2Fheads%2Fmain", "refs/heads/main"):
        place = PLACE.replace("/main/", f"/{revision}/")
        assert hub.ask("GET", place).body == BODY
    assert hub.ask("GET", PLACE.replace("/main/", f"/{head[:10]}/")).status == 404
    assert hub.ask("GET", "/ACME/m/resolve/main/x").headers["x-error-code"] == "RepoNotFound"
    assert hub.ask("GET", "/acme/M/resolve/main/%FF").status == 400


def test_each_path_is_told_with_the_commit_that_changed_it_last(hub: Any) -> None:
    made = [hub.ask("GET", "/api/models/acme/m").json()["sha"]]
    for path, content in (("页/b", "YQ=="), ("c", "YQ=="), ("c", "Yg==")):
        value = {"path": path, "content": content, "encoding": "base64"}
        answer = hub.commit("acme/m", {"key": "file", "value": value})
        made.append(answer.json()["commitOid"])
    asked = {"": 3, "c": 3, "页": 1, "页/b": 1, "页/a b.html": 0}
    body = urlencode({"paths": list(asked), "expand": True}, doseq=True).encode()
    found = hub.ask("POST", "/api/models/acme/m/paths-info/main", body).json()
    told = {item["path"]: item["lastCommit"]["id"] for item in found}
    assert told == {path: made[number] for path, number in asked.items()}


@given(header=st.from_regex(r"bytes=\d{0,6}-\d{0,6}", fullmatch=True), size=st.integers(0, 2000))
def test_a_range_is_inside_or_refused(header: str, size: int) -> None:
    try:
        span = parse_range(header, size)
    except Unsatisfiable:
        return
    assert span is None or 0 <= span.start < span.end <= size
    assert span != Span(0, 0)
