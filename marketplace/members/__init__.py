"""Who is calling: organisations, their members, facts about them, and their keys.

    organisation ─┬─ membership   who acts for it, and in which role     (`people`)
                  ├─ project ─ key   what its machines sign in with      (`keys`)
                  ├─ fact         what a programme may ask about it      (`facts`)
                  └─ party link   whom it belongs together with          (`parties`, `related`)

`door` is how the marketplace's own API is entered (`four_eyes`: who may do what, and what takes two
persons); `endpoints` is what it says of all of the above.

A fact counts from the moment a second person has verified its evidence. Nothing that was once true is
deleted: memberships, facts and links end.

May import: `catalog`. Knows nothing of prices, vouchers or the ledger.
"""
