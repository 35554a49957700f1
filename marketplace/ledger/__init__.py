"""The ledger: who had how much, who holds what, who paid. Facts are added, never edited.

    hold(tx)  ──►  pending transfer per leg, a row in `ledger_hold`      money is promised, not spent
       │
       ├─ settle(tx) ──► post per leg (never more than was pending), the rest is released,
       │                 accrual to the owner, one `usage_event`: all in one transaction
       ├─ void(tx)   ──► everything released (the call failed, nobody pays)
       ├─ expire(tx) ──► the same, by the sweeper, when a process died with the hold open
       └─ rehold(tx) ──► everything released, a part of it promised again under another name

    charge(tx) ──►  posted at once, for a call without a hold, from what is there beside all holds:
                    the same legs, accrual and `usage_event` as a settlement. It may rehold first, so
                    that a worker's reserve (a hold for calls to come) pays and keeps what is left

Names follow TigerBeetle's two-phase transfers: accounts with pending and posted debits and credits,
transfers that are only ever inserted, ids made by the client so that a retry changes nothing.

An account with a rule keeps its balances in its row and a CHECK guards them; an account without one
(the outside world, clearing, accruals) is a projection of the journal, so it is never a hot row.

May import: `catalog.ground`. Only this folder touches the ledger's tables.
"""
