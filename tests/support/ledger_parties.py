"""Rules of the random walk for who belongs together, and for bytes that must never change."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from support.economy import PRICE, Economy
from support.ledger_calls import CallRules
from support.ledger_model import LinkModel

from catalog.ground.clock import DAY_US
from catalog.ground.errors import Conflict
from marketplace.members.parties import add_link, end_link
from marketplace.prices.components import Components
from marketplace.prices.service import publish_price, version
from marketplace.vouchers.programmes import publish

_MOST_LINKS = 3
LISTING = "maker/mini"
PATHS = (("a", "maker"), ("a", "holding", "maker"), ("b", "holding", "maker"))


class PartyRules(CallRules):
    """Links between organisations begin and end; published rules and prices are attacked."""

    price_id: str

    def publish_a_price(self) -> None:
        """Publish the price that the walk then tries to change."""
        with self.database.session() as session:
            self.price_id = publish_price(
                session, LISTING, PRICE, self.e.now, "officer", "first", self.e.now
            ).id

    @precondition(lambda self: sum(self._lives(link) for link in self.e.links) < _MOST_LINKS)
    @rule(
        path=st.sampled_from(PATHS),
        kind=st.sampled_from(["control", "shareholding", "shareholding", "family"]),
        holding_bp=st.sampled_from([2499, 2500, 2500, 6000]),
        begins=st.sampled_from([0, 0, 1]),
        days=st.sampled_from([None, 1, 2]),
    )
    def link(
        self, path: tuple[str, ...], kind: str, holding_bp: int, begins: int, days: int | None
    ) -> None:
        """Parties are linked, maybe through another, from now or tomorrow on, for days or for good."""
        start = self.e.now + begins * DAY_US
        end = None if days is None else start + days * DAY_US
        for first, second in pairwise(path):
            self._link(first, second, kind, holding_bp, start, end)
        self._meet(path[0])

    def _link(
        self, one: str, other: str, kind: str, holding_bp: int, start: int, end: int | None
    ) -> None:
        e = self.e
        first, second = e.org(one), e.org(other)
        with self.database.session() as session:
            made = add_link(
                session, first, second, kind, by="officer", at_us=e.now, valid_from_us=start,
                valid_to_us=end, holding_bp=holding_bp,
            )  # fmt: skip
        e.links.append(LinkModel(made.id, first, second, kind, holding_bp, start, end))

    def _meet(self, org: str) -> None:
        """Let an organisation that has a voucher call the maker: it pays, or it does not."""
        self.e.top_up(org, 20)
        self.issue(org, "later", 6)
        self.serve(org, "maker", 20, 100)

    @precondition(lambda self: any(self._lives(link) for link in self.e.links))
    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        """A link ends now."""
        found = data.draw(st.sampled_from([link for link in self.e.links if self._lives(link)]))
        with self.database.session() as session:
            end_link(session, found.id, self.e.now)
        found.end = max(found.start, self.e.now)
        for org in ("a", "b"):
            self._meet(org)

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
