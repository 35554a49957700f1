"""Put the seed model on the shelf, price it, and give the demo organisation a voucher."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session, select

import catalog
from catalog.ground.clock import now_us
from catalog.ground.units import YUAN_U
from catalog.listings.actors import Actor
from catalog.listings.schemas import ListingDraft
from catalog.listings.service import create, move
from catalog.listings.states import Part
from catalog.listings.tables import Listing
from marketplace.members.keys import create_key
from marketplace.members.organisations import create_organisation
from marketplace.members.people import add_member
from marketplace.members.tables import Organisation
from marketplace.prices.components import Components
from marketplace.prices.service import publish_price
from marketplace.seeding.programmes import free_daily, starter
from marketplace.settings import Settings
from marketplace.vouchers.service import fund, issue, publish

SEED_SLUG = "tokenmart/listing-translator-mini"
DEMO = "demo"
_VOUCHER_U = 10 * YUAN_U
_PRICE = Components(input_u_per_m=500_000, output_u_per_m=2_000_000)
"""¥0.50 a million tokens in, ¥2.00 out: what a model of this size is sold for."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a newcomer needs: the demo organisation's key, and which model to call."""

    key: str
    model: str


def seed_folder() -> Path:
    """Return the folder of the seed model's served variant."""
    return Path(catalog.__file__).parent / "seed" / "listing_translator_mini" / "onnx"


def seed_marketplace(settings: Settings) -> Seeded:
    """Seed once; returns the same key every time (it is kept in the data directory, mode 0600)."""
    kept = settings.data_dir / "demo.key"
    with settings.database.session() as session:
        demo = session.exec(select(Organisation).where(Organisation.slug == DEMO)).first()
        if demo is not None and kept.exists():
            return Seeded(kept.read_text().strip(), SEED_SLUG)
        at_us = now_us()
        if demo is None:
            demo = _seed(session, settings, at_us)
        _, secret = create_key(session, demo.id, "demo", at_us, member=DEMO)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        kept.touch(mode=0o600)
        kept.write_text(secret + "\n")
    return Seeded(secret, SEED_SLUG)


def _seed(session: Session, settings: Settings, at_us: int) -> Organisation:
    platform = create_organisation(session, "tokenmart", "TokenMart", at_us)
    demo = create_organisation(session, DEMO, "示例一人公司 Demo OPC", at_us)
    add_member(session, demo.id, DEMO, "owner", "seed", at_us)
    _list_seed_model(session, platform.id)
    publish_price(session, SEED_SLUG, _PRICE, 0, "seed", "first price", at_us)
    made = publish(session, starter(), "seed", at_us)
    if settings.free_daily_u:
        publish(session, free_daily(settings.free_daily_u), "seed", at_us)
    fund(session, "seed:fund", made.id, 100 * _VOUCHER_U, at_us)
    issue(session, "seed:issue", made, demo.id, _VOUCHER_U, at_us)
    return demo


def _list_seed_model(session: Session, owner_id: str) -> Listing:
    """Walk the whole road of a listing; the operator's override stands in for the review, on record."""
    manifest = json.loads((seed_folder() / "manifest.json").read_text())
    developer = Actor("tokenmart", frozenset({Part.DEVELOPER, Part.OWNER}))
    operator = Actor("operator", frozenset({Part.OPERATOR}))
    draft = ListingDraft(
        slug=SEED_SLUG,
        kind="model",
        tier="park",
        title_zh="商品标题中译英(迷你)",
        title_en="Listing translator mini",
        summary_zh="把中文商品标题翻译成跨境电商英文标题的轻量模型。",
        summary_en="A small model that turns Chinese product titles into English marketplace titles.",
        card_zh="见模型仓库的说明文件。",
        card_en="See the model card in the repository.",
        vertical="cross-border",
        tasks=["translation"],
        languages=["zh", "en"],
        licence="Apache-2.0",
        context_length=int(manifest["context_length"]),
        max_output_tokens=64,
    )
    create(session, developer, draft, owner_org=owner_id)
    move(session, developer, SEED_SLUG, "submit")
    move(session, operator, SEED_SLUG, "override", reason="the platform's own seed model")
    return move(session, operator, SEED_SLUG, "list")
