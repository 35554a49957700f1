"""Apply operations to the ledger, several in one transaction.

The order of work is what makes it exact and cheap:

1. take the hold rows that this batch ends (whoever deletes the row settles it, so nobody settles twice);
2. lock every bounded account that the batch touches, once, in id order;
3. decide each operation in turn against the locked totals, in memory;
4. write each touched account once, then the journal rows, then the chain.

So a voucher under heavy load costs one row update per batch however many calls it pays, and the checks
in the database are the second line, not the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from catalog.ground.errors import (
    BadRequest,
    Conflict,
    InternalError,
    LedgerCorrupt,
    NotFound,
    PaymentRequired,
    TokenMartError,
)
from marketplace.ledger.chain import batch_sha256
from marketplace.ledger.chart import Code, Kind, Rule
from marketplace.ledger.dialect import Dialect
from marketplace.ledger.operations import (
    Done,
    Entry,
    Held,
    Hold,
    Leg,
    Operation,
    Outcome,
    Post,
    Release,
    Renew,
    Settle,
)

_json = msgspec.json.Encoder().encode
_legs = msgspec.json.Decoder(list[tuple[int, int, int]]).decode
_RULE, _DR_PENDING, _DR_POSTED, _CR_PENDING, _CR_POSTED = range(5)


class _Available:
    """The view that `Hold.decide` gets: computed on demand from the locked totals."""

    def __init__(self, totals: dict[int, list[int]]) -> None:
        self._totals = totals

    def __getitem__(self, account_id: int) -> int:
        row = self._totals[account_id]
        return row[_CR_POSTED] - row[_DR_POSTED] - row[_DR_PENDING]

    def get(self, account_id: int, default: int = 0) -> int:
        return self[account_id] if account_id in self._totals else default


class BatchRun:
    """One transaction's worth of work, from the first lock to the rows that are written."""

    def __init__(self, dialect: Dialect, lane_id: int, clearing_id: int) -> None:
        self._dialect = dialect
        self._lane = lane_id
        self._clearing = clearing_id
        self._next_seq, self._next_batch, self._head = dialect.lane(lane_id)
        self._first_seq = self._next_seq
        self._totals: dict[int, list[int]] = {}
        self._changed: set[int] = set()
        self._transfers: list[tuple[Any, ...]] = []
        self._usage: list[tuple[Any, ...]] = []
        self._holds: list[tuple[Any, ...]] = []
        self._chained: list[Sequence[Any]] = []
        self._open: dict[str, list[tuple[int, int, int]]] = {}
        self._known: set[str] = set()
        self._repeated: dict[str, Held] = {}

    def apply(
        self, operations: Sequence[Operation], *, again: bool = False
    ) -> list[Outcome | TokenMartError]:
        """Return one outcome per operation, in order; a refused one has left no trace.

        `again`: an earlier try may have been committed unseen (the connection broke), so holds that are
        there already are answered as they stand.
        """
        self._prepare(operations)
        if again:
            self._repeated = self._holds_already_there(operations)
        outcomes = [self._one(operation) for operation in operations]
        self._write()
        return outcomes

    def _prepare(self, operations: Sequence[Operation]) -> None:
        ending: list[str] = []
        posts: list[str] = []
        accounts: set[int] = set()
        for op in operations:
            if isinstance(op, Hold):
                accounts.update(op.accounts)
                continue
            if isinstance(op, (Settle, Post)):
                for _, debit_id, credit_id, _ in op.entries:
                    accounts.add(debit_id)
                    accounts.add(credit_id)
            if isinstance(op, (Settle, Release)):
                ending.append(op.tx)
            elif isinstance(op, Post):
                posts.append(op.tx)
        if ending:
            self._open = {tx: _legs(legs) for tx, legs in self._dialect.take_holds(ending)}
            for legs in self._open.values():
                accounts.update([leg[0] for leg in legs])
        if posts:
            self._known = self._dialect.posted(posts)
        if len(ending) > len(self._open):
            late = [op.usage[0] for op in operations if isinstance(op, Settle)]
            self._known |= self._dialect.settled(late)
        if accounts:
            for account_id, *totals in self._dialect.lock_accounts(accounts):
                self._totals[account_id] = totals

    def _holds_already_there(self, operations: Sequence[Operation]) -> dict[str, Held]:
        txs = [op.tx for op in operations if isinstance(op, Hold)]
        return {
            tx: Held(tuple(Leg(*leg) for leg in _legs(legs)), plan)
            for tx, legs, plan in self._dialect.open_holds(txs)
        }

    def _one(self, operation: Operation) -> Outcome | TokenMartError:
        try:
            if isinstance(operation, Hold):
                return self._hold(operation)
            if isinstance(operation, Settle):
                return self._settle(operation)
            if isinstance(operation, Release):
                return self._release(operation)
            if isinstance(operation, Post):
                return self._post(operation)
            return self._renew(operation)
        except LedgerCorrupt:
            raise
        except TokenMartError as refusal:
            return refusal

    def _hold(self, op: Hold) -> Held:
        if op.tx in self._repeated:
            return self._repeated[op.tx]
        available = _Available(self._totals)
        legs, plan = _decided(op, available)
        wanted: dict[int, int] = {}
        for leg in legs:
            if leg.account_id not in self._totals:
                raise NotFound(f"Account {leg.account_id} was not locked.", rule="ledger.account")
            if leg.amount < 0:
                raise BadRequest("A promise cannot be negative.", rule="ledger.amount")
            wanted[leg.account_id] = wanted.get(leg.account_id, 0) + leg.amount
        for account_id, amount in wanted.items():
            if amount > available[account_id]:
                raise PaymentRequired("The account does not hold that much.", rule="ledger.rule_1")
        for index, (account_id, amount, sink_id) in enumerate(legs):
            self._move(account_id, _DR_PENDING, amount)
            self._journal(
                op.tx, index, Kind.PENDING, Code.USE, account_id, sink_id, amount, op.at_us
            )
        kept = _json(legs).decode()
        row = (op.tx, self._lane, op.org_id, kept, plan, op.at_us, op.expires_at_us)
        self._holds.append(row)
        return Held(legs, plan)

    def _settle(self, op: Settle) -> Done:
        held = self._open.pop(op.tx, None)
        if held is None:
            if op.usage[0] in self._known:
                return Done(changed=False)
            raise Conflict(f"There is no open hold {op.tx}.", rule="ledger.hold_open")
        if len(op.posted) != len(held):
            raise LedgerCorrupt(f"{op.tx} holds {len(held)} legs, {len(op.posted)} were posted.")
        self._check_clearing(op, held)
        if any(entry.amount < 0 for entry in op.entries):
            raise LedgerCorrupt(f"{op.tx} would book a negative amount.")
        for index, (account_id, amount, sink_id) in enumerate(held):
            posted = op.posted[index]
            if not 0 <= posted <= amount:
                raise LedgerCorrupt(f"{op.tx} would post {posted} of {amount} on leg {index}.")
            self._move(account_id, _DR_PENDING, -amount)
            self._move(account_id, _DR_POSTED, posted)
            self._journal(op.tx, index, Kind.POST, Code.USE, account_id, sink_id, posted, op.at_us)
        self._entries(op.tx, op.entries, op.at_us)
        self._usage.append((*op.usage, self._lane, self._next_seq))
        self._chained.append((*op.usage, self._next_seq))
        self._next_seq += 1
        self._known.add(op.usage[0])
        return Done(changed=True)

    def _check_clearing(self, op: Settle, held: list[tuple[int, int, int]]) -> None:
        through = sum(
            posted
            for (_, _, sink), posted in zip(held, op.posted, strict=True)
            if sink == self._clearing
        )
        for entry in op.entries:
            through += entry.amount * (entry.credit_id == self._clearing)
            through -= entry.amount * (entry.debit_id == self._clearing)
        if through:
            raise LedgerCorrupt(f"{op.tx} would leave {through} micro-yuan in clearing.")

    def _release(self, op: Release) -> Done:
        held = self._open.pop(op.tx, None)
        if held is None:
            return Done(changed=False)
        kind = Kind.EXPIRE if op.expired else Kind.VOID
        for index, (account_id, amount, sink_id) in enumerate(held):
            self._move(account_id, _DR_PENDING, -amount)
            self._journal(op.tx, index, kind, Code.USE, account_id, sink_id, amount, op.at_us)
        return Done(changed=True)

    def _renew(self, op: Renew) -> Done:
        return Done(changed=self._dialect.renew(op.tx, op.expires_at_us))

    def _post(self, op: Post) -> Done:
        if op.tx in self._known:
            return Done(changed=False)
        if any(entry.amount < 0 for entry in op.entries):
            raise BadRequest("An amount cannot be negative.", rule="ledger.amount")
        self._check_room(op.entries)
        self._entries(op.tx, op.entries, op.at_us)
        self._known.add(op.tx)
        return Done(changed=True)

    def _check_room(self, entries: Sequence[Entry]) -> None:
        room: dict[int, int] = {}
        for entry in entries:
            for side, sign in ((entry.debit_id, -1), (entry.credit_id, 1)):
                if side in self._totals:
                    room[side] = room.get(side, 0) + sign * entry.amount
        available = _Available(self._totals)
        for account_id, change in room.items():
            rule = self._totals[account_id][_RULE]
            if rule == Rule.DEBITS_WITHIN_CREDITS and available[account_id] + change < 0:
                raise PaymentRequired(
                    f"The account holds {available[account_id]}, {-change} were asked for.",
                    rule="ledger.rule_1",
                    details={"available_u": available[account_id], "required_u": -change},
                )
            if rule == Rule.CREDITS_WITHIN_DEBITS and -available[account_id] - change < 0:
                raise PaymentRequired("More would be settled than is owed.", rule="ledger.rule_2")

    def _entries(self, tx: str, entries: Sequence[Entry], at_us: int) -> None:
        for index, (code, debit_id, credit_id, amount) in enumerate(entries):
            self._move(debit_id, _DR_POSTED, amount)
            self._move(credit_id, _CR_POSTED, amount)
            self._journal(tx, index, Kind.POSTED, code, debit_id, credit_id, amount, at_us)

    def _move(self, account_id: int, column: int, delta: int) -> None:
        row = self._totals.get(account_id)
        if row is not None:
            row[column] += delta
            self._changed.add(account_id)

    def _journal(
        self,
        tx: str,
        index: int,
        kind: Kind,
        code: Code,
        debit_id: int,
        credit_id: int,
        amount: int,
        at_us: int,
    ) -> None:
        totals = self._totals.get(debit_id)
        posts = kind is Kind.POST or kind is Kind.POSTED
        debit_total = totals[_DR_POSTED] if totals is not None and posts else None
        # As plain numbers: the drivers and the chain take the long way round an enum.
        what = (int(kind), int(code), debit_id, credit_id, amount, debit_total, at_us)
        row = (self._next_seq, tx, index, *what)
        self._transfers.append((self._lane, *row))
        self._chained.append(row)
        self._next_seq += 1

    def _write(self) -> None:
        dialect = self._dialect
        if self._changed:
            rows = [
                (*self._totals[account_id][1:], account_id) for account_id in sorted(self._changed)
            ]
            if dialect.update_accounts(rows) != len(rows):
                raise LedgerCorrupt("An account vanished under its lock.")
        for table, new in (
            ("transfer", self._transfers),
            ("hold", self._holds),
            ("usage", self._usage),
        ):
            if new:
                dialect.insert(table, new)
        if self._chained:
            head = batch_sha256(self._head, self._chained)
            dialect.seal((self._lane, self._next_batch, self._first_seq, self._next_seq - 1, head))


def _decided(op: Hold, available: _Available) -> tuple[tuple[Leg, ...], str]:
    """Return the caller's decision; its bugs refuse its own hold, not the batch it is in."""
    try:
        return op.decide(available)  # type: ignore[arg-type]
    except TokenMartError:
        raise
    except Exception as error:
        raise InternalError(f"No decision for {op.tx}: {error!r}.", rule="ledger.decide") from error
