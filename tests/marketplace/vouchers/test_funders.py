"""A funder's own members: what they see of what they fund, what they refuse and settle, what is hidden."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from support.api_story import Api
from support.market import Market
from support.voucher_story import Story, rules

from catalog.ground.clock import SetClock, now_us
from catalog.ground.database import Database
from catalog.ground.ids import new_id, ulid
from marketplace.ledger.chart import owner_unsettled
from marketplace.members.keys import create_key
from marketplace.members.organisations import create_organisation
from marketplace.members.people import add_member
from marketplace.vouchers import claims, funders
from marketplace.vouchers.periods import Period
from marketplace.vouchers.pools import fund, funder
from marketplace.vouchers.programmes import publish
from marketplace.vouchers.service import issue


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    api = Api(Story(database))
    for name in ("anna", "ben"):
        api.visitor(name, "operator", operator=True)
    for name, org, role in (
        ("chen", "city-office", "owner"),
        ("cai", "city-office", "finance"),
        ("cui", "city-office", "auditor"),
        ("du", "district-office", "owner"),
        ("opa", "opc", "owner"),
    ):
        api.visitor(name, org, role)
    yield api
    api.story.check()


def claimed(api: Api) -> dict[str, Any]:
    """One claim on each of two funders, whose offices have signed in; returns them by funder."""
    story = api.story
    made = story.programme(rules(clawback={"months": 3}), fund_u=100_000)
    for code in ("city", "district"):
        body = {"org": f"{code}-office"}
        assert api.post("anna", f"/funders/{code}/organisation", body).status_code == 200
    story.grant(made, "opc", 50_000)
    for cost_u in (1_000, 2_000):
        story.call("opc", cost_u)
    story.days(32)
    found = {}
    for code in ("city", "district"):
        body = {"programme": "tst-token", "funder": code, "period": "2026-01"}
        found[code] = api.post("anna", "/claims", body).json()
    return found


def test_a_funder_sees_what_it_funds_and_nothing_else(api: Api) -> None:
    found = claimed(api)
    own, other = found["city"]["id"], found["district"]["id"]
    assert [row["id"] for row in api.get("chen", "/claims").json()["data"]] == [own]
    assert {row["id"] for row in api.get("anna", "/claims").json()["data"]} == {own, other}
    (mine,) = api.get("cui", "/funders").json()["data"]
    assert mine["funder"] == "city"
    assert mine["programmes"][0]["claims_u"] == {"draft": 900}
    assert mine["programmes"][0]["appropriated_u"] == 30_000
    for path in ("", "/lines", "/findings", "/pack"):
        assert api.get("chen", f"/claims/{own}{path}").status_code == 200
        assert api.get("chen", f"/claims/{other}{path}").status_code == 404
        assert api.get("opa", f"/claims/{own}{path}").status_code == 403
        assert api.get("", f"/claims/{own}{path}").status_code == 401
    body = {"programme": "tst-token", "funder": "city", "period": "2026-01"}
    assert api.post("chen", "/claims", body).status_code == 403
    assert api.post("chen", f"/claims/{own}/submit", {}).status_code == 403
    assert api.get("chen", "/refunds").status_code == 403


def test_the_pack_is_downloaded_as_it_is_signed_for(api: Api) -> None:
    own = claimed(api)["city"]["id"]
    told = api.get("cai", f"/claims/{own}/pack").json()
    assert told["cover"]["sums_agree"] is True
    table = api.get("cai", f"/claims/{own}/pack?form=csv")
    assert 'filename="claim-' in table.headers["content-disposition"]
    assert len(table.text.splitlines()) == 3
    book = api.get("cai", f"/claims/{own}/pack?form=xlsx")
    assert "xl/workbook.xml" in zipfile.ZipFile(io.BytesIO(book.content)).namelist()


def test_a_funder_audits_refuses_and_settles_as_payer(api: Api) -> None:
    found = claimed(api)
    own, other = (f"/claims/{found[code]['id']}" for code in ("city", "district"))
    for path in (own, other):
        assert api.post("anna", f"{path}/submit", {}).status_code == 200
        assert api.post("du", f"{own}/audit", {"rest": True}).status_code == 404
    assert api.post("cai", f"{own}/audit", {"rest": True}).status_code == 403
    assert api.post("cui", f"{own}/audit", {"rest": True}, key="a").json()["state"] == "audited"
    assert api.post("cui", f"{own}/audit", {"rest": True}, key="a").json()["state"] == "audited"
    owner = owner_unsettled(api.story.org("owner"))
    before = api.story.journal(owner)
    body = {"lines": [1], "reason": "not in our district"}
    assert api.post("du", f"{own}/refuse", body).status_code == 404
    assert api.post("cui", f"{own}/refuse", body).status_code == 403
    told = api.post("cai", f"{own}/refuse", body, key="r").json()
    assert told == api.post("cai", f"{own}/refuse", body, key="r").json()
    assert (told["allowed_u"], told["disallowed_u"], told["state"]) == (600, 300, "audited")
    assert api.story.journal(owner) == before - 300
    api.story.check()
    # Four eyes hold across houses: who audited does not settle, whoever's member it is.
    assert api.post("cui", f"{own}/settle", {"bank_ref": "b"}).status_code == 403
    assert api.post("cai", f"{own}/settle", {"bank_ref": "b"}).json()["state"] == "settled"
    assert api.post("cai", f"{own}/refuse", body).status_code == 409
    assert api.post("cai", f"{other}/settle", {"bank_ref": "b"}).status_code == 404
    back = {"lines": [2], "reason": "a fault came to light"}
    assert api.post("chen", f"{own}/clawback", back).status_code == 200
    assert api.post("ben", f"{other}/audit", {"rest": True}).json()["state"] == "audited"
    assert api.post("du", f"{other}/settle", {"bank_ref": "b"}).json()["state"] == "settled"


def test_one_organisation_at_a_time_acts_for_a_funder(api: Api) -> None:
    claimed(api)
    body = {"org": "district-office"}
    taken = api.post("anna", "/funders/city/organisation", body)
    assert (taken.status_code, taken.json()["rule"]) == (409, "funder.organisation")
    assert api.post("chen", "/funders/city/organisation", {"org": ""}).status_code == 403
    assert api.post("anna", "/funders/city/organisation", {"org": ""}).status_code == 200
    assert api.get("chen", "/claims").status_code == 403


def test_the_payer_s_command_line_needs_a_key_and_no_database(market: Market) -> None:
    mark = ulid().lower()
    claim = _claim_on(market, mark)
    secret = _key(market, mark)

    def run(*words: str) -> list[dict[str, Any]]:
        done = market.run(
            "claim", "payer", *words, "--key", secret, "--url", market.url, "--format", "json"
        )
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    assert [row["programme"] for row in run("programmes")] == [f"p-{mark}@1"]
    assert [(row["claim"], row["state"]) for row in run("list")] == [(claim, "submitted")]
    assert run("lines", claim)[0]["state"] == "pending"
    assert run("audit", claim, "--rest")[0]["state"] == "audited"
    own = market.run(
        "claim", "payer", "settle", claim, "bank-1", "--key", secret, "--url", market.url
    )
    assert own.returncode == 1
    assert "second person" in own.stderr
    assert run("refuse", claim, "--reason", "test")[0]["state"] == "audited"


def _key(market: Market, mark: str) -> str:
    """Return a key of the owner of the funder's office."""
    database = market.database
    with database.session() as session:
        org = create_organisation(session, f"office-{mark}", "局", now_us())
        add_member(session, org.id, "chen", "owner", "test", now_us())
        _, secret = create_key(session, org.id, "k", now_us(), member="chen")
        funders.assign(session, f"f-{mark}", org.slug)
    database.dispose()
    return secret


def _claim_on(market: Market, mark: str) -> str:
    """A submitted claim on a new funder, of one call that a voucher has paid."""
    document = rules(
        f"p-{mark}",
        funders=[{"funder": f"f-{mark}", "level": "city", "share_bp": 10_000}],
        stacking={"stack_class": f"c-{mark}", "rule": "stack"},
    )
    story = Story(market.database, SetClock(now_us()))
    caller = story.org(f"opc-{mark}")
    with story.database.session() as session:
        made = publish(session, json.dumps(document), "officer", now_us())
        fund(session, new_id("fnd"), made.id, 1_000, now_us())
        issue(session, new_id("iss"), made, caller, 1_000, now_us())
    story.clock.at_us = now_us()
    story.call(f"opc-{mark}", 10, owner=f"owner-{mark}")
    with story.database.session() as session:
        period = Period("test", 0, now_us())
        row = claims.draft(
            session, new_id("clm"), made, funder(session, f"f-{mark}").id, period, "anna", now_us()
        )
        claims.submit(session, row.id, [], "ben", now_us())
    story.database.dispose()
    return row.id
