"""What batches of operations must do, told a second time: one after the other, on dictionaries.

The journal takes rows beforehand, remembers what it has met, and writes each account once a batch. Here is
nothing of that, so the two are wrong in different ways. A batch that must fail as a whole raises `Fails`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from hypothesis import strategies as st
from support.ledger_world import World, usage

from catalog.ground.errors import Conflict, PaymentRequired
from marketplace.ledger.operations import (
    Charge,
    Done,
    Held,
    Hold,
    Leg,
    Operation,
    Post,
    Rehold,
    Release,
    Settle,
)

CHANGED, UNCHANGED = Done(changed=True), Done(changed=False)
Told = Done | Held | type
"""An outcome, or the class of a refusal."""


class Fails(Exception):
    """The batch is taken back: an operation in it is corrupt, or a name is used a second time."""


class Reference:
    """What every account has and what is held, by plain arithmetic."""

    def __init__(self, funds: dict[int, int]) -> None:
        self.got = dict(funds)
        self.spent = dict.fromkeys(funds, 0)
        self.open: dict[str, tuple[Leg, ...]] = {}
        self.made: set[str] = set()
        """Every name that was ever held under."""
        self.events: set[str] = set()
        self.posts: set[str] = set()

    def totals(self, account: int) -> tuple[int, int, int]:
        """Return (promised, spent, received)."""
        held = [leg.amount for legs in self.open.values() for leg in legs if leg[0] == account]
        return sum(held), self.spent[account], self.got[account]

    def left(self, account: int) -> int:
        """Return what an account has beside all holds."""
        promised, spent, received = self.totals(account)
        return received - spent - promised

    def apply(self, operations: Sequence[Operation]) -> list[Told]:
        """Return what each operation is told; `Fails` leaves everything as it was."""
        kept = deepcopy(self.__dict__)
        try:
            return _Run(self, operations).told
        except Fails:
            self.__dict__ = kept
            raise


class _Run:
    def __init__(self, books: Reference, operations: Sequence[Operation]) -> None:
        self.books = books
        self.before = set(books.open)
        """A settlement looks only at what was there before the batch."""
        self.known: set[str] = set()
        ending = [op.tx for op in operations if isinstance(op, Settle | Release | Rehold)]
        ending += [r.tx for op in operations if isinstance(op, Charge) for r in op.reholds]
        if len(ending) > len(self.before.intersection(ending)):
            late = {op.usage[0] for op in operations if isinstance(op, Settle)}
            self.known |= books.events & late
        self.told = [self._one(op) for op in operations]

    def _one(self, op: Operation) -> Told:
        if isinstance(op, Hold):
            return self._hold(op)
        if isinstance(op, Settle):
            return self._settle(op)
        if isinstance(op, Release):
            return Done(changed=self.books.open.pop(op.tx, None) is not None)
        if isinstance(op, Rehold):
            return self._rehold(op)
        if isinstance(op, Charge):
            return self._charge(op)
        assert isinstance(op, Post)
        return self._post(op)

    def _hold(self, op: Hold) -> Told:
        legs, plan = op.decide({})
        if not self._there(legs):
            return PaymentRequired
        self._promise(op.tx, legs)
        return Held(legs, plan)

    def _there(self, legs: Sequence[Leg]) -> bool:
        wanted: dict[int, int] = {}
        for account, amount, _ in legs:
            wanted[account] = wanted.get(account, 0) + amount
        return all(amount <= self.books.left(account) for account, amount in wanted.items())

    def _promise(self, tx: str, legs: tuple[Leg, ...]) -> None:
        if tx in self.books.made:
            raise Fails(f"{tx} was held under before")
        self.books.open[tx] = legs
        self.books.made.add(tx)

    def _settle(self, op: Settle) -> Told:
        books, event = self.books, op.usage[0]
        if op.tx not in self.before or op.tx not in books.open:
            return UNCHANGED if event in self.known else Conflict
        self._event(event)
        legs = books.open.pop(op.tx)
        if len(legs) != len(op.posted):
            raise Fails(f"{op} of {legs}")
        for (account, most, _), posted in zip(legs, op.posted, strict=True):
            if not 0 <= posted <= most:
                raise Fails(f"{op} of {legs}")
            books.spent[account] += posted
        return CHANGED

    def _event(self, event: str) -> None:
        if event in self.books.events:
            raise Fails(f"{event} was booked before")
        self.books.events.add(event)
        self.known.add(event)

    def _rehold(self, op: Rehold) -> Told:
        legs = self.books.open.pop(op.tx, None)
        if legs is None:
            return UNCHANGED
        if len(legs) != 1 or not 0 <= op.amount <= legs[0].amount:
            raise Fails(f"{op} of {legs}")
        if op.amount:
            self._promise(op.into, (legs[0]._replace(amount=op.amount),))
        return CHANGED

    def _charge(self, op: Charge) -> Told:
        for each in op.reholds:
            self._rehold(each)
        if op.usage[0] in self.known:
            return UNCHANGED
        if not self._there(op.legs):
            return PaymentRequired
        self._event(op.usage[0])
        for account, amount, _ in op.legs:
            self.books.spent[account] += amount
        return CHANGED

    def _post(self, op: Post) -> Told:
        books = self.books
        if op.tx in books.posts:
            return UNCHANGED
        for _, debit, credit, amount in op.entries:
            if debit in books.got:
                if amount > books.left(debit):
                    return PaymentRequired
                books.spent[debit] += amount
            if credit in books.got:
                books.got[credit] += amount
        books.posts.add(op.tx)
        return CHANGED


class Maker:
    """Draws operations that are mostly possible, and sometimes a little wrong."""

    def __init__(
        self, data: st.DataObject, world: World, payers: list[int], wallets: set[int]
    ) -> None:
        self._draw = data.draw
        self._world, self._payers, self._wallets = world, payers, wallets
        self._number = 0
        self.names = ["gen_0"]
        """Of holds that were asked for, made or not."""
        self.calls = ["gen_0"]
        self.seen: list[Operation] = []

    def batch(self, books: Reference) -> list[Operation]:
        """Return one to five operations."""
        made = [self._one(books) for _ in range(self._draw(st.integers(1, 5), label="count"))]
        self.seen += made
        return made

    def _one(self, books: Reference) -> Operation:
        kinds = "hold hold reserve settle release rehold rehold charge charge charge post again"
        kind = self._draw(st.sampled_from(kinds.split()), label="kind")
        if kind == "again" and self.seen:
            return self._draw(st.sampled_from(self.seen[-8:]), label="again")
        return getattr(self, f"_{kind}", self._charge)(books)

    def _name(self, kind: str) -> str:
        self._number += 1
        return f"{kind}_{self._number}"

    def _amount(self, most: int) -> int:
        """Return an amount: often all that is there, seldom one more."""
        near = st.sampled_from([0, most // 2, most, most, most + 1])
        return max(0, self._draw(st.one_of(near, st.integers(0, max(0, most))), label="amount"))

    def _legs(self, books: Reference) -> list[tuple[int, int]]:
        chosen = self._draw(st.lists(st.sampled_from(self._payers), min_size=1, max_size=3))
        return [(account, self._amount(max(0, books.left(account)))) for account in chosen]

    def _hold(self, books: Reference) -> Operation:
        name = self._name("gen")
        self.names.append(name)
        return self._world.hold(name, *self._legs(books))

    def _reserve(self, books: Reference) -> Operation:
        name = self._name("res")
        self.names.append(name)
        return self._world.hold(name, *self._legs(books)[:1])

    def _settle(self, books: Reference) -> Operation:
        name = self._draw(st.sampled_from([*books.open, *self.names[-4:]]), label="settled")
        legs = books.open.get(name, ())
        posted = [self._draw(st.integers(0, leg.amount)) for leg in legs]
        over = self._draw(st.sampled_from([0, 0, 3]))
        mine = sum(n for leg, n in zip(legs, posted, strict=True) if leg[0] in self._wallets)
        cost = sum(posted) + over
        row = usage(name, cost, wallet=mine, voucher=sum(posted) - mine)
        return self._world.settle(name, posted, cost, row=row)

    def _ending(self, books: Reference) -> str:
        """Return the name of a hold that is open, or of one that this batch may be about to make."""
        return self._draw(st.sampled_from([*books.open, *self.names[-2:] * 2]), label="ending")

    def _release(self, books: Reference) -> Operation:
        name = self._ending(books)
        return self._world.release(name, expired=self._draw(st.booleans()))

    def _rehold(self, books: Reference) -> Rehold:
        name = self._ending(books)
        legs = books.open.get(name, ())
        into = self._name("res")
        self.names.append(into)
        return self._world.rehold(name, into, self._amount(legs[0].amount if legs else 5))

    def _charge(self, books: Reference) -> Operation:
        name = self._name("gen")
        if self._draw(st.integers(0, 3)) == 0:
            name = self._draw(st.sampled_from([*self.names[-2:], *self.calls[-2:]]))
        self.calls.append(name)
        legs = self._legs(books) if self._draw(st.integers(0, 9)) else []
        reholds = [self._rehold(books) for _ in range(self._draw(st.sampled_from([0, 0, 1, 1, 2])))]
        paid = sum(n for _, n in legs)
        mine = sum(n for account, n in legs if account in self._wallets)
        # What reserves give up is there to be spent: ask for some of it.
        if legs and reholds:
            account, amount = legs[0]
            more = self._draw(st.integers(0, books.totals(account)[0]), label="more")
            legs[0] = (account, amount + more)
            paid, mine = paid + more, mine + more * (account in self._wallets)
        cost = paid + self._draw(st.sampled_from([0, 0, 2]))
        row = usage(name, cost, wallet=mine, voucher=paid - mine)
        return self._world.charge(name, *legs, cost=cost, row=row, reholds=tuple(reholds))

    def _post(self, books: Reference) -> Operation:
        account, amount = self._legs(books)[0]
        world = self._world
        sides = (account, world.bank) if self._draw(st.booleans()) else (world.bank, account)
        return world.post(self._name("post"), *sides, amount)
