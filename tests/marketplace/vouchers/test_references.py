"""Numbers that were kept as somebody typed them, before they were kept as they are compared."""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import select
from support.voucher_story import Story, rules

from catalog.ground.database import Database
from marketplace.migrations.migrate import migrate
from marketplace.vouchers.tables import Application, ContractInvoice


def _invoice(name: str, number: str, state: str = "accepted") -> ContractInvoice:
    return ContractInvoice(
        id=name,
        application_id="app",
        org_id="opc",
        provider="maker",
        number=number,
        sha256=name,
        amount_u=1,
        charges="{}",
        eligible_u=1,
        evidence="[]",
        state=state,
        presented_by="opa",
        presented_at_us=int(name),
    )


def test_a_number_that_was_kept_as_it_was_typed_is_known_again(database: Database) -> None:
    story = Story(database)
    cap = {"per": "contract", "amount_u": 6_000, "period": "programme", "basis": "issued"}
    made = story.programme(rules(caps=[cap]), fund_u=100_000)
    story.grant(made, "opc", 5_000, "ht-2026/17")
    typed = (("1", "no-1", "refused"), ("2", "no-1"), ("3", "Ｎｏ-1"), ("4", "NO-2"), ("5", "no-2"))
    with database.session() as session:
        # As it was written before.
        session.connection().execute(
            text("UPDATE application SET contract_ref = lower(contract_ref)")
        )
        session.connection().execute(
            text("UPDATE voucher_cap_use SET key = replace(key, 'HT-2026', 'ht-2026')")
        )
        session.connection().execute(
            text("UPDATE alembic_version SET version_num = '0013_presence'")
        )
        session.add_all(_invoice(*each) for each in typed)
    migrate(database)
    with database.reading() as session:
        assert session.exec(select(Application.contract_ref)).all() == ["HT-2026/17"]
        query = select(ContractInvoice.number).order_by(ContractInvoice.id)
        # The same invoice taken twice stays as it is: one of them has the number.
        assert session.exec(query).all() == ["NO-1", "NO-1", "Ｎｏ-1", "NO-2", "no-2"]
    assert story.grant(made, "opc", 5_000, "ht-2026/17").amount == 1_000
