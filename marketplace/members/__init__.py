"""Who is calling: organisations, their members, facts about them, and their keys.

May import: `catalog`. Knows nothing of prices, vouchers or the ledger.
"""
