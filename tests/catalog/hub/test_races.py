"""Several at once on one repository, where the database lets them: on PostgreSQL."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

AT_ONCE = 8


@pytest.fixture
def hub(thread_hub: Callable[..., Any], postgres_url: str) -> Any:
    hub = thread_hub(url=postgres_url)
    for name in ("acme/m", "acme/n"):
        assert hub.ask("POST", "/api/repos/create", {"name": name}).status == 200
    return hub


def at_once(act: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(act, range(AT_ONCE)))


def statuses(act: Callable[[int], Any]) -> list[int]:
    return sorted(answer.status for answer in at_once(act))


ONE = [200] + [409] * (AT_ONCE - 1)


def test_a_name_is_given_once(hub: Any) -> None:
    made = at_once(lambda _: hub.ask("POST", "/api/repos/create", {"name": "acme/new"}))
    assert sorted(answer.status for answer in made) == ONE
    assert {answer.json()["url"] for answer in made} == {f"{hub.url}/acme/new"}


def test_a_ref_is_made_once(hub: Any) -> None:
    repo = "/api/models/acme/m"
    assert statuses(lambda _: hub.ask("POST", f"{repo}/branch/dev", {})) == ONE
    assert statuses(lambda _: hub.ask("POST", f"{repo}/tag/main", {"tag": "v1"})) == ONE


def test_a_pull_request_is_merged_once(hub: Any) -> None:
    content = base64.b64encode(b"x").decode()
    line = {"key": "file", "value": {"path": "x", "content": content, "encoding": "base64"}}
    assert hub.commit("acme/m", line).status == 200
    opened = hub.ask("POST", "/api/models/acme/m/discussions", {"title": "t"}).json()["num"]
    path = f"/api/models/acme/m/discussions/{opened}/merge"
    assert statuses(lambda _: hub.ask("POST", path, {})) == ONE
    assert len(hub.ask("GET", "/api/models/acme/m/commits/main").json()) == 3


def test_a_release_is_cut_once(hub: Any) -> None:
    content = base64.b64encode(b"x").decode()
    line = {"key": "file", "value": {"path": "x", "content": content, "encoding": "base64"}}
    assert hub.commit("acme/m", line).status == 200
    cut = at_once(lambda _: hub.ask("POST", "/api/models/acme/m/releases", {}))
    assert {(answer.status, answer.json()["id"]) for answer in cut} == {
        (200, cut[0].json()["id"]),
    }


def test_what_is_moved_or_deleted_goes_once(hub: Any) -> None:
    def move(number: int) -> Any:
        names = {"fromRepo": f"acme/{'mn'[number % 2]}", "toRepo": "acme/moved"}
        return hub.ask("POST", "/api/repos/move", names)

    assert statuses(move).count(200) == 1
    gone = statuses(lambda _: hub.ask("DELETE", "/api/repos/delete", {"name": "acme/moved"}))
    assert gone == [200] + [404] * (AT_ONCE - 1)
