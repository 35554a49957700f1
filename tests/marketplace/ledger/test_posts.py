"""One-phase movements, the guards of accounts, and facts that nobody edits."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from support.ledger_world import T0, World

from catalog.ground.errors import BadRequest, NotFound, PaymentRequired
from marketplace.ledger.accounts import account_id, apply_now, balance_u, open_account
from marketplace.ledger.chart import WELL_KNOWN, Code, Rule
from marketplace.ledger.operations import Done, Entry, Post


def test_posting_an_id_twice_changes_nothing(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    assert world.do(world.post("p1", wallet, world.bank, 30)) == Done(changed=True)
    assert world.do(world.post("p1", wallet, world.bank, 30)) == Done(changed=False)
    once = world.post("p2", wallet, world.bank, 30)
    assert world.apply(once, once) == [Done(changed=True), Done(changed=False)]
    assert world.left(wallet) == 40


def test_money_that_is_owed_cannot_be_settled_twice(world: World) -> None:
    owed = world.account("recv:p:f", rule=Rule.CREDITS_WITHIN_DEBITS)
    world.do(world.post("claim", owed, world.bank, 50))
    with pytest.raises(PaymentRequired):
        world.do(world.post("paid1", world.bank, owed, 51))
    world.do(world.post("paid2", world.bank, owed, 50))
    with pytest.raises(PaymentRequired):
        world.do(world.post("paid3", world.bank, owed, 1))


def test_a_post_moves_all_its_entries_or_none(world: World) -> None:
    a, b = world.account("wallet:a", 10), world.account("wallet:b")
    both = Post("p", (Entry(Code.ADJUST, a, b, 10), Entry(Code.ADJUST, b, world.bank, 11)), T0)
    with pytest.raises(PaymentRequired) as refusal:
        world.do(both)
    assert refusal.value.details == {"available_u": 0, "required_u": 1}
    assert (world.left(a), world.left(b)) == (10, 0)


def test_what_comes_in_with_a_post_may_go_out_with_it(world: World) -> None:
    a, b = world.account("wallet:a", 10), world.account("wallet:b")
    world.do(Post("p", (Entry(Code.ADJUST, a, b, 10), Entry(Code.ADJUST, b, world.bank, 10)), T0))
    assert (world.left(a), world.left(b)) == (0, 0)


def test_a_negative_amount_is_refused(world: World) -> None:
    a, b = world.account("wallet:a", 10), world.account("wallet:b", 10)
    with pytest.raises(BadRequest):
        world.do(world.post("p", a, b, -5))


def test_accounts_are_opened_once_and_found_by_name(world: World) -> None:
    with world.database.session() as session:
        first = open_account(session, "wallet:a", Rule.DEBITS_WITHIN_CREDITS)
        assert open_account(session, "wallet:a", Rule.DEBITS_WITHIN_CREDITS) == first
        assert account_id(session, "wallet:a") == first
        assert balance_u(session, "wallet:a") == 0
        assert all(account_id(session, code) for code in WELL_KNOWN)
        for find in (account_id, balance_u):
            with pytest.raises(NotFound):
                find(session, "wallet:nobody")


def test_a_command_moves_money_with_its_own_transaction(world: World) -> None:
    wallet = world.account("wallet:a", 10)
    move = world.post("p", wallet, world.bank, 4)

    class Aborted(Exception):
        pass

    with pytest.raises(Aborted), world.database.session() as session:
        apply_now(session, move)
        raise Aborted
    assert world.left(wallet) == 10
    with pytest.raises(PaymentRequired), world.database.session() as session:
        apply_now(session, move, world.post("q", wallet, world.bank, 7))
    assert world.left(wallet) == 10
    with world.database.session() as session:
        assert apply_now(session, move) == [Done(changed=True)]
        assert balance_u(session, "wallet:a") == 6


@pytest.mark.parametrize(
    "change",
    [
        "dr_posted = cr_posted + 1",
        "dr_pending = -1",
        "cr_pending = -1",
        "cr_posted = dr_pending + dr_posted - 1",
    ],
)
def test_the_database_itself_refuses_a_balance_beyond_its_rule(world: World, change: str) -> None:
    wallet = world.account("wallet:a", 10)
    with pytest.raises(DatabaseError), world.database.session() as session:
        session.execute(text(f"UPDATE ledger_account SET {change} WHERE id = {wallet}"))


@pytest.mark.parametrize("table", ["ledger_transfer", "ledger_batch", "usage_event"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET lane = 1", "DELETE FROM {}"])
def test_facts_cannot_be_edited_or_deleted(world: World, table: str, verb: str) -> None:
    wallet = world.account("wallet:a", 10)
    world.do(world.hold("c", (wallet, 10)))
    world.do(world.settle("c", [10], wallet=10, voucher=0))
    with pytest.raises(DatabaseError, match="append-only"), world.database.session() as session:
        session.execute(text(verb.format(table)))
