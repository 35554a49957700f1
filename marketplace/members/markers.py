"""Names of the change markers that tell gateways to look again (see `catalog.ground.marker`)."""

from __future__ import annotations

KEYS = "keys"
"""A key was made, limited or revoked, or its organisation suspended."""
FACTS = "facts"
"""What is known of an organisation has changed, or whom it is related to."""
