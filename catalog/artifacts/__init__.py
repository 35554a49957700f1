"""The content-addressed store: every file body once, under its sha256.

    upload ──► Staging (spool, hashed while written) ──► publish(): file ──► register(): Artifact row
                                                                        │
    holders (a repository, a release, a variant) ── hold()/pin() ───────┘
                                                                        ▼
    collect(): unheld ──► condemned ──► removed                scrub(): rows, files and hashes agree

What must be true at every moment, also after `kill -9`:

1. an `Artifact` row that is not condemned has its file, complete and with that sha256: the file is
   renamed into place before the row is committed;
2. a `Holding` names an artifact that is not condemned: both are checked in one transaction, under a lock
   that the collector takes alone;
3. a file without a row is waste, never content: the collector removes it after a grace period.

Knows nothing of repositories: a holder is any identifier, an account is whoever's quota it counts for.
May import: `catalog.ground`.
"""
