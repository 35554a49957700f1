"""What the random walk believes: grants, calls, links and shares, by arithmetic from the published rules.

Nothing here asks the house, so the house cannot be wrong in the same way. Amounts are micro-yuan, instants
microseconds; organisations go by their short names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from catalog.ground.clock import DAY_US, HOUR_US, from_datetime, zone
from marketplace.gateway.money import Call

FEE_BP = 2000
WAITING = ("city", "district")
"""Programmes whose part of a call is the owner's only once their funders have paid it."""
INFLUENCE_BP = 2500


@dataclass
class GrantModel:
    """A voucher as the model keeps it. `used` is what calls have drawn less what was refunded.

    `held` is what calls and reserves hold of it.
    """

    id: str
    account: int
    code: str
    org: str
    amount: int
    expires_at: int
    held: int = 0
    used: int = 0
    returned: int = 0

    @property
    def left(self) -> int:
        return self.amount - self.held - self.used - self.returned


@dataclass
class CallModel:
    """A call: what each grant and the wallet promised, paid and got back.

    `cost` is what was held for, then what caller and vouchers pay of `billed`; the rest is overrun.
    `own_returned` is what refunds covered of the wallet's part, `wallet_refunded` what it got of that: less
    where a reimbursement had been paid out already. `quota` is set where a free quota pays it all.
    `state` is "planned" for a call that is to be charged and holds nothing, "open" for one that holds.
    """

    call: Call
    org: str
    owner: str
    grants: list[GrantModel]
    held: list[int]
    wallet_held: int
    blocked: bool = False
    quota: bool = False
    cost: int = 0
    billed: int = 0
    posted: list[int] = field(default_factory=list)
    wallet_posted: int = 0
    refunded: int = 0
    own_returned: int = 0
    wallet_refunded: int = 0
    legs_refunded: list[int] = field(default_factory=list)
    ended_at: int = 0
    state: str = "open"
    accrued: bool = False
    archived: bool = False

    @property
    def fee(self) -> int:
        return self.billed * FEE_BP // 10_000

    def owner_part(self, low: int, high: int) -> int:
        """Return the owner's share of the part of the bill from `low` to `high`."""
        if not self.billed:
            return 0
        return (high - high * self.fee // self.billed) - (low - low * self.fee // self.billed)

    def places(self) -> list[tuple[int, int, bool]]:
        """Return where each leg lies in the bill, the wallet's last: (low, high, waits for funders)."""
        instant = [
            (0 if grant.code == "later" else paid, grant.code in WAITING)
            for grant, paid in zip(self.grants, self.posted, strict=True)
        ]
        low = self.billed - self.wallet_posted - sum(paid for paid, _ in instant)
        found = []
        for paid, waits in [*instant, (self.wallet_posted, False)]:
            found.append((low, low + paid, waits))
            low += paid
        return found

    @property
    def waiting(self) -> int:
        """The owner's share of what waits for funders."""
        return sum(self.owner_part(low, high) for low, high, waits in self.places() if waits)


@dataclass
class ReserveModel:
    """An open hold for calls to come: of a grant, or (None) of an organisation's wallet."""

    tx: str
    org: str
    grant: GrantModel | None
    account: int
    amount: int


@dataclass
class LinkModel:
    """Two parties and what joins them, from `start` on, before `end` (None: still)."""

    id: str
    first: str
    second: str
    kind: str
    holding_bp: int
    start: int
    end: int | None


def related(first: str, second: str, links: Iterable[LinkModel], at: int) -> bool:
    """Return whether two parties are one, or joined by any number of links that count at the instant."""
    group = {first}
    live = [
        {link.first, link.second}
        for link in links
        if link.start <= at
        and (link.end is None or at < link.end)
        and (link.kind != "shareholding" or link.holding_bp >= INFLUENCE_BP)
    ]
    for _ in live:
        for pair in live:
            if pair & group:
                group |= pair
    return second in group


def day_end(at: int) -> int:
    """Return the next midnight in Beijing."""
    day = datetime.fromtimestamp(at // 1_000_000, zone) + timedelta(days=1)
    return from_datetime(day.replace(hour=0, minute=0, second=0, microsecond=0))


@dataclass
class Due:
    """What an organisation earned or owes (`net`), when, and from when on it matures.

    `waiting` is the share of a day's calls that waits for funders, and matures with their claims.
    """

    org: str
    kind: str
    net: int
    waiting: int
    at: int
    due_at: int
    matured: bool = False


@dataclass
class Flow:
    """One movement of what is available to an organisation, or (`paid`) of what left for the bank."""

    org: str
    what: str
    amount: int
    at: int


class Shares:
    """Owners' shares: from calls, claims and refunds to what may be paid out."""

    def __init__(self) -> None:
        self.due: list[Due] = []
        self.flows: list[Flow] = []
        self.waiting: list[Due] = []
        """What happened and has not been added up by a job yet; due at once when it is."""
        self.paying: dict[str, int] = defaultdict(int)
        self.under_review: dict[str, str] = {}

    def happens(self, org: str, kind: str, net: int, at: int) -> None:
        """Note a share that the next job adds up."""
        self.waiting.append(Due(org, kind, net, 0, at, at))

    def accrue(self, calls: Sequence[CallModel], now: int) -> None:
        """Add up every day that ended an hour ago, and what has happened since."""
        for call in calls:
            end = day_end(call.ended_at)
            if call.state == "settled" and not call.accrued and end + HOUR_US <= now:
                call.accrued = True
                net = call.billed - call.fee - call.waiting
                due = Due(call.owner, "usage", net, call.waiting, end - 1, end + 7 * DAY_US)
                self.due.append(due)
        for due in self.waiting:
            if due.kind == "settled":
                due.due_at = now
        self.due += self.waiting
        self.waiting = []

    def mature(self, now: int) -> dict[str, int]:
        """Make available what is due, except to who is under review or owes more than that."""
        found: dict[str, int] = {}
        for org in {due.org for due in self.due}:
            ready = [d for d in self.due if d.org == org and not d.matured and d.due_at <= now]
            net = sum(due.net for due in ready)
            if not ready or net < 0 or org in self.under_review:
                continue
            for due in ready:
                due.matured = True
            self.move(org, "matured", net, now)
            found[org] = net
        return found

    def move(self, org: str, what: str, amount: int, at: int) -> None:
        """Note a movement."""
        self.flows.append(Flow(org, what, amount, at))

    def available(self, org: str) -> int:
        """Return what may be paid out now."""
        return sum(f.amount for f in self.flows if f.org == org and f.what != "paid")

    def sums(self, org: str, start: int, end: int) -> dict[str, int]:
        """Return the movements of a span by their kind, and `opening` before it."""
        found: dict[str, int] = defaultdict(int)
        for flow in self.flows:
            if flow.org == org and flow.at < end and (flow.at >= start or flow.what != "paid"):
                found["opening" if flow.at < start else flow.what] += flow.amount
        return found

    def earned(self, org: str, kind: str, start: int, end: int) -> tuple[int, int]:
        """Return (net, waiting) of one kind in a span."""
        rows = [d for d in self.due if (d.org, d.kind) == (org, kind) and start <= d.at < end]
        return sum(d.net for d in rows), sum(d.waiting for d in rows)
