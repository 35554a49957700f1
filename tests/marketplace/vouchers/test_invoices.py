"""A voucher spent on a contract outside the gateway: who pays what, what is refused, what reports say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from support.api_story import Api
from support.voucher_story import Story, rules

from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, Forbidden, PaymentRequired
from catalog.ground.ids import new_id
from marketplace.ledger.chart import grant as grant_code
from marketplace.ledger.chart import owner_available, owner_unsettled, reimburse_due
from marketplace.members.organisations import (
    create_organisation,
    organisation,
    verify_organisation,
)
from marketplace.reports.audit import auditor_view
from marketplace.reports.claim_pack import claim_pack
from marketplace.reports.focus import focus
from marketplace.reports.sources import month
from marketplace.reports.statement import statement
from marketplace.vouchers import claims, invoices
from marketplace.vouchers.invoices import Paper
from marketplace.vouchers.periods import period
from marketplace.vouchers.pools import funder
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.tables import Grant, Programme

CLAUSE = "第七条"
_number = count(1)
PAPERS = ("invoice", "payment")


@pytest.fixture
def story(database: Database) -> Iterator[Story]:
    story = Story(database)
    yield story
    story.check()


def scheme(code: str = "tst-compute", **changes: Any) -> dict[str, Any]:
    """Return a programme that pays 30 % of compute later, by invoice."""
    made: dict[str, Any] = rules(code) | {
        "kind": "compute",
        "mode": "reimburse",
        "claimant": "demander",
        "evidence": ["contract", "invoice", "payment"],
        "items": [
            {
                "id": "kind",
                "when": {"listing.kind": "compute"},
                "text": "Pays for compute.",
                "clause": CLAUSE,
            }
        ],
        "exclude_charges": ["storage"],
        "subsidy": {"ratio_bp": 3000, "clause": CLAUSE},
    }
    return made | changes


def bill(number: str, kinds: tuple[str, ...] = PAPERS, **charges: int) -> Paper:
    return Paper(
        number,
        charges,
        [{"kind": k, "name": f"{k}.pdf", "sha256": f"{next(_number):064x}"} for k in kinds],
    )


def granted(story: Story, document: dict[str, Any], amount_u: int = 5_000, **wish: Any) -> Grant:
    """A voucher on contract c1 between `opc` and `maker`."""
    made = story.programme(document, fund_u=100_000)
    contract = {"contract.subject": "compute", **wish.pop("facts", {})}
    papers = [{"kind": "contract", "name": "c.pdf", "sha256": f"{next(_number):064x}"}]
    return story.grant(
        made,
        "opc",
        amount_u,
        "c1",
        **{"provider": story.org("maker"), "facts": contract, "evidence": papers} | wish,
    )


def pay(story: Story, application: str, paper: Paper, name: str = "") -> str:
    """Present and accept, by two persons."""
    name = name or new_id("inv")
    with story.database.session() as session:
        invoices.present(session, name, application, paper, "opa", story.clock())
        invoices.accept(session, name, "officer", story.clock())
    return name


def test_a_reimbursement_is_owed_until_the_funders_have_paid(story: Story) -> None:
    grant = granted(story, scheme())
    pay(story, grant.application_id, bill("1", compute=10_000, storage=7_000), "inv_1")
    pay(story, grant.application_id, bill("1b", compute=100), "inv_2")
    with story.database.session() as session:  # twice is once
        invoices.accept(session, "inv_1", "officer", story.clock())
    due = reimburse_due(story.org("opc"))
    assert story.balance(grant_code(grant.id)) == 5_000 - 3_000 - 30
    assert story.journal(due) == 3_030
    assert story.journal(owner_unsettled(story.org("maker"))) == 0
    story.days(40)
    with story.database.session() as session:
        for code in ("province", "city", "district"):
            who = funder(session, code).id
            made = session.get_one(Programme, grant.programme_id)
            name = f"clm_{code}"
            row = claims.draft(session, name, made, who, period("2026-01"), "a", story.clock())
            claims.submit(session, row.id, [], "b", story.clock())
            claims.audit(session, row.id, [], "c", story.clock(), rest=True)
            claims.settle(session, row.id, "bank", "d", story.clock())
    assert story.journal(due) == 0
    assert story.balance(owner_available(story.org("opc"))) == 3_030
    with story.database.reading() as session:
        pack = claim_pack(session, "clm_city", story.clock())
        assert pack.cover["sums_agree"] is True
        assert [row["this_funder_u"] for row in pack.sheets[0].rows] == [900, 9]
        assert {row["contract"] for row in pack.sheets[0].rows} == {"C1"}
        audit = auditor_view(session, "clm_city", "seed", sample_bp=10_000)
        assert all(row["proved"] for row in audit.sheets[0].rows)
        org = organisation(session, "opc")
        assert statement(session, org, "2026-01", story.clock()).cover
        assert focus(session, org, month("2026-01"), story.clock()).sheets
    with story.database.session() as session, pytest.raises(Conflict, match="0 micro-yuan"):
        refund(session, "r", "inv_1", 1, "no cash out", "support", story.clock())


def test_an_instant_voucher_pays_the_provider_its_part(story: Story) -> None:
    grant = granted(story, scheme(mode="instant", claimant="provider"))
    pay(story, grant.application_id, bill("1", compute=10_000))
    assert story.journal(owner_unsettled(story.org("maker"))) == 3_000
    assert story.balance(grant_code(grant.id)) == 2_000


def test_who_is_paid_must_be_here(story: Story) -> None:
    outside = {"provider": "uscc:91440300708461136T"}
    grant = granted(story, scheme(), **outside)
    pay(story, grant.application_id, bill("1", compute=1_000))
    other = granted(story, scheme("tst-other", claimant="provider"), **outside)
    with pytest.raises(Conflict, match="no organisation of this marketplace"):
        pay(story, other.application_id, bill("2", compute=1_000))


CODE = "91350100M000100Y43"


def register(story: Story) -> str:
    with story.database.session() as session:
        return create_organisation(session, "smith", "史密斯", story.clock(), CODE).id


def test_who_is_to_be_paid_registers_and_is_paid(story: Story) -> None:
    document = scheme(mode="instant", claimant="platform")
    grant = granted(story, document, provider=f"uscc:{CODE}")
    with story.database.session() as session:
        paper = bill("1", compute=1_000)
        invoices.present(session, "inv_1", grant.application_id, paper, "opa", story.clock())
    with story.database.session() as session, pytest.raises(Conflict, match="no organisation"):
        invoices.accept(session, "inv_1", "officer", story.clock())
    smith = register(story)
    with story.database.session() as session:
        invoices.accept(session, "inv_1", "officer", story.clock())
    assert story.journal(owner_unsettled(smith)) == 300


def test_a_provider_that_registers_later_is_the_same_one(story: Story) -> None:
    """What it received before counts against its cap, and its invoices are known by their numbers."""
    cap = {"per": "provider", "amount_u": 6_000, "period": "programme", "basis": "issued"}
    before = granted(story, scheme(caps=[cap]), provider=f"uscc:{CODE}")
    pay(story, before.application_id, bill("1", compute=1_000))
    smith = register(story)
    papers = [{"kind": "contract", "name": "d.pdf", "sha256": "d" * 64}]
    facts = {"contract.subject": "compute"}
    with story.database.reading() as session:
        made = session.get_one(Programme, before.programme_id)
    after = story.grant(made, "opc", 5_000, "c2", provider=smith, facts=facts, evidence=papers)
    assert after.amount == 1_000
    with pytest.raises(Conflict, match="presented already"):
        pay(story, after.application_id, bill("1", compute=5))


def test_nobody_is_its_own_provider_by_its_code(story: Story) -> None:
    grant = granted(story, scheme(), provider=f"uscc:{CODE}")
    pay(story, grant.application_id, bill("1", compute=1_000))
    with story.database.session() as session:
        verify_organisation(session, "opc", CODE, None, "officer", story.clock())
    with pytest.raises(Forbidden) as caught:
        pay(story, grant.application_id, bill("2", compute=1_000))
    assert caught.value.rule == "anti_fraud.self_owned"
    story.days(40)
    with story.database.session() as session:
        made, who = session.get_one(Programme, grant.programme_id), funder(session, "city").id
        row = claims.draft(session, "c", made, who, period("2026-01"), "a", story.clock())
        papers = [{"kind": k, "name": k, "sha256": "e" * 64} for k in PAPERS]
        claims.submit(session, row.id, papers, "a", story.clock())
        done = claims.audit(session, row.id, [], "b", story.clock(), rest=True)
    assert (done.allowed_u, done.disallowed_u) == (0, 90)


def test_a_scale_and_a_small_rest(story: Story) -> None:
    upto = [{"spend_u": 1_000, "ratio_bp": 5000}, {"spend_u": None, "ratio_bp": 2000}]
    grant = granted(story, scheme(subsidy={"upto": upto}), 800)
    pay(story, grant.application_id, bill("1", compute=2_000))  # 500 and 200
    pay(story, grant.application_id, bill("2", compute=2_000))  # the 100 that are left
    with pytest.raises(Forbidden, match="nothing left"):
        pay(story, grant.application_id, bill("3", compute=2_000))
    assert story.journal(reimburse_due(story.org("opc"))) == 800


def test_what_is_refused_and_why(story: Story) -> None:
    asks = {
        "id": "signed",
        "when": {"contract.signed_on": {">=": "2026-01-01"}},
        "text": "New ones.",
    }
    amount = {"contract.amount_u": 20_000, "contract.signed_on": "2026-01-01"}
    grant = granted(story, scheme(eligible=[asks]), facts=amount)
    application = grant.application_id
    for paper, error, rule in (
        (bill("1", ("invoice",), compute=1), BadRequest, "invoice.evidence"),
        (bill("1", ("invoice", "invoice", "payment"), compute=1), BadRequest, "invoice.evidence"),
        (bill(" ", compute=1), BadRequest, "invoice.form"),
        (bill("1", compute=0), BadRequest, "invoice.form"),
        (bill("1", compute=20_001), Conflict, "invoice.contract_amount"),
        (bill("1", storage=10), Forbidden, "items.exclude_charges"),
        (bill("1", **{"Storage ": 10}), Forbidden, "items.exclude_charges"),
    ):
        with pytest.raises(error) as caught:
            pay(story, application, paper)
        assert caught.value.rule == rule
    first = bill("1", compute=1_000)
    with story.database.session() as session:
        invoices.present(session, "inv_1", application, first, "opa", story.clock())
        invoices.present(session, "inv_1", application, first, "opa", story.clock())
        for who in ("opa", "applicant"):
            with pytest.raises(Forbidden, match="second person"):
                invoices.accept(session, "inv_1", who, story.clock())
    again = (bill("1", compute=5), bill(" １\t", compute=5))
    for paper in (*again, Paper("2", first.charges, first.evidence)):
        with pytest.raises(Conflict, match="presented already") as once:
            pay(story, application, paper)
        assert once.value.rule == "anti_fraud.same_content_once"
    with story.database.session() as session:
        invoices.refuse(session, "inv_1", "wrong name on it", "officer", story.clock())
        invoices.refuse(session, "inv_1", "wrong name on it", "officer", story.clock())
        with pytest.raises(Conflict, match="is refused"):
            invoices.accept(session, "inv_1", "officer", story.clock())
    pay(story, application, first)  # corrected
    story.days(31)
    with pytest.raises(Forbidden, match="expired") as late:
        pay(story, application, bill("3", compute=1_000))
    assert late.value.rule == "grant.window"


def test_what_the_contract_says_holds_at_the_call_as_well(story: Story) -> None:
    asks = {
        "id": "dispatch",
        "when": {"contract.channels": {"has": "dispatch"}},
        "text": "Through the city's dispatch.",
    }
    document = scheme(eligible=[asks], items=[], mode="instant", claimant="platform")
    through = {"contract.channels": ["dispatch"]}
    grant = granted(story, document, facts=through)
    story.org("opc", wallet_u=10_000)
    story.call("opc", 1_000, owner="maker")
    assert story.balance(grant_code(grant.id)) == 4_700
    story.call("opc", 1_000, owner="stranger")
    assert story.balance(grant_code(grant.id)) == 4_700
    with pytest.raises(PaymentRequired):
        story.call("opc", 20_000, owner="stranger")


def test_by_api(database: Database) -> None:
    api = Api(Story(database))
    api.visitor("anna", "operator", operator=True)
    api.visitor("opa", "opc")
    api.visitor("foe", "other")
    grant = granted(api.story, scheme())
    evidence = [{"kind": k, "name": "x.pdf", "sha256": f"{n:064x}"} for n, k in enumerate(PAPERS)]
    body = {
        "org": "opc",
        "application": grant.application_id,
        "number": "1",
        "charges": {"compute": 1_000},
        "evidence": evidence,
    }
    assert api.post("foe", "/invoices", body | {"org": "other"}).status_code == 404
    made = api.post("opa", "/invoices", body, key="k").json()
    assert made == api.post("opa", "/invoices", body, key="k").json()
    assert (made["charges"], made["eligible_u"], made["state"]) == (
        {"compute": 1_000},
        1_000,
        "presented",
    )
    assert api.post("opa", f"/invoices/{made['id']}/accept").status_code == 403
    assert api.post("anna", f"/invoices/{made['id']}/accept").json()["state"] == "accepted"
    assert api.post("anna", f"/invoices/{made['id']}/refuse", {"reason": "x"}).status_code == 409
    assert [row["id"] for row in api.get("opa", "/invoices?org=opc").json()["data"]] == [made["id"]]
    assert api.get("foe", "/invoices?org=opc").status_code == 404
    api.story.check()
