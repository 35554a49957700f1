"""Open accounts and lanes, and move money from the control plane (commands, forms, jobs)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlmodel import Session, select

from catalog.ground.clock import Clock, now_us
from catalog.ground.errors import NotFound, TokenMartError
from marketplace.ledger.chain import GENESIS
from marketplace.ledger.chart import CLEARING, CNY, Rule
from marketplace.ledger.dialect import dialect_of
from marketplace.ledger.journal import BatchRun
from marketplace.ledger.operations import Operation, Outcome
from marketplace.ledger.tables import Account, Lane

CONTROL_LANE = "control"
"""The lane of the control plane. Its row is locked for the transaction, so it is one line for all."""


def open_account(session: Session, code: str, rule: Rule, unit: str = CNY) -> int:
    """Return the id of the account called `code`, opening it when there is none."""
    found = session.exec(select(Account.id).where(Account.code == code)).first()
    if found is not None:
        return found
    session.execute(
        text(
            "INSERT INTO ledger_account (code, unit, rule) VALUES (:code, :unit, :rule) "
            "ON CONFLICT (code) DO NOTHING"
        ),
        {"code": code, "unit": unit, "rule": int(rule)},
    )
    return account_id(session, code)


def account_id(session: Session, code: str) -> int:
    """Return the id of an account that exists; `NotFound` otherwise."""
    found = session.exec(select(Account.id).where(Account.code == code)).first()
    if found is None:
        raise NotFound(f"There is no account {code}.", rule="ledger.account")
    return found


def balance_u(session: Session, code: str) -> int:
    """Return what the account may still promise (posted credits less posted and pending debits)."""
    account = session.exec(select(Account).where(Account.code == code)).first()
    if account is None:
        raise NotFound(f"There is no account {code}.", rule="ledger.account")
    return account.cr_posted - account.dr_posted - account.dr_pending


def open_lane(session: Session, name: str, clock: Clock = now_us) -> int:
    """Return the id of the lane called `name`, opening it when there is none."""
    found = session.exec(select(Lane.id).where(Lane.name == name)).first()
    if found is not None:
        return found
    lane = Lane(name=name, opened_at_us=clock())
    session.add(lane)
    session.flush()
    assert lane.id is not None
    return lane.id


def take_control(session: Session, clock: Clock = now_us) -> None:
    """Hold the control lane until the session commits.

    Whoever decides from balances or earlier decisions calls this before reading them: what it reads
    then is committed, and nobody else of the control plane decides meanwhile. Calls of the gateway go on.
    """
    session.flush()
    session.execute(
        text(
            "INSERT INTO ledger_lane (name, opened_at_us, next_seq, next_batch, head) "
            "VALUES (:name, :at_us, 1, 1, :head) ON CONFLICT (name) DO NOTHING"
        ),
        {"name": CONTROL_LANE, "at_us": clock(), "head": GENESIS},
    )
    if session.get_bind().dialect.name == "postgresql":
        query = "SELECT id FROM ledger_lane WHERE name = :name FOR UPDATE"
        session.execute(text(query), {"name": CONTROL_LANE})
        # What was read before the lock may be old; SQLite's one writer has read nothing old.
        for row in list(session):
            session.refresh(row)


def apply_now(session: Session, *operations: Operation) -> list[Outcome]:
    """Apply operations inside the session's own transaction; raises the first refusal.

    They become durable with the session's commit, together with whatever else it has written.
    """
    session.flush()
    lane = open_lane(session, CONTROL_LANE)
    clearing = account_id(session, CLEARING)
    driver: Any = session.connection().connection.driver_connection
    results = BatchRun(dialect_of(driver), lane, clearing).apply(operations)
    outcomes: list[Outcome] = []
    for result in results:
        if isinstance(result, TokenMartError):
            raise result
        outcomes.append(result)
    for row in session:
        if isinstance(row, Account | Lane):
            session.expire(row)
    return outcomes
