"""Releases: one commit, kept for good, with a digest and a description read from its files.

    repository at a commit ──► describe (config, weights, tokenizer, template, licence, card) ──► manifest
                                    │
                                    ▼
    cut ──► Release row + ref refs/releases/<version> + pins on every body     (one transaction)
                                    │
    add_variant ──► Variant row + its own bodies, with lineage back to the release

A release survives its branch and its repository: what it refers to is pinned under its own name. What a file
says counts; what the card claims is written down beside it where the two disagree.

May import: `catalog.hub`, `catalog.artifacts`, `catalog.ground`.
"""
