"""What a key may spend in a Beijing day and month, exact under any number of replicas.

A cap is a ledger account: `keycap:{key}:{window}`, opened with the cap as its credit, and every hold of
the key carries a leg on it beside the money's own legs. So the same lock, the same journal and the same
proof that keep a wallet from being overdrawn keep a key within its cap, a failed call gives its room
back, and no counter can leak. It touches one row more for each window of a key that has caps, and
nothing for a key that has none.

What counts is what vouchers and the wallet pay; free quotas do not. A call counts in the window in which
it began. `cap_accounts` opens the accounts.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from catalog.ground.clock import SECOND_US, zone
from marketplace.ledger.operations import Available


class Cap(NamedTuple):
    """One window of one key: `rule` is what refuses, `limit_u` micro-yuan, the end exclusive."""

    rule: str
    account_id: int
    limit_u: int
    ends_at_us: int


class KeyCaps(NamedTuple):
    """The windows of a key now; their legs go to `sink_id`. Look again at `good_until_us`."""

    caps: tuple[Cap, ...] = ()
    sink_id: int = 0
    good_until_us: int = 2**62

    @property
    def accounts(self) -> tuple[int, ...]:
        """The ledger accounts of the windows."""
        return tuple(cap.account_id for cap in self.caps)

    def tightest(self, available: Available) -> Cap | None:
        """Return the cap that leaves least, None without caps."""
        return min(self.caps, key=lambda cap: available.get(cap.account_id, 0), default=None)

    def room_u(self, available: Available) -> int:
        """Return what the key may still spend, micro-yuan."""
        cap = self.tightest(available)
        return 2**62 if cap is None else available.get(cap.account_id, 0)


NO_CAPS = KeyCaps()


def window_words(cap: Cap) -> str:
    """Return when the cap is whole again, in Beijing time, for a person."""
    ends = datetime.fromtimestamp(cap.ends_at_us // SECOND_US, zone)
    return ends.strftime("%Y-%m-%d %H:%M Beijing time")
