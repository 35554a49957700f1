"""Replay the journal: what every balance, promise and event must be, row by row from nothing else.

Per transfer: ends match promises, posted debits tile from zero without gap or overlap. Per event: what
went through clearing is its cost, its own organisation's wallet and the platform paid what it says, its
cost follows from its tokens and its frozen prices. Memory grows with accounts and with promises that are
open, not with rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

from marketplace.ledger.chain import GENESIS, rows_sha256
from marketplace.ledger.chart import CLEARING, Code, Kind, Rule
from marketplace.ledger.chart import wallet as wallet_of
from marketplace.ledger.dialect import TRANSFER_COLUMNS, USAGE_COLUMNS
from marketplace.ledger.groups import Group, Row
from marketplace.ledger.holds import event_of

Recost = Callable[[str, tuple[int, int, int, int, int], int], int | None]
"""From an event's frozen prices (JSON), its five token buckets and its start (µs) to its cost in
micro-yuan; None when the columns do not tell. Handed in, because the ledger knows no prices."""

MOST_PROBLEMS = 1_000
_PRIME = 2**61 - 1
_BUCKETS = ("input_uncached", "cache_read", "cache_write", "output", "reasoning")
_MONEY = itemgetter(
    *map(USAGE_COLUMNS.index, ("cost_u", "wallet_u", "voucher_u", "free_u", "overrun_u"))
)
_ORG = USAGE_COLUMNS.index("org_id")
_PRICED = itemgetter(*map(USAGE_COLUMNS.index, ("prices", "started_at_us", *_BUCKETS)))
_POSTS = (int(Kind.POSTED), int(Kind.POST))
_PLATFORM = (int(Code.OVERRUN), int(Code.ROUNDING))
_PENDING, _POSTED, _POST = int(Kind.PENDING), int(Kind.POSTED), int(Kind.POST)
_USE = int(Code.USE)


class AccountRow(NamedTuple):
    """A row of `ledger_account`."""

    id: int
    code: str
    unit: str
    rule: int
    dr_pending: int
    dr_posted: int
    cr_pending: int
    cr_posted: int


class Replay:
    """What the journal says so far. `problems` are sentences, at most `MOST_PROBLEMS` of them."""

    def __init__(self, accounts: Mapping[int, AccountRow], recost: Recost | None = None) -> None:
        self.problems: list[str] = []
        self.transfers = self.events = self.batches = 0
        self.heads: dict[int, str] = {}
        self.next_seq: dict[int, int] = {}
        self.next_n: dict[int, int] = {}
        self.debits: dict[int, int] = {}
        self.credits: dict[int, int] = {}
        self.promised: dict[tuple[str, int], tuple[int, int]] = {}
        self.ended_first: dict[tuple[str, int], tuple[int, int, bool]] = {}
        self._recost = recost
        self._clearing = next((a.id for a in accounts.values() if a.code == CLEARING), 0)
        self._wallets = {a.id: a.code for a in accounts.values() if a.code.startswith("wallet:")}
        self._bounded = {a.id for a in accounts.values() if a.rule != Rule.PROJECTION}
        # Posted debits tile [0, total] when the products of (x + salt) over all starts and all ends,
        # with 0 and the total in their places, are equal: two numbers an account instead of a sort.
        self._salt = secrets.randbelow(_PRIME)
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def problem(self, words: str) -> None:
        """Write down what is off."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(words)
        elif len(self.problems) == MOST_PROBLEMS:
            self.problems.append("and more, which are not listed")

    def resume(self, lane: int, n: int, seq: int, head: str) -> None:
        """Begin a lane behind what was archived of it."""
        self.heads[lane], self.next_seq[lane], self.next_n[lane] = head, seq + 1, n + 1

    def open_with(
        self, account: int, debits: int, credits: int, segments: Iterable[tuple[int, int]]
    ) -> None:
        """Begin an account with the totals of an archive; `segments` are its tiled posted debits."""
        self.debits[account] = self.debits.get(account, 0) + debits
        self.credits[account] = self.credits.get(account, 0) + credits
        for start, end in segments:
            self.tile(account, start, end)

    def tile(self, account: int, start: int, end: int) -> None:
        """Lay posted debits from `start` to `end` on the account's line."""
        salt = self._salt
        self._starts[account] = self._starts.get(account, 1) * (start + salt) % _PRIME
        self._ends[account] = self._ends.get(account, 1) * (end + salt) % _PRIME

    def tiled(self, account: int) -> bool:
        """Return whether the posted debits of an account tile from zero to their sum."""
        total = self.debits.get(account, 0)
        starts, ends = self._starts.get(account, 1), self._ends.get(account, 1)
        return starts * (total + self._salt) % _PRIME == ends * self._salt % _PRIME

    def take(self, group: Group) -> list[str]:
        """Replay one batch; returns the ids of its one-phase posts, those that belong to no event."""
        lane = group.lane
        self.batches += 1
        where = f"lane {lane} batch {group.n}"
        if (group.n, group.first_seq) != (self.next_n.get(lane, 1), self.next_seq.get(lane, 1)):
            self.problem(f"{where}: batches or rows are missing before it")
        rows: dict[int, Row] = {row[1]: row for row in group.transfers}
        rows.update([(row[-1], row) for row in group.events])
        width = group.last_seq - group.first_seq + 1
        if not len(rows) == len(group.transfers) + len(group.events) == width:
            self.problem(f"{where}: rows are missing or doubled")
        head = rows_sha256(self.heads.get(lane, GENESIS), group.transfers, group.events)
        if head != group.sha256:
            self.problem(f"{where}: the hash chain is broken")
        self.heads[lane] = group.sha256
        self.next_seq[lane], self.next_n[lane] = group.last_seq + 1, group.n + 1
        flows = self._transfers(group.transfers)
        for event in group.events:
            before = rows.get(event[-1] - 1)
            # A call that moved nothing has no rows of its own, and comes after somebody else's.
            own = before is not None and len(before) == _WIDTH and event_of(before[2]) == event[0]
            tx = before[2] if before is not None and own else event[0]
            self._event(event, flows.pop(tx, [0, 0, 0, 0, 0, 0]))
        for tx, (into, out, _, _, posts, _) in flows.items():
            if into != out:
                self.problem(f"{tx}: {into - out} micro-yuan stayed in clearing")
            if posts:
                self.problem(f"{tx}: posted without an event")
        return list(flows)

    def _transfers(self, rows: list[Row]) -> dict[str, list[int]]:
        """Replay transfers; returns by tx: into clearing, out of it, wallet and platform in it, how many
        payments, the wallet's account."""
        flows: dict[str, list[int]] = {}
        debits, credits, clearing = self.debits, self.credits, self._clearing
        wallets = self._wallets
        for _, _, tx, leg, kind, code, debit, credit, amount, debit_total, _ in rows:
            if kind in _POSTS:
                debits[debit] = debits.get(debit, 0) + amount
                credits[credit] = credits.get(credit, 0) + amount
                if debit in self._bounded:
                    if debit_total is None:
                        self.problem(f"{tx} leg {leg}: has no debit total")
                    elif amount:
                        self.tile(debit, debit_total - amount, debit_total)
                flow = flows.get(tx)
                if flow is None:
                    flow = flows[tx] = [0, 0, 0, 0, 0, 0]
                if credit == clearing:
                    flow[0] += amount
                    if debit in wallets:
                        flow[2] += amount
                        flow[5] = debit
                    flow[3] += amount * (code in _PLATFORM)
                if debit == clearing:
                    flow[1] += amount
                flow[4] += kind == _POST or code == _USE
            if kind == _PENDING:
                self.promise(tx, leg, debit, amount)
            elif kind != _POSTED:
                self.end(tx, leg, debit, amount, whole=kind != _POST)
        self.transfers += len(rows)
        return flows

    def promise(self, tx: str, leg: int, account: int, amount: int) -> None:
        """A promise was made; another lane's rows may have ended it already."""
        key = (tx, leg)
        self.promised[key] = (account, amount)
        if key in self.ended_first:
            ended_account, ended, whole = self.ended_first.pop(key)
            self.end(tx, leg, ended_account, ended, whole=whole)

    def end(self, tx: str, leg: int, account: int, amount: int, *, whole: bool) -> None:
        """A promise ended: posted at most, or released `whole`."""
        promise = self.promised.pop((tx, leg), None)
        if promise is None:
            self.ended_first[tx, leg] = (account, amount, whole)
        elif promise[0] != account or amount > promise[1] or (whole and amount != promise[1]):
            self.problem(f"{tx} leg {leg}: ended otherwise than promised")

    def _event(self, event: Row, flow: list[int]) -> None:
        self.events += 1
        cost, wallet, voucher, free, overrun = _MONEY(event)
        into, out, from_wallets, platform, _, payer = flow
        if wallet + voucher + free + overrun != cost:
            self.problem(f"event {event[0]}: its parts do not sum to its cost")
        if into != cost or out != cost:
            self.problem(f"event {event[0]}: costs {cost}, its legs {into}, its accrual {out}")
        if from_wallets != wallet or platform != overrun:
            self.problem(
                f"event {event[0]}: says another share of wallet or platform than its legs"
            )
        if from_wallets and self._wallets[payer] != wallet_of(event[_ORG]):
            self.problem(
                f"event {event[0]}: paid by {self._wallets[payer]}, and is not its own call"
            )
        if self._recost is not None:
            prices, started_at_us, *buckets = _PRICED(event)
            again = self._recost(prices, tuple(buckets), started_at_us)
            if again is not None and again != cost:
                self.problem(f"event {event[0]}: costs {cost}, by its tokens and prices {again}")


_WIDTH = len(TRANSFER_COLUMNS)
"""Fields of a transfer in a group; an event has more."""


def account_rows(rows: Iterable[Any]) -> dict[int, AccountRow]:
    """Return `ledger_account` by id."""
    return {row[0]: AccountRow(*row) for row in rows}
