"""Why a run is refused, and why a peer takes no part in it."""

from __future__ import annotations


class Refused(Exception):
    """The run cannot be used: one wrong answer, and no figure of it is worth anything."""


class NotInstalled(Exception):
    """A peer cannot take part; the message says why and what would help."""
