from __future__ import annotations

from catalog.ground.database import Database
from catalog.ground.identity import Caller
from catalog.listings import chain, service
from catalog.listings.actors import actor_of
from catalog.listings.offer import callable_listings
from catalog.listings.schemas import ListingDraft

DEV = actor_of(Caller("mei", {"acme": "dev"}), "acme")
OPERATOR = actor_of(Caller("ops", is_operator=True), "acme")


def test_story(database: Database) -> None:
    draft = ListingDraft(
        slug="acme/writer",
        kind="model",
        tier="park",
        title_zh="写手",
        title_en="Writer",
        summary_zh="写",
        card_zh="# 写",
        vertical="short-drama",
        licence="Apache-2.0",
        context_length=1024,
        max_output_tokens=256,
    )
    with database.session() as session:
        service.create(session, DEV, draft)
        service.move(session, DEV, "acme/writer", "submit")
        service.move(session, OPERATOR, "acme/writer", "override", reason="pilot")
        service.move(session, DEV, "acme/writer", "list")
    with database.reading() as session:
        assert [x.slug for x in callable_listings(session, 1)] == ["acme/writer"]
        assert list(chain.faults(session)) == []
