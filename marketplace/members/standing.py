"""What the road of a listing asks about organisations, until the compliance review answers the rest."""

from __future__ import annotations

from catalog.ground.database import Database
from catalog.listings.guards import NoReviewYet
from marketplace.members.tables import Organisation


class Verified(NoReviewYet):
    """No check has passed yet, but whether an organisation is verified is known."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def organisation_verified(self, owner_org: str) -> bool:
        """Return whether somebody saw the register's entry for the organisation with this id."""
        with self._database.reading() as session:
            org = session.get(Organisation, owner_org)
            return org is not None and org.verified_at_us is not None
