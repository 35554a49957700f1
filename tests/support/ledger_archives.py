"""Rules of the random walk for archives: what is over leaves the journal, and everything still holds."""

from __future__ import annotations

from pathlib import Path

from hypothesis.stateful import precondition, rule
from sqlmodel import col, select
from support.ledger_calls import CallRules
from support.ledger_claims import ClaimRules
from support.ledger_model import day_end
from support.ledger_payouts import PayoutRules

from catalog.ground.clock import HOUR_US
from marketplace.cli.ledger import recost
from marketplace.ledger.archive import archive
from marketplace.vouchers.claimable import used_items
from marketplace.vouchers.tables import ClaimLine


class ArchiveRules(CallRules, ClaimRules, PayoutRules):
    """Close the books of the days that are over, and archive them in the middle of everything."""

    folder: Path
    archives: int

    @precondition(lambda self: self.archives < 2 and any(c.ended_at for c in self.e.calls))
    @rule()
    def archive(self) -> None:
        """Archive every day that is over, once its claims are settled: calls that run go on."""
        e = self.e
        cut = day_end(e.now)
        self.pass_time(cut + 2 * HOUR_US - e.now)
        self.close_claims()
        self.run_jobs()
        if not self._all_claimed(cut):
            return
        self.check_programmes()
        made = archive(self.database, cut, self.folder, recost=recost, clock=lambda: e.now)
        assert made is not None
        self.archives += 1
        self.archived_until = cut
        for call in e.calls:
            if call.state == "unpaid" or (call.state == "settled" and call.ended_at < cut):
                call.archived = True

    def _all_claimed(self, cut: int) -> bool:
        """Return whether no funder owes for anything of these days: what is archived is not claimed."""
        with self.database.reading() as session:
            query = select(ClaimLine.event_id).where(col(ClaimLine.state) != "withdrawn")
            claimed = set(session.exec(query))
            return all(
                item.event_id in claimed
                for code in self.e.RATIOS
                for item in used_items(session, self.e.programmes[code].id, 0, cut)
            )

    def check_programmes(self) -> None:
        """Prove what only the journal's own rows can prove."""
        raise NotImplementedError
