"""Rules of the random walk for who belongs together, and for bytes that must never change."""

from __future__ import annotations

import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from support.economy import PRICE, Economy
from support.ledger_model import LinkModel

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import Conflict
from marketplace.members.parties import add_link, end_link
from marketplace.prices.components import Components
from marketplace.prices.service import publish_price, version
from marketplace.vouchers.programmes import publish

_MOST_LINKS = 3
LISTING = "maker/mini"


class PartyRules(RuleBasedStateMachine):
    """Links between organisations begin and end; published rules and prices are attacked."""

    database: Database
    e: Economy
    price_id: str

    def publish_a_price(self) -> None:
        """Publish the price that the walk then tries to change."""
        with self.database.session() as session:
            self.price_id = publish_price(
                session, LISTING, PRICE, self.e.now, "officer", "first", self.e.now
            ).id

    @precondition(lambda self: sum(self._lives(link) for link in self.e.links) < _MOST_LINKS)
    @rule(
        pair=st.sampled_from(
            [("a", "maker"), ("b", "holding"), ("holding", "maker"), ("holding", "a"), ("a", "b")]
        ),
        kind=st.sampled_from(["control", "shareholding", "shareholding", "family"]),
        holding_bp=st.sampled_from([2499, 2500, 6000]),
        begins=st.sampled_from([0, 0, 1]),
        days=st.sampled_from([None, 1, 2]),
    )
    def link(
        self, pair: tuple[str, str], kind: str, holding_bp: int, begins: int, days: int | None
    ) -> None:
        """Two parties are linked from now or tomorrow on, for some days or until it is ended."""
        e = self.e
        first, second = (e.org(name) for name in pair)
        start = e.now + begins * DAY_US
        end = None if days is None else start + days * DAY_US
        with self.database.session() as session:
            made = add_link(
                session, first, second, kind, by="officer", at_us=e.now, valid_from_us=start,
                valid_to_us=end, holding_bp=holding_bp,
            )  # fmt: skip
        e.links.append(LinkModel(made.id, first, second, kind, holding_bp, start, end))

    @precondition(lambda self: any(self._lives(link) for link in self.e.links))
    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        """A link ends now."""
        found = data.draw(st.sampled_from([link for link in self.e.links if self._lives(link)]))
        with self.database.session() as session:
            end_link(session, found.id, self.e.now)
        found.end = max(found.start, self.e.now)

    def _lives(self, link: LinkModel) -> bool:
        return link.end is None or link.end > self.e.now

    @rule(code=st.sampled_from(sorted(Economy.RATIOS)), ratio_bp=st.integers(1, 9_999))
    def rewrite(self, code: str, ratio_bp: int) -> None:
        """Nobody changes what was published: not the rules, not a price, not by hand."""
        e = self.e
        made = e.programmes[code]
        document = json.loads(made.rules)
        document["subsidy"]["ratio_bp"] = (document["subsidy"]["ratio_bp"] + ratio_bp) % 10_000
        with pytest.raises(Conflict), self.database.session() as session:
            publish(session, json.dumps(document), "officer", e.now)
        with self.database.session() as session:
            assert publish(session, made.rules, "officer", e.now).id == made.id
        dear = Components(input_u_per_m=ratio_bp, output_u_per_m=1)
        with pytest.raises(Conflict), self.database.session() as session:
            publish_price(session, LISTING, dear, e.now - 1, "officer", "backwards", e.now)
        with pytest.raises(DatabaseError), self.database.session() as session:
            session.execute(text("UPDATE price_version SET components = '{}'"))
        with self.database.reading() as session:
            version(session, self.price_id)
