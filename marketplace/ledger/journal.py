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

from collections.abc import Callable, Sequence
from typing import Any

from catalog.ground.errors import (
    BadRequest,
    Conflict,
    InternalError,
    LedgerCorrupt,
    NotFound,
    PaymentRequired,
    TokenMartError,
)
from marketplace.ledger.chain import as_json, batch_sha256
from marketplace.ledger.chart import Code, Kind, Rule
from marketplace.ledger.dialect import Dialect, Legs, Totals, Written
from marketplace.ledger.operations import (
    Charge,
    Done,
    Entry,
    Held,
    Hold,
    Leg,
    Operation,
    Outcome,
    Post,
    Rehold,
    Release,
    Renew,
    Settle,
)

_RULE, _DR_PENDING, _DR_POSTED, _CR_PENDING, _CR_POSTED = range(5)
# As plain numbers: the drivers and the chain take the long way round an enum.
_POSTED, _PENDING, _POST = int(Kind.POSTED), int(Kind.PENDING), int(Kind.POST)
_VOID, _EXPIRE, _USE = int(Kind.VOID), int(Kind.EXPIRE), int(Code.USE)
_DONE, _UNCHANGED = Done(changed=True), Done(changed=False)


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
    """One transaction's worth of work, from the first lock to the rows that are written.

    Every call passes through here twice, so its methods work on plain lists and tuples and are told
    what a row is by its position (`TRANSFER_COLUMNS`, `EVENT_COLUMNS`, `HOLD_COLUMNS`).
    """

    def __init__(self, dialect: Dialect, lane_id: int, clearing_id: int) -> None:
        self._dialect = dialect
        self._lane = lane_id
        self._clearing = clearing_id
        self._next_seq = 0
        self._totals: Totals = {}
        self._available = _Available(self._totals)
        self._changed: set[int] = set()
        self._transfers: list[tuple[Any, ...]] = []
        self._events: list[tuple[Any, ...]] = []
        self._holds: list[tuple[Any, ...]] = []
        self._promised: dict[str, Legs] = {}
        self._open: dict[str, Legs] = {}
        self._known: set[str] = set()
        self.head = ""
        """The lane's head after `apply`; '' when nothing was chained."""
        self.opened: tuple[str, int] | None = None
        """A hold (tx, instant) that `apply` has made though nothing was chained: it promises nothing."""

    def apply(self, operations: Sequence[Operation]) -> list[Outcome | TokenMartError]:
        """Return one outcome per operation, in order; a refused one has left no trace.

        Only what a refused `Charge` asked for beforehand (`reholds`) stays done.
        """
        lane = self._prepare(operations)
        self._next_seq = lane[0]
        outcomes: list[Outcome | TokenMartError] = []
        for operation in operations:
            try:
                outcomes.append(_STEPS[operation.__class__](self, operation))
            except LedgerCorrupt:
                raise
            except TokenMartError as refusal:
                outcomes.append(refusal)
        self._write(*lane)
        return outcomes

    def _prepare(self, operations: Sequence[Operation]) -> tuple[int, int, str]:
        """Take and lock what the operations need; returns the lane's next row, next batch and head."""
        ending: list[str] = []
        posts: list[str] = []
        late: list[str] = []
        accounts: set[int] = set()
        for op in operations:
            # By its class: no operation has a subclass, and this is looked at for every one of them.
            kind = op.__class__
            if kind is Hold:
                accounts.update(op.accounts)  # type: ignore[union-attr]
                continue
            if kind is Settle or kind is Charge or kind is Post:
                for _, debit_id, credit_id, _ in op.entries:  # type: ignore[union-attr]
                    accounts.add(debit_id)
                    accounts.add(credit_id)
            if kind is Charge:
                for account_id, _, _ in op.legs:  # type: ignore[union-attr]
                    accounts.add(account_id)
                ending += [each.tx for each in op.reholds]  # type: ignore[union-attr]
                if op.again:  # type: ignore[union-attr]
                    late.append(op.usage[0])  # type: ignore[union-attr]
            elif kind is Settle or kind is Release or kind is Rehold:
                ending.append(op.tx)
            elif kind is Post:
                posts.append(op.tx)
        accounts.discard(self._clearing)
        lane, self._open, self._known, self._totals = self._dialect.take(
            self._lane, ending, posts, accounts
        )
        self._available = _Available(self._totals)
        if len(ending) > len(self._open):
            late += [op.usage[0] for op in operations if isinstance(op, Settle)]
        if late:
            self._known |= self._dialect.settled(late)
        return lane

    def _hold(self, op: Hold) -> Held:
        tx, totals = op.tx, self._totals
        legs, plan = _decided(op, self._available)
        wanted: dict[int, int] = {}
        for account_id, amount, _ in legs:
            if account_id not in op.accounts or account_id not in totals:
                raise NotFound(f"Account {account_id} was not locked.", rule="ledger.account")
            if amount < 0:
                raise BadRequest("A promise cannot be negative.", rule="ledger.amount")
            wanted[account_id] = wanted.get(account_id, 0) + amount
        self._check_left(wanted)
        self._promise(tx, op.org_id, legs, plan, op.at_us, op.expires_at_us)
        return Held(legs, plan)

    def _check_left(self, wanted: dict[int, int]) -> None:
        """Refuse to take more from an account than it has beside all holds."""
        for account_id, amount in wanted.items():
            if amount > self._available[account_id]:
                raise PaymentRequired("The account does not hold that much.", rule="ledger.rule_1")

    def _promise(
        self, tx: str, org_id: str, legs: tuple[Leg, ...], plan: str, at_us: int, until_us: int
    ) -> None:
        """Open a hold."""
        lane, seq, transfers, totals = self._lane, self._next_seq, self._transfers, self._totals
        for index, (account_id, amount, sink_id) in enumerate(legs):
            totals[account_id][_DR_PENDING] += amount
            self._changed.add(account_id)
            transfers.append(
                (lane, seq, tx, index, _PENDING, _USE, account_id, sink_id, amount, None, at_us)
            )
            seq += 1
        self._next_seq = seq
        kept = as_json(legs).decode()
        self._holds.append((tx, lane, org_id, kept, plan, at_us, until_us))
        self._promised[tx] = legs

    def _settle(self, op: Settle) -> Done:
        tx, at_us, usage, shares = op.tx, op.at_us, op.usage, op.posted
        held = self._open.pop(tx, None)
        if held is None:
            if usage[0] in self._known:
                return _UNCHANGED
            raise Conflict(f"There is no open hold {tx}.", rule="ledger.hold_open")
        # From here on an error takes back the whole batch, so nothing has to be checked beforehand.
        if len(shares) != len(held):
            raise LedgerCorrupt(f"{tx} holds {len(held)} legs, {len(shares)} were posted.")
        lane, seq, transfers, through = self._lane, self._next_seq, self._transfers, 0
        for index, (account_id, amount, sink_id) in enumerate(held):
            posted = shares[index]
            if not 0 <= posted <= amount:
                raise LedgerCorrupt(f"{tx} would post {posted} of {amount} on leg {index}.")
            if sink_id == self._clearing:
                through += posted
            row = self._totals[account_id]
            row[_DR_PENDING] -= amount
            row[_DR_POSTED] += posted
            self._changed.add(account_id)
            spent = row[_DR_POSTED]
            transfers.append(
                (lane, seq, tx, index, _POST, _USE, account_id, sink_id, posted, spent, at_us)
            )
            seq += 1
        self._next_seq = seq
        through += self._entries(tx, op.entries, at_us)
        if through:
            raise LedgerCorrupt(f"{tx} would leave {through} micro-yuan in clearing.")
        self._events.append((*usage, lane, self._next_seq))
        self._next_seq += 1
        self._known.add(usage[0])
        return _DONE

    def _charge(self, op: Charge) -> Done:
        tx, at_us = op.tx, op.at_us
        # Whatever becomes of the charge: the batch has taken these holds' rows already.
        for each in op.reholds:
            self._rehold(each)
        if op.usage[0] in self._known:
            return _UNCHANGED
        wanted: dict[int, int] = {}
        for account_id, amount, _ in op.legs:
            if amount < 0 or account_id not in self._totals:
                raise LedgerCorrupt(f"{tx} would take {amount} from account {account_id}.")
            wanted[account_id] = wanted.get(account_id, 0) + amount
        self._check_left(wanted)
        # From here on an error takes back the whole batch, so nothing has to be checked beforehand.
        uses = [(_USE, account_id, sink_id, amount) for account_id, amount, sink_id in op.legs]
        if through := self._entries(tx, [*uses, *op.entries], at_us):
            raise LedgerCorrupt(f"{tx} would leave {through} micro-yuan in clearing.")
        self._events.append((*op.usage, self._lane, self._next_seq))
        self._next_seq += 1
        self._known.add(op.usage[0])
        return _DONE

    def _rehold(self, op: Rehold) -> Done:
        held = self._taken(op.tx)
        if held is None:
            return _UNCHANGED
        if len(held) != 1 or not 0 <= op.amount <= held[0][1]:
            raise LedgerCorrupt(f"{op.tx} holds {held}, of which {op.amount} should stay.")
        self._end(op.tx, held, _VOID, op.at_us)
        if op.amount:
            account_id, _, sink_id = held[0]
            legs = (Leg(account_id, op.amount, sink_id),)
            self._promise(op.into, op.org_id, legs, "{}", op.at_us, op.expires_at_us)
        return _DONE

    def _release(self, op: Release) -> Done:
        held = self._taken(op.tx)
        if held is None:
            return _UNCHANGED
        self._end(op.tx, held, _EXPIRE if op.expired else _VOID, op.at_us)
        return _DONE

    def _taken(self, tx: str) -> Legs | None:
        """Return the legs of a hold that is about to end; None when it has ended already."""
        held = self._open.pop(tx, None)
        if held is None and tx in self._promised:
            # This very batch has opened it, so there is no row of it yet.
            held = self._promised.pop(tx)
            self._holds = [row for row in self._holds if row[0] != tx]
        return held

    def _end(self, tx: str, held: Legs, kind: int, at_us: int) -> None:
        """Let go of all that a hold has promised."""
        lane = self._lane
        for index, (account_id, amount, sink_id) in enumerate(held):
            self._totals[account_id][_DR_PENDING] -= amount
            self._changed.add(account_id)
            what = (kind, _USE, account_id, sink_id, amount, None, at_us)
            self._transfers.append((lane, self._next_seq, tx, index, *what))
            self._next_seq += 1

    def _renew(self, op: Renew) -> Done:
        return Done(changed=self._dialect.renew(op.tx, op.expires_at_us))

    def _post(self, op: Post) -> Done:
        if op.tx in self._known:
            return _UNCHANGED
        if any(entry.amount < 0 for entry in op.entries):
            raise BadRequest("An amount cannot be negative.", rule="ledger.amount")
        self._check_room(op.entries)
        self._entries(op.tx, op.entries, op.at_us)
        self._known.add(op.tx)
        return _DONE

    def _check_room(self, entries: Sequence[Entry]) -> None:
        room: dict[int, int] = {}
        for entry in entries:
            for side, sign in ((entry.debit_id, -1), (entry.credit_id, 1)):
                if side in self._totals:
                    room[side] = room.get(side, 0) + sign * entry.amount
        available = self._available
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

    def _entries(self, tx: str, entries: Sequence[tuple[int, int, int, int]], at_us: int) -> int:
        """Move them; returns what stays of them in clearing."""
        lane, seq, totals, through = self._lane, self._next_seq, self._totals, 0
        for index, (code, debit_id, credit_id, amount) in enumerate(entries):
            if amount < 0:
                raise LedgerCorrupt(f"{tx} would book a negative amount.")
            debit_total = None
            if debit_id in totals:
                row = totals[debit_id]
                row[_DR_POSTED] += amount
                debit_total = row[_DR_POSTED]
                self._changed.add(debit_id)
            elif debit_id == self._clearing:
                through -= amount
            if credit_id in totals:
                totals[credit_id][_CR_POSTED] += amount
                self._changed.add(credit_id)
            elif credit_id == self._clearing:
                through += amount
            why = int(code)
            self._transfers.append(
                (
                    lane,
                    seq,
                    tx,
                    index,
                    _POSTED,
                    why,
                    debit_id,
                    credit_id,
                    amount,
                    debit_total,
                    at_us,
                )
            )
            seq += 1
        self._next_seq = seq
        return through

    def _write(self, first_seq: int, batch: int, head: str) -> None:
        totals = self._totals
        accounts = [(*totals[account_id][1:], account_id) for account_id in sorted(self._changed)]
        transfers, events = as_json(self._transfers), as_json(self._events)
        seal = None
        if self._next_seq > first_seq:
            self.head = batch_sha256(head, transfers, events)
            seal = (self._lane, batch, first_seq, self._next_seq - 1, self.head)
        elif self._holds:
            tx, _, _, _, _, at_us, _ = self._holds[0]
            self.opened = (tx, at_us)
        chained, used = self._transfers, self._events
        self._dialect.write(
            Written(accounts, chained, transfers, self._holds, self._promised, used, events, seal)
        )


_STEPS: dict[type, Callable[[BatchRun, Any], Outcome]] = {
    Hold: BatchRun._hold,
    Settle: BatchRun._settle,
    Release: BatchRun._release,
    Renew: BatchRun._renew,
    Rehold: BatchRun._rehold,
    Charge: BatchRun._charge,
    Post: BatchRun._post,
}


def _decided(op: Hold, available: _Available) -> tuple[tuple[Leg, ...], str]:
    """Return the caller's decision; its bugs refuse its own hold, not the batch it is in."""
    try:
        return op.decide(available)  # type: ignore[arg-type]
    except TokenMartError:
        raise
    except Exception as error:
        raise InternalError(f"No decision for {op.tx}: {error!r}.", rule="ledger.decide") from error
