"""Issue grants: from the pools to one organisation, counted against every cap that applies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlmodel import Session, col, func, select

from catalog.ground.errors import PaymentRequired
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.ledger.accounts import apply_now, open_account, take_control
from marketplace.ledger.chart import CNY, Code, Rule, funder_outside, quota_used
from marketplace.ledger.chart import grant as grant_code
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.reading import totals
from marketplace.members.parties import all_links, names_of
from marketplace.members.related import related_to
from marketplace.vouchers.backing import Backed, back
from marketplace.vouchers.caps import Against, Counted, Sized, cap_key, cap_keys, size
from marketplace.vouchers.pools import (
    PLATFORM,
    covering,
    epochs_of,
    funder,
    funders_of,
    keep_epochs,
    pools_u,
    programme_epochs,
)
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.rules import load
from marketplace.vouchers.schema import Cap
from marketplace.vouchers.split import drawn
from marketplace.vouchers.tables import (
    Application,
    Appropriation,
    CapUse,
    Funder,
    Grant,
    ProgrammeFunder,
)
from marketplace.vouchers.tables import Programme as ProgrammeRow
from marketplace.vouchers.terms import Facts, Refusal

MARKER = "vouchers"
"""Name of the change marker that tells gateways to build their ladders anew."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be issued under the client's id `tx`: `amount` in micro-yuan or the quota's unit.

    `ceiling` is set for a grant that leases fill, `caps` the keys that the amount counts against.
    """

    tx: str
    made: ProgrammeRow
    org_id: str
    amount: int
    at_us: int
    window: str = ""
    expires_at_us: int | None = None
    ceiling: int | None = None
    why: Code = Code.ISSUE
    application_id: str = ""
    code_id: str = ""
    caps: tuple[tuple[str, str | None], ...] = ()
    """(cap key, code of the funder whose part alone counts, None for the whole)."""


def issue_grants(session: Session, order: Order) -> list[Grant]:
    """Issue the order: one grant, or one for each bracket of a progressive scale.

    The same `tx` again returns the first grants. `PaymentRequired` when the pools do not back it all.
    """
    take_control(session)
    sealed = load(order.made.rules)
    window = order.window or order.tx
    parts = sealed.brackets(order.amount)
    grants = []
    for bracket, _, amount in parts:
        name = window if len(parts) == 1 else f"{window}#{bracket}"
        known = session.exec(
            select(Grant).where(
                Grant.programme_id == order.made.id,
                Grant.org_id == order.org_id,
                Grant.window == name,
            )
        ).first()
        tx = order.tx if len(parts) == 1 else f"{order.tx}#{bracket}"
        part = replace(order, tx=tx, amount=amount, window=name)
        grants.append(known or _issue(session, part, sealed, bracket))
    raise_marker(session, MARKER)
    return grants


def _issue(session: Session, order: Order, sealed: Sealed, bracket: int) -> Grant:
    rules = sealed.rules
    made = Grant(
        id=new_id("grt"),
        programme_id=order.made.id,
        org_id=order.org_id,
        account_id=0,
        unit=rules.quota.unit if rules.quota else CNY,
        amount=0,
        priority=rules.stacking.priority,
        window=order.window,
        state="active",
        issued_at_us=order.at_us,
        effective_at_us=order.at_us,
        expires_at_us=order.expires_at_us or sealed.expiry_us(order.at_us),
        ceiling=order.ceiling,
        bracket=bracket,
        application_id=order.application_id,
        code_id=order.code_id,
    )
    code = grant_code(made.id)
    made.account_id = open_account(session, code, Rule.DEBITS_WITHIN_CREDITS, made.unit)
    fill(session, order, sealed, made)
    return made


def fill(session: Session, order: Order, sealed: Sealed, grant: Grant) -> None:
    """Move `order.amount` from the pools onto the grant and count it against the caps."""
    if grant.unit != CNY:
        source = open_account(session, quota_used(grant.unit), Rule.PROJECTION, grant.unit)
        entry = Entry(order.why, source, grant.account_id, order.amount)
        grant.amount += order.amount
        session.add(grant)
        apply_now(session, Post(order.tx, (entry,), order.at_us))
        return
    parts = funders_of(session, order.made.id)
    pools = pools_u(session, parts)
    entries = []
    if sealed.rules.quota:
        # A quota is appropriated as it is given, and what is left of it goes back the same way.
        entries = _appropriate(session, parts, order.amount)
        given = {entry.credit_id: entry.amount for entry in entries}
        pools = {part.funder_id: given.get(part.pool_account_id, 0) for part in parts}
    backed = _backed(session, order, sealed, grant, pools)
    if backed.amount_u < order.amount:
        raise PaymentRequired(
            f"The pools of {sealed.name} back {backed.amount_u} of {order.amount} micro-yuan.",
            rule="funders.exhausted",
            remedy="Issue less, or let the funders appropriate more.",
            details={"available_u": backed.amount_u, "required_u": order.amount},
        )
    entries += _cover(session, order, backed)
    accounts = {part.funder_id: part.pool_account_id for part in funders_of(session, order.made.id)}
    entries += [
        Entry(order.why, accounts[funder_id], grant.account_id, amount_u)
        for funder_id, amount_u in backed.parts.items()
    ]
    if list(backed.epochs) != list(epochs_of(session, grant)):
        keep_epochs(session, grant, backed.epochs)
    grant.amount += order.amount
    session.add(grant)
    _count(session, order, grant, backed.parts)
    apply_now(session, Post(order.tx, tuple(entries), order.at_us))


def _backed(
    session: Session, order: Order, sealed: Sealed, grant: Grant, pools: Mapping[str, int]
) -> Backed:
    mode = sealed.rules.on_funder_exhausted
    platform = funder(session, PLATFORM, PLATFORM).id if mode == "platform_covers" else ""
    from_u = grant.amount - grant.returned
    return back(epochs_of(session, grant), from_u, order.amount, pools, mode, platform)


def _appropriate(session: Session, parts: Sequence[ProgrammeFunder], amount_u: int) -> list[Entry]:
    amounts = drawn(tuple(part.share_bp for part in parts), amount_u)
    return [
        Entry(
            Code.FUND,
            open_account(session, funder_outside(part.funder_id), Rule.PROJECTION),
            part.pool_account_id,
            amount,
        )
        for part, amount in zip(parts, amounts, strict=True)
        if amount
    ]


def _cover(session: Session, order: Order, backed: Backed) -> list[Entry]:
    """Appropriate the platform's part when it covers for another funder."""
    if not backed.platform_u:
        return []
    place = covering(session, order.made.id)
    row = Appropriation(
        id=f"{order.tx}:{place.funder_id}",
        programme_id=order.made.id,
        funder_id=place.funder_id,
        amount_u=backed.platform_u,
        document="covers for a funder that is exhausted",
        by="system",
        at_us=order.at_us,
    )
    session.add(row)
    outside = open_account(session, funder_outside(place.funder_id), Rule.PROJECTION)
    return [Entry(Code.FUND, outside, place.pool_account_id, backed.platform_u)]


def _count(session: Session, order: Order, grant: Grant, parts: Mapping[str, int]) -> None:
    for key, funder_code in order.caps:
        counted = order.amount
        if funder_code is not None:
            counted = parts.get(funder(session, funder_code).id, 0)
        row = CapUse(key=key, tx=order.tx, grant_id=grant.id, issued_u=counted)
        session.add(row)
    session.flush()


def counted(session: Session, keys: Iterable[str]) -> dict[str, Counted]:
    """Return what counts so far against each cap key. What was issued and not returned is used or open."""
    rows = session.exec(
        select(CapUse.key, func.sum(CapUse.issued_u), func.sum(CapUse.returned_u))
        .where(col(CapUse.key).in_(list(keys)))
        .group_by(CapUse.key)
    )
    return {
        key: Counted(issued_u=int(issued), open_u=int(issued) - int(returned))
        for key, issued, returned in rows
    }


def caps_for(
    sealed: Sealed, facts: Facts, against: Against, at_us: int
) -> tuple[tuple[str, str | None], ...]:
    """Return the keys that an issue counts against, for `Order.caps`."""
    keys: dict[str, Cap] = cap_keys(sealed, facts, against, at_us)
    return tuple((key, cap.funder) for key, cap in keys.items())


def sized(
    session: Session,
    made: ProgrammeRow,
    sealed: Sealed,
    amount_u: int,
    facts: Facts,
    against: Against,
    at_us: int,
) -> Sized:
    """Return how much of `amount_u` every cap and pool leaves room for, and what bounds it."""
    parts = funders_of(session, made.id)
    codes = {part.funder_id: session.get_one(Funder, part.funder_id).code for part in parts}
    pools = {codes[funder_id]: left for funder_id, left in pools_u(session, parts).items()}
    keys = cap_keys(sealed, facts, against, at_us)
    so_far = _counted(session, sealed, keys, against, at_us)
    found = size(sealed, amount_u, facts, against, at_us, so_far, pools)
    mode = sealed.rules.on_funder_exhausted
    held = pools_u(session, parts)
    backed_u = back(
        programme_epochs(session, made.id), 0, found.amount_u, held, mode, PLATFORM
    ).amount_u
    if mode == "platform_covers" or backed_u == found.amount_u:
        return found
    text = f"The pools of {sealed.name} back {backed_u} micro-yuan."
    bound = Refusal("", sealed.name, "funders.exhausted", sealed.rules.budget.clause, text)
    return Sized(backed_u, (*found.bound_by, bound))


def _counted(
    session: Session, sealed: Sealed, keys: Mapping[str, Cap], against: Against, at_us: int
) -> dict[str, Counted]:
    """Return what counts against each key, for a cap `with_related` what the whole group received.

    For a provider, also what counted before it was an organisation here.
    """
    found = counted(session, keys)
    for key, cap in keys.items():
        alike = []
        if cap.with_related:
            others = related_to(against.org, all_links(session), at_us)
            alike = [against._replace(org=org) for org in others]
        elif cap.per == "provider":
            alike = [against._replace(provider=n) for n in names_of(session, against.provider)]
        if alike:
            theirs = {key, *(cap_key(sealed, cap, each, at_us) for each in alike)}
            parts = counted(session, theirs).values()
            found[key] = Counted(*(sum(column) for column in zip(*parts, strict=True)))
    return found


def contract_of(session: Session, grant: Grant) -> str:
    """Return the contract that a grant was issued on, '' for none."""
    if not grant.application_id:
        return ""
    return session.get_one(Application, grant.application_id).contract_ref


def left_u(session: Session, grant: Grant) -> int:
    """Return what the grant may still promise."""
    return totals(session, [grant.account_id])[grant.account_id].available
