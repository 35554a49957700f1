"""The voucher API and command line from outside: permissions, repeats, paging, and one whole life."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.api_story import Api
from support.voucher_story import Story, rules
from typer.testing import CliRunner

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    story = Story(database)
    api = Api(story)
    for name in ("anna", "ben", "cleo", "dora"):
        api.visitor(name, "operator", operator=True)
    api.visitor("opa", "opc")
    api.visitor("dev", "opc", "dev")
    api.visitor("foe", "other")
    yield api
    story.check()


def funded(api: Api) -> None:
    assert api.post("anna", "/programmes", {"document": rules()}).status_code == 201
    assert api.post("anna", "/programmes/tst-token/fund", {"total_u": 10_000}).status_code == 201


def test_a_whole_life(api: Api) -> None:
    funded(api)
    wish = {"org": "opc", "programme": "tst-token", "requested_u": 5_000}
    asked = api.post("opa", "/applications", wish).json()
    path = f"/applications/{asked['id']}"
    assert api.post("anna", f"{path}/prepare", {"amount_u": 4_000}).json()["state"] == "prepared"
    refused = api.post("anna", f"{path}/approve", {})
    assert (refused.status_code, refused.json()["rule"]) == (403, "four_eyes")
    granted = api.post("ben", f"{path}/approve", {}).json()
    assert granted["vouchers"][0]["amount"] == 4_000
    event = api.story.call("opc", 1_000)
    back = api.post("ben", "/refunds", {"event": event, "amount_u": 100, "reason": "bad"}).json()
    assert back["legs"][0]["amount_u"] == 100
    mine = api.get("opa", "/vouchers?org=opc").json()["data"][0]
    assert (mine["used"], mine["available"]) == (900, 3_100)
    api.story.clock.advance(32 * DAY_US)
    draft = {"programme": "tst-token", "funder": "city", "period": "2026-01"}
    claim = api.post("anna", "/claims", draft).json()
    assert claim["total_u"] in (269, 270, 271)
    path = f"/claims/{claim['id']}"
    assert api.post("anna", f"{path}/submit", {}).json()["state"] == "submitted"
    lines = api.get("anna", f"{path}/lines?limit=1").json()
    assert (len(lines["data"]), lines["next"]) == (1, 1)
    assert api.post("ben", f"{path}/audit", {"rest": True}).json()["state"] == "audited"
    assert api.post("ben", f"{path}/settle", {"bank_ref": "b"}).status_code == 403
    assert api.post("cleo", f"{path}/settle", {"bank_ref": "b"}).json()["state"] == "settled"
    done = api.post("dora", "/payouts/accrue").json()
    assert sum(done["matured_u"].values()) == claim["total_u"]
    paid = api.post("dora", "/payouts", {"org": "owner"}).json()
    assert api.post("anna", f"/payouts/{paid['id']}/approve").json()["state"] == "approved"
    sent = api.post("anna", "/payouts/export").json()
    assert sent["total_u"] == claim["total_u"]
    told = api.get("anna", f"/payouts/files/{sent['file']}/csv")
    assert "TOTAL" in told.text
    assert api.get("anna", "/statements/owner/2026-01").status_code == 200


def test_who_may(api: Api) -> None:
    funded(api)
    wish = {"org": "opc", "programme": "tst-token", "requested_u": 50}
    assert api.client.post("/api/applications", json=wish).status_code == 401
    assert api.post("foe", "/applications", wish).status_code == 404
    assert api.post("dev", "/applications", wish).status_code == 403
    assert api.post("opa", "/applications", wish).status_code == 201
    assert api.get("foe", "/applications?org=opc").status_code == 404
    assert api.get("opa", "/applications").status_code == 404  # a member names its organisation
    assert len(api.get("dev", "/applications?org=opc").json()["data"]) == 1
    assert len(api.get("anna", "/applications").json()["data"]) == 1
    for path in ("/claims", "/codes", "/refunds", "/adjustments"):
        assert api.get("opa", path).status_code == 403
    assert api.post("opa", "/programmes", {"document": rules("mine")}).status_code == 403
    assert api.get("", "/programmes").json()["data"][0]["programme"] == "tst-token@1"


def test_a_repeat_gets_the_same_answer_and_does_nothing(api: Api) -> None:
    funded(api)
    body = {"total_u": 5_000}
    first = api.post("anna", "/programmes/tst-token/fund", body, key="k1").json()
    again = api.post("anna", "/programmes/tst-token/fund", body, key="k1").json()
    assert first == again
    assert sum(f["appropriated_u"] for f in first["funders"]) == 15_000
    other = api.post("anna", "/programmes/tst-token/fund", {"total_u": 1}, key="k1")
    assert (other.status_code, other.json()["rule"]) == (409, "http.idempotency_key")
    bare = api.client.post(
        "/api/programmes/tst-token/close",
        headers={"Authorization": f"Bearer {api.keys['anna']}"},
    )
    assert (bare.status_code, bare.json()["rule"]) == (400, "http.idempotency_key")
    # A refusal is not kept: the same key may try again once the reason has gone.
    wish = {"org": "opc", "programme": "tst-none", "requested_u": 5}
    assert api.post("opa", "/applications", wish, key="k2").status_code == 404
    assert api.post("anna", "/programmes", {"document": rules("tst-none")}).status_code == 201
    assert api.post("opa", "/applications", wish, key="k2").status_code == 201


def test_a_code_is_shown_once_and_redeemed_by_key(api: Api) -> None:
    funded(api)
    body = {
        "programme": "tst-token",
        "amount_u": 10,
        "expires_at_us": api.story.clock() + DAY_US,
    }
    first = api.post("anna", "/codes", body, key="c").json()
    assert first["code"].startswith("TM-")
    assert api.post("anna", "/codes", body, key="c").json()["code"] is None
    assert first["code"] not in json.dumps(api.get("anna", "/codes").json())
    brought = {"org": "opc", "code": first["code"]}
    one = api.post("opa", "/codes/redeem", brought, key="r")
    two = api.post("opa", "/codes/redeem", brought, key="r")
    assert one.json() == two.json()
    used = api.post("opa", "/codes/redeem", brought)
    assert (used.status_code, used.json()["rule"]) == (409, "code.used_up")


def test_two_who_publish_at_once_publish_once(api: Api) -> None:
    with ThreadPoolExecutor(4) as pool:
        body = {"document": rules()}
        answers = list(pool.map(lambda _: api.post("anna", "/programmes", body), range(4)))
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_version_in_writing_hides_nothing(api: Api) -> None:
    funded(api)
    coming = {"document": rules(version=2), "draft": True}
    assert api.post("anna", "/programmes", coming).status_code == 201
    assert api.get("", "/programmes/tst-token").json()["programme"] == "tst-token@1"
    wish = {"org": "opc", "programme": "tst-token", "requested_u": 50}
    assert api.post("opa", "/applications", wish).status_code == 201
    for named in ("@2", "@3", "@x", "@²", "@", "@" + "9" * 5_000):
        assert api.get("", f"/programmes/tst-token{named}").status_code == 404
    assert api.post("anna", "/programmes", {"document": rules(version=2)}).status_code == 201
    assert api.get("", "/programmes/tst-token").json()["programme"] == "tst-token@2"


def test_the_command_line_walks_the_same_road(
    database_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from marketplace.cli.root import app

    monkeypatch.setenv("TOKENMART_DATABASE_URL", database_url)
    # Each command opens the database anew; here they share one, which is closed at the end.
    monkeypatch.setattr("marketplace.settings.Database", lambda _url: database)
    runner = CliRunner()

    def run(*words: str) -> list[dict[str, Any]]:
        done = runner.invoke(app, [*words, "--format", "json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return list(json.loads(done.stdout))

    file = tmp_path / "programme.json"
    file.write_text(json.dumps(rules()))
    Story(database).org("opc")
    assert run("programme", "publish", str(file), "--by", "anna")[0]["state"] == "published"
    run("programme", "fund", "tst-token", "1", "--by", "anna")
    asked = run("voucher", "apply", "opc", "tst-token", "0.5", "--by", "opa")[0]["application"]
    granted = run("voucher", "approve", asked, "--by", "ben")[0]
    assert granted["amount"] == "¥0.50"
    made = run(
        "code", "create", "tst-token", "0.1", "--until", "2099-12-31", "--by", "anna", "--uses", "3"
    )[0]
    run("voucher", "redeem", "opc", made["code"], "--by", "opa")
    assert run("code", "list")[0]["used"] == "1/3"
    assert run("voucher", "void", granted["voucher"], "--reason", "test", "--by", "ben")
    assert run("voucher", "lapse") == [{"lapsed": 0}]
    assert run("claim", "list") == run("payout", "list") == []
    assert run("payout", "fee", "12.5", "--reason", "test", "--by", "anna")[0]["fee_bp"] == 1250
    assert run("payout", "accrue") == [{"accruals": 0}]
    assert run("programme", "show", "tst-token")[0]["funders"][0]["pool_u"] == 450_000
    assert run("programme", "close", "tst-token")[0]["state"] == "closed"
    Story(database).check()
