"""A voucher spent on a contract outside the gateway: compute, corpora, whatever no call meters.

    presented (with the invoice and what proves it) ─► accepted ─► the voucher pays, a claim follows
             └──────────────────────────────────────► refused: it may be presented again, corrected

An accepted invoice is booked as one usage event, so statements, claims, packs and audits know it without
another word. Of a reimbursement nothing passes through here but the voucher's part, owed to the claimant
until the funder has paid; of an instant voucher that part is the provider's. The rest of the invoice is
between the two parties and never seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlmodel import Session, col, func, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from marketplace.ledger.accounts import take_control
from marketplace.members.four_eyes import two_persons
from marketplace.members.parties import as_known, names_of
from marketplace.members.tables import Organisation
from marketplace.vouchers.anti_fraud import reference
from marketplace.vouchers.applications import APPROVED, application, refuse_if_any
from marketplace.vouchers.invoice_booking import Spending, book, draw
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Application, ContractInvoice, Programme
from marketplace.vouchers.terms import Refusal

PRESENTED, ACCEPTED, REFUSED = "presented", "accepted", "refused"
_WITH_INVOICE = ("invoice", "payment", "delivery_or_metering", "usage_log")
"""Evidence that comes with each invoice when the programme asks for it; the rest comes once."""


@dataclass(frozen=True, slots=True)
class Paper:
    """An invoice: its number, `charges` (what: micro-yuan), and evidence `[{kind, name, sha256}]`.

    One document is of the kind `invoice`: the invoice itself.
    """

    number: str
    charges: Mapping[str, int]
    evidence: Sequence[Mapping[str, str]] = field(default=())

    @property
    def amount_u(self) -> int:
        """What it comes to, micro-yuan."""
        return sum(self.charges.values())


def present(
    session: Session, invoice_id: str, application_id: str, paper: Paper, by: str, at_us: int
) -> ContractInvoice:
    """Record an invoice on an approved application's contract, under the client's id; once.

    Refuses at once what the programme would refuse (`Forbidden`, with every rule and clause), an invoice
    that was presented before, and more than the contract's amount.
    """
    take_control(session)
    number = reference(paper.number)
    known = session.get(ContractInvoice, invoice_id)
    if known is not None:
        if (known.application_id, known.number) == (application_id, number):
            return known
        raise Conflict("This id names another invoice.", rule="invoice.once")
    row = application(session, application_id)
    sealed = load(session.get_one(Programme, row.programme_id).rules)
    sha256 = _check(sealed, row, paper)
    _check_once(session, row, number, sha256)
    _check_contract(session, row, paper.amount_u)
    made = ContractInvoice(
        id=invoice_id,
        application_id=row.id,
        org_id=row.org_id,
        provider=as_known(session, row.provider),
        number=number,
        sha256=sha256,
        amount_u=paper.amount_u,
        charges=json.dumps(dict(paper.charges), ensure_ascii=False, sort_keys=True),
        eligible_u=_eligible_u(sealed, paper),
        evidence=json.dumps(list(map(dict, paper.evidence)), ensure_ascii=False),
        state=PRESENTED,
        presented_by=by,
        presented_at_us=at_us,
    )
    _drawn(session, made, at_us)
    session.add(made)
    session.flush()
    return made


def accept(session: Session, invoice_id: str, by: str, at_us: int) -> ContractInvoice:
    """Let the voucher pay its part of an invoice. `by` neither presented it nor applied. Twice is once."""
    take_control(session)
    made = invoice(session, invoice_id)
    if made.state == ACCEPTED:
        return made
    _open(made)
    row = application(session, made.application_id)
    two_persons(by, made.presented_by, row.applicant, what="invoice")
    made.provider = as_known(session, made.provider)
    book(session, made, _drawn(session, made, at_us), at_us)
    return _decided(session, made, ACCEPTED, "", by, at_us)


def refuse(session: Session, invoice_id: str, reason: str, by: str, at_us: int) -> ContractInvoice:
    """Say no, with the reason; it may be presented again. `by` did not present it. Twice is once."""
    take_control(session)
    made = invoice(session, invoice_id)
    if made.state == REFUSED:
        return made
    _open(made)
    two_persons(by, made.presented_by, what="invoice")
    if not reason.strip():
        raise BadRequest("A refusal says why.", rule="invoice.reason", param="reason")
    return _decided(session, made, REFUSED, reason, by, at_us)


def invoice(session: Session, invoice_id: str) -> ContractInvoice:
    """Return an invoice; `NotFound` otherwise."""
    found = session.get(ContractInvoice, invoice_id)
    if found is None:
        raise NotFound(f"There is no invoice {invoice_id!r}.", rule="invoice.exists")
    return found


def invoices(session: Session, org_id: str | None = None) -> Sequence[ContractInvoice]:
    """Return invoices, oldest first; of one organisation when `org_id` is given."""
    query = select(ContractInvoice).order_by(col(ContractInvoice.id))
    return session.exec(
        query if org_id is None else query.where(ContractInvoice.org_id == org_id)
    ).all()


def _open(made: ContractInvoice) -> None:
    if made.state != PRESENTED:
        raise Conflict(f"This invoice is {made.state}.", rule="invoice.state")


def _decided(
    session: Session, made: ContractInvoice, state: str, reason: str, by: str, at_us: int
) -> ContractInvoice:
    made.state, made.reason, made.decided_by, made.decided_at_us = state, reason, by, at_us
    session.add(made)
    session.flush()
    return made


def _drawn(session: Session, made: ContractInvoice, at_us: int) -> Spending:
    """Return what the vouchers pay of it now; `Forbidden` with every reason when that is nothing."""
    row = application(session, made.application_id)
    spending = draw(session, row, made.eligible_u, at_us)
    if not spending.amount_u:
        refuse_if_any(
            spending.refused
            or [Refusal("", "", "grant.exhausted", "", "The voucher has nothing left.")]
        )
    return spending


def _check(sealed: Sealed, row: Application, paper: Paper) -> str:
    """Check form and evidence; returns the sha256 of the invoice itself."""
    if row.state != APPROVED:
        raise Conflict(f"The application is {row.state}.", rule="application.state")
    if not row.contract_ref or not row.provider:
        raise Conflict(
            "The application names no contract and provider: its voucher pays through the gateway only.",
            rule="invoice.contract",
            remedy="Apply with the contract's reference and its provider.",
        )
    if not paper.number.strip() or not paper.charges or min(paper.charges.values()) <= 0:
        raise BadRequest("An invoice has a number, and charges above 0.", rule="invoice.form")
    for item in paper.evidence:
        if set(item) != {"kind", "name", "sha256"} or len(item["sha256"]) != 64:
            raise BadRequest(
                "Evidence has a kind, a name and the sha256 of its bytes.", rule="invoice.evidence"
            )
    kinds = [item["kind"] for item in paper.evidence]
    wanted = {"invoice", *(k for k in sealed.rules.evidence if k in _WITH_INVOICE)}
    missing = sorted(wanted.difference(kinds))
    if missing or kinds.count("invoice") != 1:
        raise BadRequest(
            f"It lacks evidence: {', '.join(missing) or 'one invoice and no more'}.",
            rule="invoice.evidence",
            param="evidence",
            remedy="Attach each with its name and sha256.",
        )
    return next(item["sha256"] for item in paper.evidence if item["kind"] == "invoice")


def _check_once(session: Session, row: Application, number: str, sha256: str) -> None:
    """One invoice is paid once, whatever programme and application it is brought to."""
    provider = names_of(session, as_known(session, row.provider))
    same = (col(ContractInvoice.provider).in_(provider) & (ContractInvoice.number == number)) | (
        ContractInvoice.sha256 == sha256
    )
    query = select(ContractInvoice.id).where(same, ContractInvoice.state != REFUSED)
    if session.exec(query).first() is not None:
        raise Conflict(
            "This invoice has been presented already.",
            rule="anti_fraud.same_content_once",
            remedy="An invoice is paid from one voucher, once.",
        )


def _check_contract(session: Session, row: Application, amount_u: int) -> None:
    contract_u = json.loads(row.facts).get("contract.amount_u")
    query = select(func.coalesce(func.sum(ContractInvoice.amount_u), 0)).where(
        ContractInvoice.application_id == row.id, ContractInvoice.state != REFUSED
    )
    before_u = int(session.exec(query).one())
    if contract_u is not None and before_u + amount_u > contract_u:
        raise Conflict(
            f"With this invoice {before_u + amount_u} of a contract of {contract_u} micro-yuan are billed.",
            rule="invoice.contract_amount",
            remedy="Bill no more than the contract, or apply on its supplement.",
        )


def _eligible_u(sealed: Sealed, paper: Paper) -> int:
    """Return what of the invoice the programme subsidises: charges that it excludes are left out."""
    eligible_u = sum(
        amount_u
        for charge, amount_u in paper.charges.items()
        if charge.strip().lower() not in sealed.rules.exclude_charges
    )
    if not eligible_u:
        words = f"Charges for {', '.join(sealed.rules.exclude_charges)} are not subsidised."
        clause = sealed.rules.subsidy.clause
        refuse_if_any([Refusal("", sealed.name, "items.exclude_charges", clause, words)])
    return eligible_u


def provider_name(session: Session, made: ContractInvoice) -> str:
    """Return the provider as people know it: its short name, or its code when it is none here."""
    found = session.get(Organisation, made.provider)
    return found.slug if found else made.provider
