"""Revenue share: what listing owners earn, when it becomes theirs, and how it is paid out.

    call settled ─► owner:…:unsettled ─ mature ─► owner:…:available ─ prepare ─► owner:…:paying ─ paid ─► bank
                     (a projection)   7 days, or when the           four eyes, payment file    bank ref
                                      funder has settled

The platform's fee is dated and immutable, like a price. There is no payment rail here: a payout is a line
in a file that a bank executes, and the bank's reference comes back by hand.

May import: `catalog`, `marketplace.members`, `marketplace.ledger`, `marketplace.vouchers`.
"""
