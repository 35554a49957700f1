"""The API of organisations: who may, what a repeat does, what is never shown, what suspension stops."""

from __future__ import annotations

import pytest
from support.api_story import Api
from support.voucher_story import Story, rules

from catalog.ground.database import Database

USCC = "91440300708461136T"
PAPER = {"name": "licence.pdf", "sha256": "a" * 64}


@pytest.fixture
def api(database: Database) -> Api:
    api = Api(Story(database))
    for name in ("anna", "ben"):
        api.visitor(name, "operator", operator=True)
    api.visitor("opa", "opc")
    api.visitor("dev", "opc", "dev")
    api.visitor("foe", "other")
    return api


def test_an_organisation_comes_to_life(api: Api) -> None:
    body = {"slug": "shop", "name": "店"}
    made = api.post("anna", "/organisations", body, key="k").json()
    assert api.post("anna", "/organisations", body, key="k").json() == made
    taken = api.post("anna", "/organisations", body)
    assert (taken.status_code, taken.json()["rule"]) == (400, "organisation.slug_unique")
    verified = api.post("anna", "/organisations/shop/verify", {"uscc": USCC}).json()
    assert verified["verified_by"] == "anna"
    assert verified["uscc"] == "91440300********6T"
    assert USCC not in api.get("anna", "/organisations").text
    added = api.post("anna", "/organisations/shop/members", {"member": "li", "role": "owner"})
    assert added.json()["role"] == "owner"
    assert api.get("anna", "/organisations/shop").json()["statuses"] == []
    assert api.post("opa", "/organisations", {"slug": "mine", "name": "x"}).status_code == 403


def test_members_and_projects_are_the_organisation_s_own(api: Api) -> None:
    people = "/organisations/opc/members"
    assert api.post("opa", people, {"member": "wang"}).status_code == 201
    assert api.post("dev", people, {"member": "zhao"}).status_code == 403
    assert api.post("foe", people, {"member": "zhao"}).status_code == 404
    assert api.post("opa", f"{people}/wang/role", {"role": "finance"}).json()["role"] == "finance"
    gone = api.post("opa", f"{people}/wang/remove", key="k").json()
    assert gone == api.post("opa", f"{people}/wang/remove", key="k").json()
    assert gone == {"member": "wang", "keys_revoked": 0}
    assert [m["member"] for m in api.get("dev", people).json()["data"]] == ["opa", "dev"]
    project = api.post("opa", "/organisations/opc/projects", {"name": "shop"}).json()
    assert api.get("dev", "/organisations/opc/projects").json()["data"] == [project]
    bare = api.client.post(
        "/api/organisations/opc/projects",
        json={"name": "bare"},
        headers={"Authorization": f"Bearer {api.keys['opa']}"},
    )
    assert (bare.status_code, bare.json()["rule"]) == (400, "http.idempotency_key")


def test_a_key_is_shown_once(api: Api) -> None:
    path = "/organisations/opc/keys"
    first = api.post("opa", path, {"name": "ci", "daily_u": 5_000_000}, key="k").json()
    assert first["key"].startswith("tm-")
    again = api.post("opa", path, {"name": "ci", "daily_u": 5_000_000}, key="k").json()
    assert (again["id"], again["key"]) == (first["id"], None)
    listed = api.get("dev", path)
    assert first["id"] in listed.text
    assert "sha256" not in listed.text
    assert first["key"] not in listed.text
    assert api.post("dev", path, {}).status_code == 403
    greedy = api.post("opa", path, {"operator": True})
    assert (greedy.status_code, greedy.json()["rule"]) == (403, "key.operator")
    # Another organisation's key is not even confirmed to exist.
    assert api.post("foe", f"/organisations/other/keys/{first['id']}/revoke").status_code == 404
    gone = api.post("opa", f"{path}/{first['id']}/revoke").json()
    assert gone["revoked_at_us"] == api.story.clock()


def test_a_fact_counts_once_an_officer_has_seen_it(api: Api) -> None:
    path = "/organisations/opc/facts"
    body = {"key": "org.is_opc", "value": "是", "evidence": PAPER}
    fact = api.post("opa", path, body).json()
    assert (fact["value"], fact["state"]) == (True, "waiting")
    assert api.post("opa", path, body | {"key": "org.status"}).json()["rule"] == "fact.derived"
    assert api.post("dev", path, body).status_code == 403
    assert api.post("opa", f"/facts/{fact['id']}/verify").status_code == 403
    assert api.post("anna", f"/facts/{fact['id']}/verify").json()["state"] == "in force"
    own = api.post("anna", path, body).json()
    assert api.post("anna", f"/facts/{own['id']}/verify").json()["rule"] == "fact.four_eyes"
    assert api.post("anna", f"/facts/{fact['id']}/end", {}).json()["state"] == "ended"
    assert len(api.get("dev", path).json()["data"]) == 2


def test_links_are_the_operator_s(api: Api) -> None:
    body = {"first": "opc", "second": "other", "kind": "family"}
    assert api.post("opa", "/party-links", body).status_code == 403
    link = api.post("anna", "/party-links", body).json()
    ended = api.post("anna", f"/party-links/{link['id']}/end", {}).json()
    assert ended["valid_to_us"] == api.story.clock()
    assert len(api.get("anna", "/party-links").json()["data"]) == 1


def test_suspension_stops_keys_and_keeps_what_is_there(api: Api) -> None:
    story = api.story
    made = story.programme(rules(), fund_u=1_000)
    grant = story.grant(made, "opc", 500)
    path = "/organisations/opc"
    assert api.post("opa", f"{path}/suspend", {"reason": "x"}).status_code == 403
    done = api.post("anna", f"{path}/suspend", {"reason": "under investigation"}, key="s").json()
    assert done["status"] == "suspended"
    assert (
        api.post("anna", f"{path}/suspend", {"reason": "under investigation"}, key="s").json()
        == done
    )
    refused = api.get("opa", "/vouchers?org=opc")
    assert refused.status_code == 403
    assert "opc is suspended" in refused.text
    same = api.post("anna", f"{path}/resume", {"reason": "cleared"})
    assert (same.status_code, same.json()["rule"]) == (403, "four_eyes")
    assert api.post("ben", f"{path}/resume", {"reason": "cleared"}).json()["status"] == "active"
    assert api.get("opa", "/vouchers?org=opc").json()["data"][0]["id"] == grant.id
    changes = api.get("opa", path).json()["statuses"]
    assert [(c["status"], c["by"], c["reason"]) for c in changes] == [
        ("suspended", "anna", "under investigation"),
        ("active", "ben", "cleared"),
    ]
    own = api.post("anna", "/organisations/operator/suspend", {"reason": "oops"})
    assert (own.status_code, own.json()["rule"]) == (409, "organisation.operator")
    story.check()
