"""A place on one of the engines that a call may have, taken when its turn comes and there is one."""

from __future__ import annotations

from catalog.ground.errors import EndpointsFull, TokenMartError
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.shapes import Talk
from serving.routing import Choice, Router, admitted


class EnginePlace:
    """A `fairness.Taker`. `choice` is the place once it is taken.

    It is also None when waiting would not help, because those that the call may have are cooling down:
    whoever then chooses for it hears why.
    """

    __slots__ = ("_admitted", "_caller", "_endpoints", "_router", "_talk", "choice")

    def __init__(
        self, router: Router, endpoints: tuple[EndpointRecord, ...], talk: Talk, caller: str
    ) -> None:
        self._router = router
        self._endpoints = endpoints
        self._talk = talk
        self._caller = caller
        self._admitted = admitted(endpoints, talk.wish, talk.wanted)
        self.choice: Choice[EndpointRecord] | None = None

    def take(self) -> bool:
        """Take a place; False while all engines that the call may have are full."""
        if self._router.full(self._admitted):
            return False
        talk = self._talk
        try:
            self.choice = self._router.choose(
                self._endpoints,
                wish=talk.wish,
                affinity=talk.affinity,
                wanted=talk.wanted,
                caller=self._caller,
            )
        except EndpointsFull:
            return False
        except TokenMartError:
            self.choice = None
        return True

    def give_back(self) -> None:
        """Return the place."""
        if self.choice is not None:
            self._router.abandoned(self.choice)
            self.choice = None
