"""What must be there before a claim may be handed in or clawed back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlmodel import Session, col, select

from catalog.ground.clock import to_datetime, zone
from catalog.ground.errors import BadRequest, Conflict
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.schema import ProgrammeRules
from marketplace.vouchers.tables import Application, Claim, ClaimLine, ContractInvoice, Grant

_FROM_THE_JOURNAL = frozenset({"delivery_or_metering", "usage_log"})
"""Evidence that the ledger itself gives: the metered calls behind each line."""


def check_evidence(
    session: Session, rules: ProgrammeRules, row: Claim, evidence: Sequence[Mapping[str, str]]
) -> None:
    """Raise `BadRequest` naming the evidence that the programme asks for and nobody has given."""
    given = {item.get("kind", "") for item in evidence}
    query = (
        select(Application.evidence, ContractInvoice.evidence)
        .join(Grant, col(Grant.application_id) == Application.id)
        .join(ClaimLine, col(ClaimLine.grant_id) == Grant.id)
        .outerjoin(ContractInvoice, col(ContractInvoice.id) == ClaimLine.event_id)
        .where(ClaimLine.claim_id == row.id)
        .distinct()
    )
    behind = [_kinds(own) | _of_line(invoice) for own, invoice in session.exec(query).all()]
    given |= frozenset.intersection(*behind) if behind else _FROM_THE_JOURNAL
    missing = [kind for kind in rules.evidence if kind not in given]
    if missing:
        raise BadRequest(
            f"The claim lacks evidence: {', '.join(missing)}.",
            rule="claim.evidence",
            param="evidence",
            remedy="Attach each with its name and sha256.",
        )


def check_window(sealed: Sealed, at_us: int) -> None:
    """Raise `Conflict` outside the days on which the programme takes claims."""
    window = sealed.rules.window
    if not sealed.claimable(at_us):
        start, end = window.claim
        raise Conflict(
            f"{sealed.name} takes claims from {start or 'the beginning'} to {end or 'further notice'}.",
            rule="window.claim",
            details={"clause": window.clause},
        )


def check_clawback(rules: ProgrammeRules, settled_at_us: int, at_us: int, reason: str) -> None:
    """Raise when the reason is missing, or the months that the programme gives have passed."""
    if not reason.strip():
        raise BadRequest("A clawback says why.", rule="claim.reason", param="reason")
    months = rules.clawback.months if rules.clawback else 0
    start, now = (to_datetime(us).astimezone(zone) for us in (settled_at_us, at_us))
    passed = (now.year - start.year) * 12 + now.month - start.month - (now.day < start.day)
    if passed >= months:
        clause = rules.clawback.clause if rules.clawback else ""
        raise Conflict(
            f"Money can be asked back for {months} months after it was paid.",
            rule="clawback.months",
            details={"clause": clause},
        )


def _of_line(invoice: str | None) -> frozenset[str]:
    """Return the kinds of evidence that come with a line itself: its invoice's, or the journal's."""
    return _FROM_THE_JOURNAL if invoice is None else _kinds(invoice)


def _kinds(text: str) -> frozenset[str]:
    return frozenset(item["kind"] for item in json.loads(text))
