"""Reports of one small world, whose every sum must be the ledger's own, to the micro-yuan."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook
from support.economy import unhurried
from support.voucher_story import NOON_US, Story, rules

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.ids import new_id
from marketplace.ledger.chart import owner_unsettled, wallet
from marketplace.ledger.verify import verify
from marketplace.members.facts import enter_fact, verify_fact
from marketplace.members.organisations import verify_organisation
from marketplace.members.parties import add_link
from marketplace.members.tables import Organisation
from marketplace.members.uscc import check_character
from marketplace.payouts.fees import publish_fee
from marketplace.reports.anomalies import Limits, anomalies
from marketplace.reports.audit import auditor_view, drill, sample
from marketplace.reports.burn import burn
from marketplace.reports.claim_pack import claim_pack
from marketplace.reports.focus import focus
from marketplace.reports.owner import owner_statement
from marketplace.reports.sheets import Report, Row, sheet, workbook, write
from marketplace.reports.sources import month
from marketplace.reports.statement import statement
from marketplace.vouchers import claims
from marketplace.vouchers.pools import funder
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.tables import Programme

FIRST = "91440300MA5F37480"
USCC = FIRST + check_character(FIRST)


class World:
    """January 2026: `opc` calls `owner`, half on a voucher of three funders, some of it refunded."""

    def __init__(self, database: Database) -> None:
        self.story = story = Story(database)
        self.made = story.programme(
            rules(
                subsidy={"ratio_bp": 5000},
                window={"grant_ttl_days": 60},
                audit={"sample_bp": 3000, "always_above_u": 2_000},
            ),
            fund_u=100_000,
        )
        self.later = story.programme(
            rules(
                "tst-later",
                mode="reimburse",
                claimant="demander",
                subsidy={"ratio_bp": 2000},
                stacking={"stack_class": "later", "rule": "stack"},
            ),
            fund_u=50_000,
        )
        story.org("opc", 30_000)
        with database.session() as session:
            publish_fee(session, "", 1000, story.clock(), "op", "first fee", story.clock())
            verify_organisation(session, "opc", USCC, "深圳市某一人公司", "op", story.clock())
            fact = enter_fact(
                session,
                story.org("opc"),
                "org.region",
                "440305",
                valid_from_us=0,
                valid_to_us=None,
                evidence_sha256="0" * 64,
                evidence_name="licence.pdf",
                by="li",
                at_us=story.clock(),
            )
            verify_fact(session, fact.id, "wang", story.clock())
        self.grant = story.grant(self.made, "opc", 40_000)
        story.grant(self.later, "opc", 10_000)
        self.calls = []
        for cost_u in (1, 333, 1001, 2, 9_999, 777):
            story.clock.advance(60_000_000)
            self.calls.append(story.call("opc", cost_u))
        self.calls.append(story.call("opc", 500, slug="owner/other"))
        with database.session() as session:
            refund(session, "rf1", self.calls[4], 6_000, "broken", "support", story.clock())

    def claim(self, code: str = "province") -> str:
        """Draft, in February, what a funder owes for January."""
        self.story.days(32)
        with self.story.database.session() as session:
            made = session.get_one(Programme, self.made.id)
            row = claims.draft(
                session,
                new_id("clm"),
                made,
                funder(session, code).id,
                month("2026-01"),
                "clerk",
                self.story.clock(),
            )
            claims.submit(session, row.id, [], "clerk", self.story.clock())
            return row.id

    def org(self, slug: str) -> Organisation:
        with self.story.database.reading() as session:
            return session.get_one(Organisation, self.story.org(slug))

    def report(self, build: Any, *arguments: Any, **more: Any) -> Report:
        with self.story.database.reading() as session:
            report = build(session, *arguments, **more)
            assert isinstance(report, Report)
            return report


@pytest.fixture
def world(database: Database) -> World:
    unhurried(database)
    return World(database)


def _rows(report: Report, name: str) -> list[Row]:
    return list(next(part.rows for part in report.sheets if part.name == name))


def test_an_organisation_s_month_is_the_ledger_s(world: World) -> None:
    story = world.story
    told = world.report(statement, world.org("opc"), "2026-01", story.clock())
    cover = told.cover
    assert cover["sums_agree"] is True
    assert cover["opening_u"] == 0
    assert cover["top_ups_u"] == 30_000
    assert cover["cost_u"] == 1 + 333 + 1001 + 2 + 9_999 + 777 + 500
    assert cover["closing_u"] == story.balance(wallet(story.org("opc")))
    assert (
        cover["opening_u"] + cover["top_ups_u"] - cover["used_u"] + cover["refunds_u"]
        == cover["closing_u"]
    )
    assert cover["other_u"] == 0
    assert cover["saved_u"] == cover["vouchers_u"] == cover["cost_u"] - cover["used_u"]
    assert str(cover["uscc"]).startswith("91440300***")
    by_listing = _rows(told, "use_by_listing")
    assert [row["listing"] for row in by_listing] == ["owner/model", "owner/other"]
    assert sum(row["cost_u"] for row in by_listing) == cover["cost_u"]
    assert sum(row["wallet_u"] for row in by_listing) == cover["used_u"]
    by_funder = _rows(told, "vouchers_by_funder")
    at_once = [row["amount_u"] for row in by_funder if row["paid"] == "at once"]
    later = [row["amount_u"] for row in by_funder if row["paid"] == "later"]
    assert (sum(at_once), sum(later)) == (cover["vouchers_u"], cover["paid_later_u"])
    assert cover["paid_later_u"] > 0
    assert (
        sum(row["amount_u"] for row in _rows(told, "refunds") if row["to"] == "wallet")
        == (cover["refunds_u"])
    )
    assert [row["within_days"] for row in _rows(told, "expiring")] == [30]


def test_february_opens_where_january_closed(world: World) -> None:
    january = world.report(statement, world.org("opc"), "2026-01", world.story.clock())
    february = world.report(statement, world.org("opc"), "2026-02", world.story.clock())
    assert february.cover["opening_u"] == january.cover["closing_u"]
    assert february.cover["calls"] == 0
    for wrong in ("2026-13", "january", "2026-1"):
        with pytest.raises(BadRequest):
            month(wrong)


def test_an_owner_s_month_is_what_the_ledger_accrued(world: World) -> None:
    told = world.report(owner_statement, world.org("owner"), "2026-01", world.story.clock())
    cover = told.cover
    assert cover["sums_agree"] is True
    assert cover["gross_u"] == 12_613
    # 10 % of each call, rounded down: 0 + 33 + 100 + 0 + 999 + 77 + 50
    assert cover["fee_u"] == 1_259
    assert cover["net_u"] == cover["ledger_accrued_u"] == 11_354
    assert cover["unsettled_now_u"] == world.story.journal(
        owner_unsettled(world.story.org("owner"))
    )
    assert cover["unsettled_now_u"] == cover["net_u"] - cover["refunded_u"]
    rows = _rows(told, "by_listing")
    assert [row["customers"] for row in rows] == [1, 1]
    assert (
        sum(row["from_vouchers_u"] + row["from_wallets_u"] + row["from_platform_u"] for row in rows)
        == cover["gross_u"]
    )


def test_a_claim_pack_proves_its_sum_three_times(world: World, tmp_path: Path) -> None:
    claim_id = world.claim()
    at_us = world.story.clock()
    told = world.report(claim_pack, claim_id, at_us)
    cover = told.cover
    assert cover["sums_agree"] is True
    assert cover["total_u"] == cover["claim_total_u"] == cover["ledger_total_u"] > 0
    assert cover["lines_sha256"] == cover["submitted_sha256"]
    heads = verify(world.story.database).heads
    assert str(cover["chain_head control"]).split()[1] == heads["control"]
    rows = _rows(told, "lines")
    assert sum(row["this_funder_u"] for row in rows) == cover["total_u"]
    for name in ("by_organisation", "by_region"):
        assert sum(row["this_funder_u"] for row in _rows(told, name)) == cover["total_u"]
    assert {row["region"] for row in rows} == {"440305"}
    assert {row["uscc"] for row in rows} == {USCC}
    assert [row["refund"] for row in rows if row["this_funder_u"] < 0] == ["rf1"]
    for row in rows:
        if not row["refund"]:
            assert row["this_funder_u"] + row["other_funders_u"] == row["voucher_u"]
            assert row["ratio_bp"] <= 5000
    files = write(told, tmp_path, "pack")
    lines = (tmp_path / "pack-lines.csv").read_bytes()
    assert hashlib.sha256(lines).hexdigest() == cover["lines_csv_sha256"]
    assert files["pack-lines.csv"] == cover["lines_csv_sha256"]
    read = list(csv.DictReader(io.StringIO(lines.decode())))
    assert sum(int(row["this_funder_u"]) for row in read) == cover["total_u"]
    book = load_workbook(tmp_path / "pack.xlsx")
    page = book["lines"]
    column = [cell.value for cell in page[1]].index("this_funder_u")
    assert (
        sum(row[column] for row in page.iter_rows(min_row=2, values_only=True))
        == (cover["total_u"])
    )
    covered = {row[0]: row[1] for row in book["cover"].iter_rows(min_row=2, values_only=True)}
    assert covered["lines_csv_sha256"] == cover["lines_csv_sha256"]
    book.close()
    assert json.loads((tmp_path / "pack.json").read_bytes())["cover"]["total_u"] == cover["total_u"]
    again = world.report(claim_pack, claim_id, at_us + DAY_US)
    assert again.cover["lines_csv_sha256"] == cover["lines_csv_sha256"]


def test_budgets_add_up_by_funder_and_run_out_on_a_day(world: World) -> None:
    before = world.report(burn, world.story.clock())
    assert before.cover["all_agree"] is True
    claim_id = world.claim()
    told = world.report(burn, world.story.clock(), 60)
    assert told.cover["all_agree"] is True
    rows = {(row["programme"], row["funder"]): row for row in _rows(told, "burn")}
    assert len(rows) == 6
    province = rows["tst-token@1", "province"]
    assert province["appropriated_u"] == 50_000
    assert province["granted_u"] == 20_000
    for row in rows.values():
        assert row["appropriated_u"] == row["pool_u"] + row["granted_u"]
        assert row["granted_u"] == row["open_u"] + row["held_u"] + row["used_u"]
        moved = ("unclaimed_u", "claimed_u", "receivable_u", "settled_u", "disallowed_u")
        assert row["used_u"] == sum(row[name] for name in moved)
    made, who = world.made.id, _funder_id(world, "province")
    assert province["claimed_u"] == -world.story.journal(f"claimed:{made}:{who}")
    assert province["unclaimed_u"] == 0
    assert province["pace_u_per_day"] == province["used_u"] // 60
    days = -(-province["left_u"] // province["pace_u_per_day"])
    assert days < 3660
    assert str(province["gone_on"]) > "2026-02-02"
    with world.story.database.session() as session:
        claims.audit(session, claim_id, [], "auditor", world.story.clock(), rest=True)
        claims.settle(session, claim_id, "bank-1", "treasurer", world.story.clock())
    settled = _rows(world.report(burn, world.story.clock(), code="tst-token"), "burn")
    assert settled[0]["settled_u"] == province["claimed_u"]
    with pytest.raises(BadRequest):
        world.report(burn, world.story.clock(), 0)


def _funder_id(world: World, code: str) -> str:
    with world.story.database.reading() as session:
        return funder(session, code).id


def test_the_same_seed_draws_the_same_lines_and_all_large_ones(world: World) -> None:
    claim_id = world.claim()
    with world.story.database.reading() as session:
        drawn = [line.n for line in sample(session, claim_id, "2026-07")]
        assert drawn == [line.n for line in sample(session, claim_id, "2026-07")]
        seeds = {tuple(x.n for x in sample(session, claim_id, str(seed))) for seed in range(30)}
        assert len(seeds) > 3
        everything = claims.lines(session, claim_id)
        large = [line.n for line in everything if abs(line.amount_u) > 2_000]
        assert large
        for lines in seeds:
            assert set(large) <= set(lines)
        assert len(sample(session, claim_id, "x", sample_bp=10_000)) == len(everything)
        assert len(sample(session, claim_id, "x", sample_bp=0)) >= 1
    told = world.report(auditor_view, claim_id, "2026-07")
    assert (told.cover["lines"], told.cover["drawn"]) == (len(everything), len(drawn))
    assert all(row["proved"] for row in _rows(told, "sample"))


def test_from_a_line_down_to_the_hash_of_its_call(world: World) -> None:
    claim_id = world.claim()
    with world.story.database.reading() as session:
        first = claims.lines(session, claim_id)[0]
        told = drill(session, claim_id, first.n)
        with pytest.raises(NotFound):
            drill(session, claim_id, 999)
    assert told["call"]["id"] == first.event_id
    assert told["line"]["funder_u"] == first.amount_u <= told["line"]["leg_u"]
    assert {t["kind"] for t in told["transfers"]} == {"PENDING", "POST", "POSTED"}
    assert told["batches"]
    assert all(len(batch["sha256"]) == 64 for batch in told["batches"])
    assert told["hashes"]["request_sha256"] == "0" * 64
    assert all(told["proved"].values())


def test_focus_rows_bill_what_the_organisation_paid(world: World) -> None:
    told = world.report(focus, world.org("opc"), month("2026-01"), world.story.clock())
    assert told.cover["sums_agree"] is True
    rows = _rows(told, "focus")
    usage = [row for row in rows if row["ChargeCategory"] == "Usage"]
    credits_ = [row for row in rows if row["ChargeCategory"] == "Credit"]
    assert len(usage) == 7
    assert {row["x_Programme"] for row in credits_} == {"tst-token@1"}
    assert {row["x_Funder"] for row in credits_} == {"province", "city", "district"}
    micro = sum(round(float(row["BilledCost"]) * 1_000_000) for row in rows)
    assert micro == told.cover["wallet_u"]
    assert usage[0]["BilledCost"] == "0.000001"
    assert all(set(row) == set(told.sheets[0].columns) for row in rows)
    # Whoever reads the CSV finds the same numbers.
    read = csv.DictReader(io.StringIO(told.sheets[0].csv().decode()))
    assert sum(Decimal(row["BilledCost"]) for row in read) * 1_000_000 == told.cover["wallet_u"]


def test_odd_patterns_are_flagged_and_honest_ones_are_not(world: World) -> None:
    story = world.story
    january = month("2026-01")
    calm = Limits(least_u=10**12, new_u=10**12)
    assert _rows(world.report(anomalies, january, story.clock(), calm), "flags") == []
    with story.database.session() as session:
        orgs = [story.org(name) for name in ("x", "y", "z")]
        for first, second in zip(orgs, orgs[1:] + orgs[:1], strict=True):
            add_link(session, first, second, "shareholding", by="li", at_us=story.clock())
    sharp = Limits(
        concentration_bp=9_000, least_u=1_000, repeats=5, night_bp=1, night_calls=99, new_u=5_000
    )
    flags = _rows(world.report(anomalies, january, story.clock(), sharp), "flags")
    assert {(flag["kind"], flag["who"]) for flag in flags} == {
        ("concentration", "opc"),
        ("repetition", "opc"),
        ("velocity", "opc"),
        ("circle", "x"),
    }
    circle = next(flag for flag in flags if flag["kind"] == "circle")
    assert circle["why"] == "holdings close a loop: x → y → z → x"


def test_night_bursts_and_money_that_goes_round(database: Database) -> None:
    story = Story(database)
    made = story.programme(rules(window={"grant_ttl_days": 60}), fund_u=100_000)
    for org in ("a", "b"):
        story.grant(made, org, 10_000)
    story.clock.advance(14 * 3600 * 1_000_000)  # two in the morning
    for _ in range(4):
        story.call("a", 10, owner="b")
    story.call("b", 10, owner="a")
    with database.reading() as session:
        limits = Limits(night_calls=4, least_u=10**12, new_u=10**12)
        found = anomalies(session, month("2026-01"), NOON_US, limits)
    flags = _rows(found, "flags")
    assert {(flag["kind"], flag["who"], flag["with"]) for flag in flags} >= {
        ("night", "a", ""),
    }
    circles = [flag for flag in flags if flag["kind"] == "circle"]
    assert [flag["amount_u"] for flag in circles] == [50]


def test_a_cell_never_becomes_a_formula() -> None:
    rows = [{"name": "=1+1", "amount_u": 10**16, "empty": None}]
    report = Report("R", {"cover": "=2"}, (sheet("s", rows),))
    book = load_workbook(io.BytesIO(workbook(report)))
    cells = [cell.value for cell in book["s"][2]]
    assert (cells, book["s"]["A2"].data_type) == (["=1+1", str(10**16), None], "s")
    book.close()
    assert report.sheets[0].csv() == b"name,amount_u,empty\r\n'=1+1,10000000000000000,\r\n"


def test_a_workbook_is_made_whatever_an_applicant_wrote() -> None:
    report = Report("R", {}, (sheet("s", [{"contract": "HT\x07-1\x00"}]),))
    book = load_workbook(io.BytesIO(workbook(report)))
    assert book["s"]["A2"].value == "HT\ufffd-1\ufffd"
    book.close()
