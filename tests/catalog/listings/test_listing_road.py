"""The road: random attempts never bring anything to the public past the review, and all is on record."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import Session, select

from catalog.ground.clock import DAY_US, SetClock
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, Forbidden, TokenMartError
from catalog.ground.identity import Caller
from catalog.ground.marker import LISTINGS, read_marker
from catalog.listings import chain, records, service
from catalog.listings.actors import Actor, actor_of, reviewer, system
from catalog.listings.guards import GUARDS
from catalog.listings.offer import callable_listing, callable_listings, is_on_offer
from catalog.listings.schemas import Filing, ListingDraft, ListingEdit
from catalog.listings.states import TRANSITIONS, Part, State
from catalog.listings.tables import Listing, ListingVersion

SLUG = "acme/writer"
MEI = actor_of(Caller("mei", {"acme": "owner"}), "acme")
BO = actor_of(Caller("bo", {"acme": "dev"}), "acme")
STRANGER = actor_of(Caller("eve", {"other": "owner"}), "acme")
OPERATOR = actor_of(Caller("ops", is_operator=True), "acme")
REVIEWERS = [reviewer(Caller(name), "acme") for name in ("ann", "ben")]
INSIDE_REVIEWER = reviewer(Caller("mei", {"acme": "owner"}), "acme")
EVERYTHING = Actor("mei", frozenset(Part))
ACTORS = [MEI, BO, STRANGER, OPERATOR, *REVIEWERS, INSIDE_REVIEWER, system("checks"), EVERYTHING]


def draft(tier: str = "park", slug: str = SLUG, kind: str = "model") -> ListingDraft:
    return ListingDraft(
        slug=slug,
        kind=kind,  # type: ignore[arg-type]
        tier=tier,  # type: ignore[arg-type]
        title_zh="短剧写手",
        title_en="Drama writer",
        summary_zh="写短剧剧本",
        card_zh="# 写手",
        vertical="short-drama",
        tasks=["chat"],
        licence="Apache-2.0",
        context_length=4096,
        max_output_tokens=512,
    )


def lead_to_shelf(session: Session, slug: str = SLUG) -> None:
    service.move(session, MEI, slug, "submit")
    service.move(session, OPERATOR, slug, "override", reason="pilot phase")
    service.move(session, MEI, slug, "list")


class GoodReview:
    """Facts of a review in which every check passed."""

    def organisation_verified(self, owner_org: str) -> bool:
        return True

    def critical_findings(self, listing_id: str, version: int) -> list[str]:
        return []

    unfinished_checks = critical_findings
    unpassed_checks = critical_findings


def test_every_guard_of_the_table_exists_and_is_used() -> None:
    used = {name for transition in TRANSITIONS.values() for name in transition.guards}
    assert used == set(GUARDS)


def test_the_table_enters_the_shelf_by_two_doors_only() -> None:
    entering = {t.event: t.sources for t in TRANSITIONS.values() if t.target is State.LISTED}
    assert entering == {"list": {State.APPROVED}, "restore": {State.SUSPENDED}}
    approving = {t.event for t in TRANSITIONS.values() if t.target is State.APPROVED}
    assert approving == {"approve", "override"}
    assert "four_eyes" in TRANSITIONS["approve"].guards
    assert {"reason_given", "four_eyes"} <= set(TRANSITIONS["override"].guards)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[Database]:
    path = tmp_path_factory.mktemp("road") / "road.db"
    shutil.copy(_sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    yield database
    database.dispose()


BACKWARDS = {"delist", "withdraw", "send_back", "reject", "endorse"}
ASIDES = ["edit_tier", "file", "unfile", "wait"]
attempts = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.sampled_from(ACTORS),
        st.sampled_from(["because", "because", " "]),
        st.booleans(),
        st.sampled_from(["sandbox", "park", "public"]),
    ),
    min_size=25,
    max_size=40,
)


def _event(number: int, state: str) -> str:
    """Choose what is tried: mostly what leads on from here, else nearly everything is refused."""
    if number % 10 == 0:
        return sorted(TRANSITIONS)[number % len(TRANSITIONS)]
    leading = sorted(t.event for t in TRANSITIONS.values() if state in t.sources)
    onwards = [event for event in leading if event not in BACKWARDS]
    choices = [*onwards * 4, *leading, *ASIDES]
    return choices[number // 10 % len(choices)]


def _fitting(event: str, number: int, actor: Actor) -> Actor:
    """Return an actor who may, three times of four: the guards are what is tested here."""
    transition = TRANSITIONS.get(event)
    if transition is None:
        return OPERATOR if number % 4 and event != "edit_tier" else actor
    able = [each for each in ACTORS if each.acting(transition.parts)]
    return able[number // 4 % len(able)] if number % 4 else actor


@given(attempts, st.sampled_from(["park", "public"]))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_attempt_reaches_the_public_past_the_review(
    road: Database, tries: list[tuple[int, Actor, str, bool, str]], tier: str
) -> None:
    clock = SetClock(1_000_000)
    with Session(road.engine) as session, session.begin() as transaction:
        service.create(session, MEI, draft(tier), clock=clock)
        for number, someone, reason, reviewed, new_tier in tries:
            clock.advance(DAY_US // 2)
            event = _event(number, service.find(session, SLUG).state)
            actor = _fitting(event, number, someone)
            savepoint = session.begin_nested()
            try:
                _attempt(session, clock, event, actor, reason, reviewed, new_tier)
                savepoint.commit()
            except TokenMartError:
                savepoint.rollback()
            _check_offer(session, clock())
        assert list(chain.faults(session)) == []
        transaction.rollback()


def _attempt(
    session: Session,
    clock: SetClock,
    event: str,
    actor: Actor,
    reason: str,
    reviewed: bool,
    tier: str,
) -> None:
    if event == "edit_tier":
        service.edit(session, actor, SLUG, ListingEdit(tier=tier), clock=clock)  # type: ignore[arg-type]
    elif event in ("file", "unfile"):
        status = "granted" if event == "file" else "cancelled"
        filing = Filing(route="full", status=status, number="X-1", reason="letter")  # type: ignore[arg-type]
        records.record_filing(session, actor, SLUG, filing, clock=clock)
    elif event == "wait":
        clock.advance(60 * DAY_US)
        records.end_graces(session, clock=clock)
    else:
        facts = GoodReview() if reviewed else None
        service.move(
            session, actor, SLUG, event, reason=reason, facts=facts, grace_us=DAY_US, clock=clock
        )


def _check_offer(session: Session, now: int) -> None:
    """What is on offer was approved, by others than its submitter, in the very version that is shown."""
    listing = service.find(session, SLUG)
    offered = [c for c in callable_listings(session, now) if c.tier != "sandbox"]
    if listing.state == State.LISTED:
        assert is_on_offer(listing, now)
    if not offered:
        return
    history = chain.history(session, listing.id)
    version = listing.listed_version
    passed = [r for r in history if r.version == version and r.event in ("approve", "override")]
    assert passed, "on offer without any review"
    submitters = {r.actor for r in history if r.event == "submit" and r.version == version}
    for row in passed:
        assert row.actor not in submitters
        assert row.event == "approve" or (row.reason.strip() and row.acted_as == "operator")
    reassessed = [r.number for r in history if r.event == "reassess"]
    if reassessed and listing.state == State.LISTED:
        assert any(r.number > reassessed[-1] for r in passed), "back without being evaluated again"
    if offered[0].tier == "public":
        listed = [r for r in history if r.version == version and r.event in ("list", "restore")]
        filed = [r for r in history if r.event == "filing" and r.number < listed[-1].number]
        assert filed, "public without a filing"
        assert listing.filing_status == "granted"


def test_without_a_review_only_a_reasoned_override_passes(database: Database) -> None:
    with database.session() as session:
        service.create(session, MEI, draft())
        service.move(session, BO, SLUG, "submit", reason="first")
        service.move(session, system("scan"), SLUG, "start_scan")
    for actor, event in ((system("scan"), "scan_passed"), (MEI, "list"), (MEI, "approve")):
        with database.session() as session, pytest.raises((Conflict, Forbidden)):
            service.move(session, actor, SLUG, event)
    with database.session() as session, pytest.raises(Conflict, match="reason"):
        service.move(session, OPERATOR, SLUG, "override", reason="  ")
    with database.session() as session, pytest.raises(Conflict, match="submitted"):
        both = Actor("bo", frozenset({Part.DEVELOPER, Part.OPERATOR}))
        service.move(session, both, SLUG, "override", reason="mine")
    with database.session() as session:
        service.move(session, OPERATOR, SLUG, "override", reason="pilot phase")
        service.move(session, BO, SLUG, "list")
        assert [row.event for row in chain.history(session, service.find(session, SLUG).id)] == [
            "create", "submit", "start_scan", "override", "list"
        ]  # fmt: skip


def test_a_public_listing_takes_two_reviewers_and_a_filing(database: Database) -> None:
    facts, (ann, ben) = GoodReview(), REVIEWERS
    with database.session() as session:
        service.create(session, MEI, draft("public"))
        service.move(session, MEI, SLUG, "submit", facts=facts)
        for event in ("start_scan", "scan_passed", "evaluation_done"):
            service.move(session, system("checks"), SLUG, event, facts=facts)
    for actor, words in ((ann, "two reviewers"), (INSIDE_REVIEWER, "submitted")):
        with database.session() as session, pytest.raises(Conflict, match=words):
            service.move(session, actor, SLUG, "approve", facts=facts)
    with database.session() as session:
        service.move(session, ann, SLUG, "endorse", facts=facts)
    with database.session() as session, pytest.raises(Conflict, match="two reviewers"):
        service.move(session, ann, SLUG, "approve", facts=facts)
    with database.session() as session:
        service.move(session, ben, SLUG, "approve", facts=facts)
    with database.session() as session, pytest.raises(Conflict, match="备案"):
        service.move(session, MEI, SLUG, "list")
    filing = Filing(
        route="full", status="granted", number="Guangdong-X-1", reason="letter of today"
    )
    with database.session() as session:
        records.record_filing(session, OPERATOR, SLUG, filing)
        service.move(session, MEI, SLUG, "list")
    lost = Filing(route="full", status="cancelled", reason="withdrawn by the office")
    with database.session() as session:
        assert records.record_filing(session, OPERATOR, SLUG, lost).state == "suspended"
        assert callable_listings(session, 1) == []


def test_a_suspension_acts_at_once_and_is_lifted_by_who_made_it(database: Database) -> None:
    with database.session() as session:
        service.create(session, MEI, draft())
        lead_to_shelf(session)
        before = read_marker(session, LISTINGS)
    with database.session() as session:
        service.move(session, OPERATOR, SLUG, "suspend", reason="complaint 7")
        assert read_marker(session, LISTINGS) > before
        assert callable_listing(session, SLUG, 1) is None
    with database.session() as session, pytest.raises(Conflict, match="operator"):
        service.move(session, MEI, SLUG, "restore")
    with database.session() as session:
        service.move(session, OPERATOR, SLUG, "restore")
        service.move(session, MEI, SLUG, "suspend", reason="holiday")
        service.move(session, MEI, SLUG, "restore")
        found = callable_listing(session, SLUG, 1)
        assert found is not None
        assert (found.tier, found.context_length, found.max_output_tokens) == ("park", 4096, 512)


def test_a_listed_version_stays_as_reviewed_while_the_next_is_made(database: Database) -> None:
    clock = SetClock(DAY_US)
    with database.session() as session:
        service.create(session, MEI, draft(), clock=clock)
        lead_to_shelf(session)
        service.move(session, MEI, SLUG, "revise", clock=clock)
        service.edit(session, MEI, SLUG, ListingEdit(context_length=9), clock=clock)
        offered = callable_listing(session, SLUG, clock())
        assert offered is not None
        assert (offered.context_length, offered.state) == (4096, "draft")
        service.move(session, MEI, SLUG, "submit", clock=clock)
        service.move(session, OPERATOR, SLUG, "override", reason="pilot", clock=clock)
        service.move(session, MEI, SLUG, "list", clock=clock)
        offered = callable_listing(session, SLUG, clock())
        assert offered is not None
        assert (offered.context_length, offered.version) == (9, 2)
        assert len(session.exec(select(ListingVersion)).all()) == 2
    with database.session() as session, pytest.raises(Conflict, match="edited"):
        service.edit(session, MEI, SLUG, ListingEdit(title_zh="x"))
    with database.session() as session:
        service.move(session, MEI, SLUG, "revise", clock=clock)
        clock.advance(91 * DAY_US)
        assert callable_listing(session, SLUG, clock()) is None
        assert records.end_graces(session, clock=clock) == [SLUG]
        assert records.end_graces(session, clock=clock) == []


def test_a_reassessment_is_not_escaped_through_a_suspension(database: Database) -> None:
    with database.session() as session:
        service.create(session, MEI, draft())
        lead_to_shelf(session)
        service.move(session, OPERATOR, SLUG, "reassess", reason="base changed", grace_us=DAY_US)
        service.move(session, MEI, SLUG, "suspend", reason="clever")
    with database.session() as session, pytest.raises(Conflict, match="evaluated again"):
        service.move(session, MEI, SLUG, "restore")


def test_names_are_never_reused_and_words_come_from_the_shelf(database: Database) -> None:
    with database.session() as session:
        service.create(session, MEI, draft())
        service.move(session, MEI, SLUG, "delist", reason="done")
    with database.session() as session, pytest.raises(Conflict, match="never reused"):
        service.create(session, MEI, draft())
    with database.session() as session, pytest.raises(BadRequest, match="tasks"):
        service.create(session, MEI, draft(slug="acme/b").model_copy(update={"tasks": ["magic"]}))
    with database.session() as session, pytest.raises(Forbidden):
        service.create(session, STRANGER, draft(slug="acme/c"))
    with database.session() as session, pytest.raises(Conflict, match="sandbox"):
        service.create(session, MEI, draft("sandbox", "acme/d"))
        service.move(session, MEI, "acme/d", "submit")


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE listing_transition SET reason = 'none' WHERE number = 3",
        "UPDATE listing_transition SET actor = 'x', hash = 'y' WHERE number = 2",
        "DELETE FROM listing_transition WHERE number = 2",
    ],
)
def test_the_history_shows_that_it_was_touched(sqlite_url: str, tampering: str) -> None:
    database = Database(sqlite_url)
    with database.session() as session:
        service.create(session, MEI, draft())
        lead_to_shelf(session)
    with database.session() as session:
        assert list(chain.faults(session)) == []
        assert chain.head(session)[0] == 4
        session.execute(text(tampering))
        session.expire_all()
        assert list(chain.faults(session))
    database.dispose()


def test_an_owner_calls_the_sandbox_before_any_review(database: Database) -> None:
    with database.session() as session:
        service.create(session, MEI, draft("sandbox"))
        found = callable_listing(session, SLUG, 1)
        assert found is not None
        assert (found.tier, found.owner_org) == ("sandbox", "acme")
        assert session.exec(select(Listing)).one().listed_version is None
