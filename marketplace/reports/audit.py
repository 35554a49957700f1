"""The auditor's view: which lines to look at, and the road from a line down to the hash of its call.

The sample is a function of the seed, the claim and the line's number alone: whoever has the seed draws
the same lines, on any machine, in any order, and nobody can choose what is looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.clock import to_iso
from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.units import WHOLE_BP
from marketplace.ledger.chart import Code, Kind
from marketplace.ledger.holds import names_of
from marketplace.ledger.reading import event as find_event
from marketplace.ledger.tables import Account, Batch, Transfer, UsageEvent
from marketplace.prices.components import Buckets, canonical, cost_u, parse_components
from marketplace.prices.tables import PriceVersion
from marketplace.reports.sheets import Report, Row, sheet
from marketplace.reports.sources import heads
from marketplace.vouchers.claims import claim, lines, lines_sha256
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import ClaimLine, Programme


def sample(
    session: Session, claim_id: str, seed: str, *, sample_bp: int | None = None
) -> Sequence[ClaimLine]:
    """Return the lines to be looked at: a seeded share, and everything above the programme's amount.

    The share is the programme's own unless `sample_bp` is given; at least one line is drawn.
    """
    row = claim(session, claim_id)
    audit = load(session.get_one(Programme, row.programme_id).rules).rules.audit
    share_bp = audit.sample_bp if sample_bp is None else sample_bp
    if not 0 <= share_bp <= WHOLE_BP:
        raise BadRequest("A sample is 0 to 10,000 bp.", rule="audit.sample", param="sample_bp")
    found = lines(session, claim_id)
    ranks = {line.n: _rank(seed, claim_id, line.n) for line in found}
    above = audit.always_above_u
    drawn = [
        line
        for line in found
        if ranks[line.n] * WHOLE_BP < share_bp << 64
        or (above is not None and abs(line.amount_u) > above)
    ]
    return drawn or sorted(found, key=lambda line: ranks[line.n])[:1]


def auditor_view(
    session: Session, claim_id: str, seed: str, *, sample_bp: int | None = None
) -> Report:
    """Return the drawn lines, each with what proves it."""
    row = claim(session, claim_id)
    drawn = sample(session, claim_id, seed, sample_bp=sample_bp)
    everything = lines(session, claim_id)
    cover: dict[str, Any] = {
        "claim": claim_id,
        "seed": seed,
        "lines": len(everything),
        "drawn": len(drawn),
        "drawn_u": sum(line.amount_u for line in drawn),
        "total_u": row.total_u,
        "lines_sha256": lines_sha256(everything),
    }
    cover |= {f"chain_head {name}": head for name, head in heads(session).items()}
    rows = [_summary(drill(session, claim_id, line.n)) for line in drawn]
    return Report("Audit", cover, (sheet("sample", rows),))


def drill(session: Session, claim_id: str, number: int) -> dict[str, Any]:
    """Return everything behind one line: leg, transfers, batches of the chain, the call, its hashes.

    `proved` lists what was recomputed here: the cost from the tokens and the frozen price, the split of
    the cost among its payers, and the price's own hash.
    """
    line = session.get(ClaimLine, (claim_id, number))
    if line is None:
        raise NotFound(f"The claim has no line {number}.", rule="claim.line")
    call = find_event(session, line.event_id)
    transfers = _transfers(session, call)
    leg_u = sum(
        t["amount"]
        for t in transfers
        if t["leg"] == line.leg and t["code"] == Code.USE.name and t["kind"] in _PAYS
    )
    return {
        "line": {
            "n": line.n,
            "funder_u": line.amount_u,
            "leg": line.leg,
            "leg_u": leg_u,
            "voucher": line.grant_id,
            "state": line.state,
            "reason": line.reason,
        },
        "transfers": transfers,
        "batches": _batches(session, transfers),
        "call": {
            "id": call.id,
            "organisation": call.org_id,
            "listing": call.listing,
            "started_at": to_iso(call.started_at_us),
            "ended_at": to_iso(call.ended_at_us),
            "outcome": call.outcome,
            "cost_u": call.cost_u,
            "usage": json.loads(call.raw_usage),
            "price_version": call.price_version_id,
        },
        "hashes": {
            "request_sha256": call.request_sha256,
            "metering_sha256": hashlib.sha256(call.raw_usage.encode()).hexdigest(),
            "price_sha256": hashlib.sha256(call.prices.encode()).hexdigest(),
        },
        "proved": _proofs(session, call, line, leg_u),
    }


_PAYS = (Kind.POST.name, Kind.POSTED.name)


def _rank(seed: str, claim_id: str, number: int) -> int:
    """Return 64 bits that nobody can choose."""
    digest = hashlib.sha256(f"{seed}\n{claim_id}\n{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _transfers(session: Session, call: UsageEvent) -> list[dict[str, Any]]:
    query = (
        select(Transfer)
        .where(col(Transfer.tx).in_(names_of(call.id)))
        .order_by(col(Transfer.lane), col(Transfer.seq))
    )
    rows = session.exec(query).all()
    sides = {row.debit_id for row in rows} | {row.credit_id for row in rows}
    codes = {
        account.id: account.code
        for account in session.exec(select(Account).where(col(Account.id).in_(sides)))
    }
    return [
        {
            "lane": row.lane,
            "seq": row.seq,
            "leg": row.leg,
            "kind": Kind(row.kind).name,
            "code": Code(row.code).name,
            "from": codes.get(row.debit_id, ""),
            "to": codes.get(row.credit_id, ""),
            "amount": row.amount,
            "at": to_iso(row.at_us),
        }
        for row in rows
    ]


def _batches(session: Session, transfers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the links of the hash chain that cover these rows."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in transfers:
        batch = session.exec(
            select(Batch).where(
                Batch.lane == row["lane"],
                Batch.first_seq <= row["seq"],
                Batch.last_seq >= row["seq"],
            )
        ).first()
        if batch is not None:
            found[batch.lane, batch.n] = {"lane": batch.lane, "n": batch.n, "sha256": batch.sha256}
    return list(found.values())


def _proofs(session: Session, call: UsageEvent, line: ClaimLine, leg_u: int) -> dict[str, bool]:
    proofs = {
        "parts_sum_to_cost": call.wallet_u + call.voucher_u + call.free_u + call.overrun_u
        == call.cost_u,
        "line_within_leg": bool(line.refund_id) or 0 <= line.amount_u <= leg_u,
    }
    version = session.get(PriceVersion, call.price_version_id)
    if version is not None:
        prices = parse_components(call.prices)
        used = Buckets(
            call.input_uncached, call.cache_read, call.cache_write, call.output, call.reasoning
        )
        proofs["price_is_the_published_one"] = canonical(prices)[1] == version.sha256
        proofs["cost_follows_from_tokens_and_price"] = (
            cost_u(used, prices, at_us=call.started_at_us) == call.cost_u
        )
    return proofs


def _summary(told: dict[str, Any]) -> Row:
    return {
        "line": told["line"]["n"],
        "funder_u": told["line"]["funder_u"],
        "leg_u": told["line"]["leg_u"],
        "call": told["call"]["id"],
        "listing": told["call"]["listing"],
        "ended_at": told["call"]["ended_at"],
        "cost_u": told["call"]["cost_u"],
        "transfers": len(told["transfers"]),
        "batches": " ".join(batch["sha256"][:12] for batch in told["batches"]),
        "request_sha256": told["hashes"]["request_sha256"],
        "metering_sha256": told["hashes"]["metering_sha256"],
        "proved": all(told["proved"].values()),
    }
