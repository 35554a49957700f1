"""The metered door: an OpenAI-compatible pass-through that never imports an engine.

    authenticate ─► limits ─► estimate ─► hold ─► engine ─► settle ─► answer's last byte

Whoever saw a complete answer has a durable settlement; a call that failed cost nothing.

Lives here: the hot path (`hot`), what it looks up (`directory`), its clients of engines (`upstream`).
May import: `marketplace.ledger`, `.members`, `.prices`, `.vouchers`, and `catalog`.
"""
