"""How a key and its organisation stand: limits and what is left of them, free quotas, who owns the key."""

from __future__ import annotations

import json

from sqlmodel import Session, select

from catalog.ground.clock import to_iso
from marketplace.gateway.cap_accounts import account_code
from marketplace.gateway.schemas import KeyInfo, Quota, Window
from marketplace.ledger.tables import Account
from marketplace.members.identify import caller_of
from marketplace.members.tables import ApiKey, Organisation, Project
from marketplace.settings import Settings
from marketplace.vouchers.knowledge import org_facts
from marketplace.vouchers.rules import load
from marketplace.vouchers.service import quota_window
from marketplace.vouchers.tables import Grant, Programme

_NEVER_US = 253_370_764_800_000_000  # the year 9999: beyond it no calendar follows


def key_info(session: Session, key: ApiKey, settings: Settings, at_us: int) -> KeyInfo:
    """Return what the key may do, and what is left of it."""
    org = session.get_one(Organisation, key.org_id)
    project = session.get(Project, key.project_id) if key.project_id else None
    return KeyInfo(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        organisation=org.slug,
        member=key.member or None,
        role=caller_of(session, key).orgs[org.slug],
        project=project.name if project else None,
        listings=None if key.listings is None else json.loads(key.listings),
        networks=json.loads(key.cidrs or "[]"),
        rpm=key.rpm or settings.key_rpm,
        tpm=key.tpm,
        concurrency=key.concurrency or settings.key_concurrency,
        daily=_window(session, key.id, "day", key.daily_u, at_us),
        monthly=_window(session, key.id, "month", key.monthly_u, at_us),
        created_at=to_iso(key.created_at_us),
        expires_at=None if key.expires_at_us is None else to_iso(key.expires_at_us),
    )


def quotas(session: Session, org_id: str, at_us: int) -> list[Quota]:
    """Return the free quotas of the organisation now; one that was not touched yet is whole."""
    facts = org_facts(session, org_id, at_us).facts
    found = []
    for made in session.exec(select(Programme).where(Programme.state == "published")).all():
        sealed = load(made.rules)
        quota = sealed.rules.quota
        if quota is None or sealed.admit(facts, at_us):
            continue
        name, end_us = quota_window(quota.recurrence, at_us)
        grant = session.exec(
            select(Grant).where(
                Grant.programme_id == made.id, Grant.org_id == org_id, Grant.window == name
            )
        ).first()
        account = None if grant is None else session.get_one(Account, grant.account_id)
        found.append(
            Quota(
                programme=sealed.name,
                title_zh=sealed.rules.title_zh,
                title_en=sealed.rules.title_en,
                unit=quota.unit,
                recurrence=quota.recurrence,
                window=name,
                amount=quota.amount if grant is None else grant.amount,
                left=quota.amount if account is None else _left(account),
                held=0 if account is None else account.dr_pending,
                used=0 if account is None else account.dr_posted,
                resets_at=to_iso(end_us) if end_us < _NEVER_US else None,
            )
        )
    return found


def _window(
    session: Session, key_id: str, recurrence: str, limit_u: int | None, at_us: int
) -> Window | None:
    if limit_u is None:
        return None
    name, end_us = quota_window(recurrence, at_us)
    code = account_code(key_id, name)
    account = session.exec(select(Account).where(Account.code == code)).first()
    return Window(
        limit_u=limit_u,
        spent_u=0 if account is None else account.dr_posted,
        held_u=0 if account is None else account.dr_pending,
        left_u=limit_u if account is None else _left(account),
        resets_at=to_iso(end_us),
    )


def _left(account: Account) -> int:
    return account.cr_posted - account.dr_posted - account.dr_pending
