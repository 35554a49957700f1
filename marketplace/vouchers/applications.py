"""An organisation asks for a voucher, and two other persons look at it.

    applied ─► (prepared: an officer proposes an amount) ─► approved ─► grants
        └──────────────────────────────────────────────────► rejected

Whether a voucher may be issued is what the programme says of verified facts; how much, what its caps and
pools leave. A person can only say less. Every refusal names its rule and its clause.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict, Forbidden, NotFound
from catalog.ground.units import MAX_U
from marketplace.ledger.accounts import take_control
from marketplace.members.four_eyes import two_persons
from marketplace.members.parties import as_known
from marketplace.vouchers import anti_fraud
from marketplace.vouchers.caps import Against, Sized, contract_grant_u
from marketplace.vouchers.facts import Kind, kind_of
from marketplace.vouchers.granting import Order, caps_for, issue_grants, sized
from marketplace.vouchers.knowledge import declared_facts, org_facts
from marketplace.vouchers.predicates import is_date
from marketplace.vouchers.programmes import PUBLISHED
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Application, Grant, Programme
from marketplace.vouchers.terms import Facts, Refusal
from marketplace.vouchers.velocity import open_day

APPLIED, PREPARED, APPROVED, REJECTED = "applied", "prepared", "approved", "rejected"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is applied for, micro-yuan. `facts` are `contract.*`, `evidence` `[{kind, name, sha256}]`."""

    requested_u: int
    contract_ref: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    evidence: Sequence[Mapping[str, str]] = ()
    claimant: str = ""
    provider: str = ""
    """The contract's other party: an organisation's id, or `uscc:…` of one that is none here."""


def apply(
    session: Session,
    application_id: str,
    made: Programme,
    org_id: str,
    wish: Wish,
    by: str,
    at_us: int,
) -> Application:
    """Record an application under the client's id; the same id again returns it as it stands.

    Refuses at once what the programme would refuse (`Forbidden`, with every rule and clause).
    """
    take_control(session)
    known = session.get(Application, application_id)
    if known is not None:
        if known.programme_id == made.id and known.org_id == org_id:
            return known
        raise Conflict("This id names another application.", rule="application.once")
    sealed = load(made.rules)
    _check_wish(wish)
    row = Application(
        id=application_id,
        programme_id=made.id,
        org_id=org_id,
        contract_ref=anti_fraud.reference(wish.contract_ref),
        provider=wish.provider,
        requested_u=wish.requested_u,
        claimant=_claimant(sealed, wish),
        facts=json.dumps(dict(wish.facts), ensure_ascii=False, sort_keys=True),
        evidence=json.dumps(list(map(dict, wish.evidence)), ensure_ascii=False),
        state=APPLIED,
        applicant=by,
        at_us=at_us,
    )
    refuse_if_any(refusals(session, made, sealed, row, at_us))
    session.add(row)
    session.flush()
    return row


def prepare(session: Session, application_id: str, proposed_u: int, by: str) -> Application:
    """Propose an amount, micro-yuan, for another person to approve."""
    row = _open(session, application_id)
    two_persons(by, row.applicant, what="application")
    if not 0 < proposed_u <= row.requested_u:
        raise BadRequest("Propose more than 0 and at most what is asked for.", param="amount_u")
    row.proposed_u, row.prepared_by, row.state = proposed_u, by, PREPARED
    session.add(row)
    session.flush()
    return row


def approve(
    session: Session, application_id: str, by: str, at_us: int, amount_u: int | None = None
) -> list[Grant]:
    """Grant what was applied for (or proposed, or `amount_u`), as far as caps and pools reach.

    `by` is neither the applicant nor who prepared it. Approving twice returns the grants.
    """
    take_control(session)
    row = application(session, application_id)
    if row.state == APPROVED:
        return list(grants_of(session, row.id))
    row = _open(session, application_id)
    two_persons(by, row.applicant, row.prepared_by, what="application")
    made = session.get_one(Programme, row.programme_id)
    sealed = load(made.rules)
    refuse_if_any(refusals(session, made, sealed, row, at_us))
    ceiling_u = min(
        row.requested_u, *(u for u in (row.proposed_u, amount_u) if u is not None), 2**62
    )
    wanted_u = ceiling_u if sealed.step_u is None else min(ceiling_u, sealed.step_u)
    open_day(session, sealed, row.org_id, at_us)
    facts, against = admission_facts(session, row, at_us), against_of(session, row)
    found = size_of(session, made, sealed, row, wanted_u, facts, at_us)
    if found.amount_u <= 0:
        refuse_if_any(found.bound_by)
    row.state, row.decided_by, row.decided_at_us = APPROVED, by, at_us
    row.approved_u = ceiling_u if sealed.step_u is not None else found.amount_u
    session.add(row)
    order = Order(
        tx=f"issue:{row.id}",
        made=made,
        org_id=row.org_id,
        amount=found.amount_u,
        at_us=at_us,
        ceiling=ceiling_u if sealed.step_u is not None else None,
        application_id=row.id,
        caps=caps_for(sealed, facts, against, at_us),
    )
    return issue_grants(session, order)


def reject(session: Session, application_id: str, by: str, reason: str, at_us: int) -> Application:
    """Say no, with the reason. `by` is not the applicant."""
    row = application(session, application_id)
    if row.state == REJECTED:
        return row
    row = _open(session, application_id)
    two_persons(by, row.applicant, what="application")
    if not reason.strip():
        raise BadRequest("A rejection says why.", rule="application.reason", param="reason")
    row.state, row.reason, row.decided_by, row.decided_at_us = REJECTED, reason, by, at_us
    session.add(row)
    session.flush()
    return row


def application(session: Session, application_id: str) -> Application:
    """Return an application; `NotFound` otherwise."""
    found = session.get(Application, application_id)
    if found is None:
        raise NotFound(f"There is no application {application_id!r}.", rule="application.exists")
    return found


def grants_of(session: Session, application_id: str) -> Sequence[Grant]:
    """Return what an application became."""
    query = select(Grant).where(Grant.application_id == application_id)
    return session.exec(query.order_by(col(Grant.bracket))).all()


def admission_facts(session: Session, row: Application, at_us: int) -> Facts:
    """Return the verified facts of the organisation and the declared ones of its contract.

    Whether the contract's parties are related is not asked when they are known.
    """
    declared = declared_facts(row)
    if row.provider:
        group = anti_fraud.group_of(session, row.org_id, at_us)
        declared["contract.supplier_related"] = as_known(session, row.provider) in group
    return {**declared, **org_facts(session, row.org_id, at_us).facts}


def against_of(session: Session, row: Application) -> Against:
    """Return for whom the caps count."""
    return Against(row.org_id, row.contract_ref, as_known(session, row.provider))


def refusals(
    session: Session, made: Programme, sealed: Sealed, row: Application, at_us: int
) -> tuple[Refusal, ...]:
    """Return everything that speaks against a voucher for this application now."""
    found = list(sealed.admit(admission_facts(session, row, at_us), at_us))
    if made.state != PUBLISHED:
        text = f"{sealed.name} is {made.state}."
        found.append(Refusal("", sealed.name, "programme.state", "", text))
    found += anti_fraud.refusals(session, made, sealed, row, at_us)
    return tuple(found)


def size_of(
    session: Session,
    made: Programme,
    sealed: Sealed,
    row: Application,
    amount_u: int,
    facts: Facts,
    at_us: int,
) -> Sized:
    """Return how much may be issued: caps, pools, and the ratio of the contract when it has one."""
    contract_u = facts.get("contract.amount_u")
    face = None
    if isinstance(contract_u, int):
        most_u = contract_grant_u(sealed, contract_u, facts)
        if most_u < amount_u:
            clause = sealed.rules.subsidy.clause
            text = f"The ratio gives {most_u} micro-yuan on a contract of {contract_u}."
            face = Refusal("", sealed.name, "subsidy.ratio", clause, text)
            amount_u = most_u
    found = sized(session, made, sealed, amount_u, facts, against_of(session, row), at_us)
    return found if face is None else Sized(found.amount_u, (face, *found.bound_by))


def refuse_if_any(found: Sequence[Refusal]) -> None:
    """Raise `Forbidden` with every rule that refuses, and its clause."""
    if not found:
        return
    first = found[0]
    raise Forbidden(
        first.message or f"{first.rule} is not met.",
        code="voucher_refused",
        rule=first.rule,
        details={
            "clause": first.clause,
            "refused": [{"rule": r.rule, "clause": r.clause, "message": r.message} for r in found],
        },
    )


def _open(session: Session, application_id: str) -> Application:
    take_control(session)
    row = application(session, application_id)
    if row.state in (APPROVED, REJECTED):
        raise Conflict(f"This application is {row.state}.", rule="application.state")
    return row


def _claimant(sealed: Sealed, wish: Wish) -> str:
    """Return who is paid in the end; `either` is the demander unless the application says provider."""
    if sealed.rules.claimant != "either":
        return sealed.rules.claimant
    return "provider" if wish.claimant == "provider" else "demander"


def _is_of(kind: Kind, value: Any) -> bool:
    """Return whether a declared value, as JSON, is of the kind. No contract speaks of a region."""
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "number":
        return type(value) is int and 0 <= value <= MAX_U
    if kind == "set":
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    return isinstance(value, str) and (kind != "date" or is_date(value))


def _check_wish(wish: Wish) -> None:
    if wish.requested_u <= 0:
        raise BadRequest("Ask for more than 0.", rule="application.amount", param="amount_u")
    for key, value in wish.facts.items():
        if not key.startswith("contract."):
            raise BadRequest(
                f"{key} is not declared but verified.",
                rule="application.facts",
                param=key,
                remedy="An application declares contract.* facts only.",
            )
        kind = kind_of(key)
        if not _is_of(kind, value):
            raise BadRequest(
                f"{key} is a {kind}.",
                rule="application.facts",
                param=key,
                remedy="Numbers are whole and not negative, dates YYYY-MM-DD, sets lists of texts.",
            )
    for item in wish.evidence:
        if set(item) != {"kind", "name", "sha256"} or len(item["sha256"]) != 64:
            raise BadRequest(
                "Evidence has a kind, a name and the sha256 of its bytes.",
                rule="application.evidence",
                param="evidence",
            )
