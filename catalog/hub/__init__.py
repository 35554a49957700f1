"""Repositories of models, spoken to in the Hugging Face Hub's HTTP protocol.

    hf upload ──► preupload ──► LFS batch, PUT, verify   (or)   Xet token, xorbs, shards
                      │                        └──────────┬─────────────┘
                      │                          artifact, leased to the repository
                      └──► commit (NDJSON) ──► one transaction: trees, commit, ref, pins
    hf download ──► revision ──► tree ──► HEAD, GET resolve

    endpoints_*.py   HTTP: read the request, open one session, answer           (one file per concern)
    repos, refs, commits, trees, history, pulls      what it means               (no HTTP)
    names, git_objects, signing, access              rules without a database
    answers.py       the one place where the hub's errors become answers
    prune, scrub     what no ref reaches goes away; what is reached is whole

A commit is a Merkle tree in git's own format, so its 40-hex id is a digest of every byte below it (LFS
files through their pointers). A ref moves in the same transaction that writes what it points at: a
visible commit is a whole commit. Names and messages are data; nothing uploaded is ever run.

Keys live elsewhere: `identity.Identify` is handed in. May import: `catalog.artifacts`, `catalog.ground`.
"""
