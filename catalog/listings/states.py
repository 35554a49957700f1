"""The road of a listing: every state, every transition, who may make it and what it demands.

    draft ─► submitted ─► scanning ─► evaluating ─► human_review ─► approved ─► listed
      ▲          ▲            │         ▲    │        │     │                    │  │
      │          └─ returned ◄┴─────────┼────┴────────┘     └─► rejected         │  │
      │             (put right)         └── reassess_required ◄──────────────────┘  │
      └── revise: a new version; the listed one stays on offer for its grace ◄──────┘

    whatever is on offer ─► suspended ─► listed | evaluating      (at once)
    whatever is alive    ─► delisted ─► draft                     (reopen: the whole road again)

`TRANSITIONS` below is the whole truth: `catalog.listings.service.move` looks an event up in it and
knows no other way. `listed` is entered by `list`, from `approved` alone, and by `restore`, for a
version that was listed before. `approved` is entered by a reviewer's `approve`, or by an operator's
`override` with a recorded reason. The tests hold the table to this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    DRAFT = "draft"
    SUBMITTED = "submitted"
    SCANNING = "scanning"
    EVALUATING = "evaluating"
    HUMAN_REVIEW = "human_review"
    APPROVED = "approved"
    LISTED = "listed"
    RETURNED = "returned"
    REJECTED = "rejected"
    REASSESS_REQUIRED = "reassess_required"
    SUSPENDED = "suspended"
    DELISTED = "delisted"


class Tier(StrEnum):
    """How far a listing is meant to go: its owner only, the members of the park, or everybody."""

    SANDBOX = "sandbox"
    PARK = "park"
    PUBLIC = "public"


class Part(StrEnum):
    """The part somebody plays towards one listing; one person may have several."""

    DEVELOPER = "developer"
    """`owner`, `admin` or `dev` of the owning organisation."""
    OWNER = "owner"
    """`owner` or `admin` of the owning organisation."""
    REVIEWER = "reviewer"
    OPERATOR = "operator"
    SYSTEM = "system"
    """A check, a scheduler: nobody's person."""


@dataclass(frozen=True, slots=True)
class Transition:
    """From any of `sources` to `target`, by one of `parts`, when every guard named holds."""

    event: str
    sources: frozenset[State]
    target: State
    parts: frozenset[Part]
    guards: tuple[str, ...] = ()


S, P = State, Part

IN_REVIEW = (S.SUBMITTED, S.SCANNING, S.EVALUATING, S.HUMAN_REVIEW)
EDITABLE = frozenset({S.DRAFT, S.RETURNED})
"""Where the working copy may be changed: what is under review stands still."""
KEEPS_LISTED_VERSION = (S.DRAFT, S.RETURNED, *IN_REVIEW, S.APPROVED, S.REASSESS_REQUIRED)
"""Away from `listed`, but a version that was listed may stay on offer until its grace ends."""
ALIVE = (*KEEPS_LISTED_VERSION, S.LISTED, S.SUSPENDED)


def _row(
    event: str,
    sources: State | tuple[State, ...],
    target: State,
    parts: Part | tuple[Part, ...],
    *guards: str,
) -> Transition:
    froms = sources if isinstance(sources, tuple) else (sources,)
    whos = parts if isinstance(parts, tuple) else (parts,)
    return Transition(event, frozenset(froms), target, frozenset(whos), guards)


TRANSITIONS: dict[str, Transition] = {
    row.event: row
    for row in (
        # The developer hands in.
        _row("submit", (S.DRAFT, S.RETURNED), S.SUBMITTED, P.DEVELOPER,
             "manifest_complete", "tier_goes_outside", "organisation_verified"),
        _row("withdraw", IN_REVIEW, S.DRAFT, P.DEVELOPER),
        # The checks run.
        _row("start_scan", S.SUBMITTED, S.SCANNING, P.SYSTEM),
        _row("scan_passed", S.SCANNING, S.EVALUATING, P.SYSTEM, "no_critical_finding"),
        _row("evaluation_done", S.EVALUATING, S.HUMAN_REVIEW, P.SYSTEM, "checks_finished"),
        _row("send_back", (S.SCANNING, S.EVALUATING, S.HUMAN_REVIEW), S.RETURNED,
             (P.REVIEWER, P.SYSTEM), "reason_given"),
        # People decide.
        _row("endorse", S.HUMAN_REVIEW, S.HUMAN_REVIEW, P.REVIEWER,
             "checks_passed_or_waived", "four_eyes"),
        _row("approve", S.HUMAN_REVIEW, S.APPROVED, P.REVIEWER,
             "checks_passed_or_waived", "four_eyes", "second_reviewer_for_public"),
        _row("reject", S.HUMAN_REVIEW, S.REJECTED, P.REVIEWER, "reason_given", "four_eyes"),
        _row("override", IN_REVIEW, S.APPROVED, P.OPERATOR, "reason_given", "four_eyes"),
        # It goes on the shelf, and comes off it.
        _row("list", S.APPROVED, S.LISTED, (P.DEVELOPER, P.OPERATOR, P.SYSTEM), "filing_gate"),
        _row("suspend", (S.LISTED, *KEEPS_LISTED_VERSION), S.SUSPENDED,
             (P.OPERATOR, P.OWNER, P.SYSTEM), "reason_given", "on_offer"),
        _row("restore", S.SUSPENDED, S.LISTED, (P.OPERATOR, P.OWNER),
             "lifted_by_who_suspended", "no_reassessment_open", "filing_gate"),
        _row("delist", ALIVE, S.DELISTED, (P.OPERATOR, P.OWNER), "reason_given"),
        # It changes, or the world does.
        _row("revise", S.LISTED, S.DRAFT, P.DEVELOPER),
        _row("reassess", S.LISTED, S.REASSESS_REQUIRED, (P.OPERATOR, P.SYSTEM), "reason_given"),
        _row("reevaluate", (S.REASSESS_REQUIRED, S.SUSPENDED), S.EVALUATING,
             (P.OPERATOR, P.SYSTEM)),
        _row("reopen", (S.DELISTED, S.REJECTED), S.DRAFT, P.DEVELOPER),
    )
}  # fmt: skip
