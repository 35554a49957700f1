"""Prices on the database: dated, never changed, never two at once; drafts that charge nobody."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from catalog.ground.clock import DAY_US, SECOND_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, NotFound
from marketplace.prices.components import Components
from marketplace.prices.drafts import add_draft, drafts, publish_draft, read_prices
from marketplace.prices.service import compare, price_at, publish_price, version, versions_of
from marketplace.prices.tables import PriceVersion

NOW = 1_700_000_000 * SECOND_US
SLUG = "maker/model"
OLD = Components(input_u_per_m=1_000_000, output_u_per_m=2_000_000)
NEW = Components(input_u_per_m=1_500_000, output_u_per_m=2_000_000)


def _publish(
    database: Database, components: Components, from_us: int, to_us: int | None = None
) -> str:
    with database.session() as session:
        made = publish_price(session, SLUG, components, from_us, "li", "test", NOW, to_us)
        return made.id


def test_a_new_price_ends_the_old_one_where_it_begins(database: Database) -> None:
    first = _publish(database, OLD, 0)
    second = _publish(database, NEW, NOW + DAY_US)
    with database.reading() as session:
        for at_us, price_id in ((NOW, first), (NOW + DAY_US - 1, first), (NOW + DAY_US, second)):
            price = price_at(session, SLUG, at_us)
            assert price is not None
            assert price.id == price_id
        assert price_at(session, "maker/other", NOW) is None
        changes = compare(session, SLUG, NEW, NOW)
        assert changes[0].text == "input: ¥1.00 → ¥1.50 per million tokens (+50.0 %)"


def test_publishing_again_changes_nothing(database: Database) -> None:
    first = _publish(database, OLD, NOW)
    assert _publish(database, OLD, NOW) == first
    with database.reading() as session:
        assert len(versions_of(session, SLUG)) == 1


def test_prices_never_overlap_nor_reach_back(database: Database) -> None:
    _publish(database, OLD, NOW, NOW + DAY_US)
    for from_us, to_us in ((NOW, None), (NOW + 1, None), (NOW + DAY_US - 1, NOW + 2 * DAY_US)):
        with pytest.raises(Conflict, match="both in force"):
            _publish(database, NEW, from_us, to_us)
    with pytest.raises(Conflict, match="that is past"):
        _publish(database, NEW, NOW - 1, NOW)
    with pytest.raises(Conflict, match="before it begins"):
        _publish(database, NEW, NOW + 3 * DAY_US, NOW + 2 * DAY_US)
    _publish(database, NEW, NOW + DAY_US)


@pytest.mark.parametrize(
    "change",
    [
        "components = '{}'",
        "effective_from_us = 1",
        "sha256 = ''",
        "listing = 'x'",
        "author = 'somebody'",
    ],
)
def test_the_database_itself_keeps_a_published_price(database: Database, change: str) -> None:
    _publish(database, OLD, NOW)
    for statement in (f"UPDATE price_version SET {change}", "DELETE FROM price_version"):
        with pytest.raises(DBAPIError, match="never changed"), database.session() as session:
            session.execute(text(statement))


def test_an_end_is_set_once(database: Database) -> None:
    _publish(database, OLD, NOW)
    end = f"UPDATE price_version SET effective_to_us = {NOW + DAY_US}"
    with database.session() as session:
        session.execute(text(end))
    with pytest.raises(DBAPIError, match="never changed"), database.session() as session:
        session.execute(text(end + " + 1"))


def test_a_version_is_proved_when_it_is_read(database: Database) -> None:
    price_id = _publish(database, OLD, NOW)
    with database.session() as session:
        assert version(session, price_id).id == price_id
        forged = PriceVersion(
            id="prc_forged",
            listing="maker/other",
            effective_from_us=0,
            components='{"input_u_per_m":1,"output_u_per_m":1}',
            sha256="0" * 64,
            author="x",
            reason="x",
            created_at_us=NOW,
        )
        session.add(forged)
        session.flush()
        with pytest.raises(BadRequest, match="sha256 differs"):
            version(session, "prc_forged")
        with pytest.raises(NotFound):
            version(session, "prc_none")


def test_a_draft_charges_nobody_until_it_is_published_once(database: Database) -> None:
    with database.session() as session:
        made = add_draft(session, SLUG, OLD, "list.json", "li", NOW)
        assert add_draft(session, SLUG, OLD, "list.json", "li", NOW).id == made.id
        assert price_at(session, SLUG, NOW) is None
        published = publish_draft(session, made.id, NOW, "wang", "import", NOW)
        price = price_at(session, SLUG, NOW)
        assert price is not None
        assert price.id == published.id
        assert drafts(session, SLUG) == []
    with pytest.raises(Conflict, match="was published"), database.session() as session:
        publish_draft(session, made.id, NOW + 1, "wang", "again", NOW)


def test_a_cost_map_in_dollars_becomes_whole_rates() -> None:
    # $0.15 a million tokens x 7.10 = ¥1.065 a million = 1,065,000 micro-yuan; 0.60 x 7.10 = ¥4.26.
    document = """{
        "a": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "mode": "chat",
              "cache_read_input_token_cost": 7.5e-08},
        "spec": {"max_tokens": 1},
        "b": {"input_u_per_m": 5, "output_u_per_m": 7}
    }"""
    assert read_prices(document, Decimal("7.10")) == {
        "a": Components(
            input_u_per_m=1_065_000, output_u_per_m=4_260_000, cache_read_u_per_m=532_500
        ),
        "b": Components(input_u_per_m=5, output_u_per_m=7),
    }


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("[]", "object by model"),
        ("{", "not JSON"),
        ('{"a": 1}', "a: A price is an object"),
        ('{"a": {"input_cost_per_token": 1e-7}}', "a: This price is in US dollars"),
        ('{"a": {"input_u_per_m": 1.5, "output_u_per_m": 1}}', "a: This is not a price"),
        (
            '{"a": {"input_u_per_m": 1, "output_u_per_m": 1, "extra_u": 1}}',
            "a: This is not a price",
        ),
    ],
)
def test_a_bad_price_list_is_refused_by_model(document: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read_prices(document)


def test_our_own_form_survives_the_road(database: Database) -> None:
    document = json.dumps({SLUG: {"input_u_per_m": 1_000_000, "output_u_per_m": 2_000_000}})
    assert read_prices(document) == {SLUG: OLD}
