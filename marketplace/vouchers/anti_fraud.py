"""What a programme forbids of contracts and parties: asked when a voucher is applied for and issued.

rule                                  says no
self_owned, related_party             at the call (`waterfall`); here when the application names its
                                      provider; in the audit when the link became known later
one_voucher_per, one_claimant_…,
same_content_once, no_splitting       here
velocity_u_per_day                    at every issue and lease (`velocity`)
min_distinct_days                     in the claim (`claim_rules`): nobody knows it at the call

Why each stands where it does: docs/decisions/0008.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import date

from sqlmodel import Session, col, or_, select

from marketplace.members.parties import all_links, as_known
from marketplace.members.related import related_to
from marketplace.vouchers.caps import period_key
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Application, Programme
from marketplace.vouchers.terms import Refusal

_REJECTED = "rejected"
_CONTENT = frozenset({"contract", "invoice", "payment"})
"""Evidence that shows what was bought. A licence or a credit check may serve many applications."""


def reference(text: str) -> str:
    """Return a contract's or invoice's number as it is kept and compared: ` ｎｏ-1` is `NO-1`.

    Full width is half width, letters are capitals, and there is no space around it nor twice within.
    """
    return " ".join(unicodedata.normalize("NFKC", text).upper().split())


def refusals(
    session: Session, made: Programme, sealed: Sealed, row: Application, at_us: int
) -> Iterator[Refusal]:
    """Yield everything about this application's contract and parties that the programme forbids."""
    yield from _provider(session, sealed, row, at_us)
    others = [other for other in _of_programme(session, made.code) if other.id != row.id]
    yield from _one_voucher(sealed, row, others)
    yield from _same_content(session, sealed, row)
    if sealed.rules.anti_fraud.no_splitting and row.provider:
        yield from _splitting(session, sealed, row, others, at_us)


def group_of(session: Session, party: str, at_us: int) -> frozenset[str]:
    """Return the party and everybody related to it now."""
    return related_to(party, all_links(session), at_us) | {party}


def _refusal(sealed: Sealed, rule: str, words: str) -> Refusal:
    clause = sealed.rules.anti_fraud.clause
    return Refusal("", sealed.name, f"anti_fraud.{rule}", clause, words)


def _provider(session: Session, sealed: Sealed, row: Application, at_us: int) -> Iterator[Refusal]:
    fraud = sealed.rules.anti_fraud
    if not row.provider:
        if fraud.no_splitting:
            words = "Contracts of the same two parties are looked at together: name the provider."
            yield _refusal(sealed, "no_splitting", words)
        for cap in sealed.rules.caps:
            if cap.per == "provider":
                words = "What one provider may receive is capped: name the provider."
                yield Refusal("", sealed.name, "caps.provider", cap.clause, words)
    elif as_known(session, row.provider) == row.org_id:
        if fraud.self_owned == "block":
            yield _refusal(sealed, "self_owned", "The provider is the applicant itself.")
    elif fraud.related_party == "block" and as_known(session, row.provider) in group_of(
        session, row.org_id, at_us
    ):
        yield _refusal(sealed, "related_party", "The provider and the applicant are related.")


def _one_voucher(
    sealed: Sealed, row: Application, others: Sequence[Application]
) -> Iterator[Refusal]:
    fraud = sealed.rules.anti_fraud
    if fraud.one_voucher_per == "contract" and not row.contract_ref:
        yield _refusal(sealed, "contract", "A voucher is issued on a contract: name it.")
    if fraud.one_voucher_per and any(
        (other.contract_ref if fraud.one_voucher_per == "contract" else other.org_id)
        == (row.contract_ref if fraud.one_voucher_per == "contract" else row.org_id)
        for other in others
    ):
        words = f"There is a voucher for this {fraud.one_voucher_per} already."
        yield _refusal(sealed, "one_voucher_per", words)
    if fraud.one_claimant_per_contract and any(
        other.contract_ref == row.contract_ref and other.claimant != row.claimant
        for other in others
    ):
        words = "The other party has a voucher on this contract."
        yield _refusal(sealed, "one_claimant", words)


def _same_content(session: Session, sealed: Sealed, row: Application) -> Iterator[Refusal]:
    """Whatever programme supported it first: the rule binds both, whichever of them has it."""
    for other in _with_same_content(session, row):
        of = load(session.get_one(Programme, other.programme_id).rules)
        if sealed.rules.anti_fraud.same_content_once or of.rules.anti_fraud.same_content_once:
            words = f"The same contract or document is in an application to {of.name} already."
            clause = sealed.rules.anti_fraud.clause or of.rules.anti_fraud.clause
            yield Refusal("", sealed.name, "anti_fraud.same_content_once", clause, words)
            return


def _with_same_content(session: Session, row: Application) -> Sequence[Application]:
    papers = [item["sha256"] for item in json.loads(row.evidence) if item.get("kind") in _CONTENT]
    same = [col(Application.evidence).contains(sha256) for sha256 in papers]
    if row.contract_ref:
        named = col(Application.contract_ref) == row.contract_ref
        same.append(named & (col(Application.org_id) == row.org_id))
    if not same:
        return []
    query = select(Application).where(
        or_(*same), Application.id != row.id, Application.state != _REJECTED
    )
    return session.exec(query.order_by(col(Application.id))).all()


def _splitting(
    session: Session, sealed: Sealed, row: Application, others: Sequence[Application], at_us: int
) -> Iterator[Refusal]:
    """Two contracts of the same parties that run at the same time are one contract in two parts."""
    demanders = group_of(session, row.org_id, at_us)
    providers = group_of(session, as_known(session, row.provider), at_us)
    for other in others:
        same = other.org_id in demanders and as_known(session, other.provider) in providers
        if same and other.contract_ref != row.contract_ref and _overlap(row, other):
            words = (
                f"Contract {other.contract_ref!r} of the same parties runs at the same time: "
                "both are one contract."
            )
            yield _refusal(sealed, "no_splitting", words)
            return


def _overlap(first: Application, second: Application) -> bool:
    """Return whether two contracts run at the same time; unknown terms last their calendar year."""
    one, two = _term(first), _term(second)
    return one[0] < two[1] and two[0] < one[1]


def _term(row: Application) -> tuple[int, int]:
    """Return the contract's first month and the month after its last, counted from year 0."""
    facts = json.loads(row.facts)
    if "contract.signed_on" not in facts:
        year = int(period_key("calendar_year", row.at_us))
        return year * 12, year * 12 + 12
    signed = date.fromisoformat(facts["contract.signed_on"])
    start = signed.year * 12 + signed.month - 1
    return start, start + max(1, facts.get("contract.months", 12))


def _of_programme(session: Session, code: str) -> Sequence[Application]:
    """Return the applications under any version of a programme that hold, or wait for, a voucher."""
    query = select(Application).join(Programme, col(Programme.id) == Application.programme_id)
    return session.exec(query.where(Programme.code == code, Application.state != _REJECTED)).all()
