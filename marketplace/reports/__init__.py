"""What people are shown and sign for: claim packs, budgets, statements, audits, and what looks odd.

    claim_pack   what a funder is asked to pay, line by line, with its proof
    burn         where each funder's money is, and when it will be gone
    statement    an organisation's month          owner      a listing owner's month
    audit        a seeded sample, and the road from a line down to the hash of its call
    anomalies    what an auditor should look at   focus      the same usage for FinOps tools

Everything is read from the journal and from the usage events, in whole micro-yuan, and every report
carries the ledger's own sum of what it tells beside its own. Nothing here writes.

May import: `catalog` and every other part of `marketplace` but the gateway and the command line.
"""
