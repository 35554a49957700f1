"""What an auditor should look at: patterns that honest use rarely makes. A flag is a question, no verdict.

concentration   one organisation is most of an owner's subsidised revenue
repetition      the same request, byte for byte, again and again on public money
night           most of an organisation's calls come between midnight and six in Beijing
velocity        a new organisation spends its vouchers at once
rule            a line of an open claim that its programme's rules refuse, whatever the auditor says
circle          money goes round: A's vouchers pay B and B's pay A, or holdings close a loop
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from catalog.ground.clock import DAY_US, to_iso, zone
from catalog.ground.units import WHOLE_BP, YUAN_U, format_yuan
from marketplace.ledger.reading import events_between
from marketplace.ledger.tables import UsageEvent
from marketplace.members.parties import all_links
from marketplace.members.related import Link
from marketplace.members.tables import Organisation
from marketplace.reports.sheets import Report, Row, sheet
from marketplace.reports.sources import Period, refuse_archived
from marketplace.vouchers.claim_rules import findings, words
from marketplace.vouchers.claims import lines
from marketplace.vouchers.tables import Claim

NIGHT_ENDS_H = 6


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is flagged; amounts in micro-yuan, shares in basis points."""

    concentration_bp: int = 5_000
    least_u: int = 100 * YUAN_U
    """Below it, shares and speeds say nothing."""
    repeats: int = 20
    night_bp: int = 8_000
    night_calls: int = 100
    new_days: int = 7
    new_u: int = 1_000 * YUAN_U


@dataclass(slots=True)
class _Seen:
    """What one pass over the calls gathers."""

    paid: defaultdict[tuple[str, str], int]
    repeats: Counter[tuple[str, str, str]]
    calls: Counter[str]
    nights: Counter[str]


def anomalies(session: Session, period: Period, at_us: int, limits: Limits | None = None) -> Report:
    """Return the flags of a period, by kind, the weightiest first."""
    refuse_archived(session, period)
    limits = limits or Limits()
    seen = _look(events_between(session, period.from_us, period.until_us))
    orgs = {
        org.id: org for org in session.exec(select(Organisation).order_by(col(Organisation.id)))
    }
    names = {org_id: org.slug for org_id, org in orgs.items()}
    rows = [
        *_concentration(seen, names, limits),
        *_repetition(seen, names, limits),
        *_nights(seen, names, limits),
        *_velocity(seen, orgs, period, limits),
        *_circles(seen, names),
        *_loops(all_links(session), names, period),
        *_by_rule(session, names, period),
    ]
    cover = {"period": period.name, "flags": len(rows), "made_at": to_iso(at_us)}
    columns = ("kind", "who", "with", "amount_u", "calls", "why")
    return Report("Anomalies", cover, (sheet("flags", rows, columns),))


def _look(events: Iterable[UsageEvent]) -> _Seen:
    seen = _Seen(defaultdict(int), Counter(), Counter(), Counter())
    for event in events:
        public_u = event.voucher_u
        seen.calls[event.org_id] += 1
        if _hour(event.started_at_us) < NIGHT_ENDS_H:
            seen.nights[event.org_id] += 1
        if public_u:
            seen.paid[event.org_id, event.owner_org_id] += public_u
            seen.repeats[event.org_id, event.listing, event.request_sha256] += 1
    return seen


def _concentration(seen: _Seen, names: Mapping[str, str], limits: Limits) -> Iterator[Row]:
    owners: Counter[str] = Counter()
    for (_, owner), amount_u in seen.paid.items():
        owners[owner] += amount_u
    for (org, owner), amount_u in sorted(seen.paid.items(), key=lambda kv: -kv[1]):
        share_bp = amount_u * WHOLE_BP // owners[owner]
        if owners[owner] >= limits.least_u and share_bp > limits.concentration_bp:
            why = f"{share_bp / 100:g} % of the owner's revenue from vouchers"
            yield _flag("concentration", names, org, owner, amount_u, 0, why)


def _repetition(seen: _Seen, names: Mapping[str, str], limits: Limits) -> Iterator[Row]:
    for (org, listing, sha256), count in seen.repeats.most_common():
        if count < limits.repeats:
            return
        why = f"request {sha256[:12]}… was sent {count} times to {listing}"
        yield _flag("repetition", names, org, "", 0, count, why)


def _nights(seen: _Seen, names: Mapping[str, str], limits: Limits) -> Iterator[Row]:
    for org, nights in seen.nights.most_common():
        share_bp = nights * WHOLE_BP // seen.calls[org]
        if nights >= limits.night_calls and share_bp >= limits.night_bp:
            why = f"{share_bp / 100:g} % of its calls begin between midnight and six"
            yield _flag("night", names, org, "", 0, nights, why)


def _velocity(
    seen: _Seen, orgs: Mapping[str, Organisation], period: Period, limits: Limits
) -> Iterator[Row]:
    spent: Counter[str] = Counter()
    for (org, _), amount_u in seen.paid.items():
        spent[org] += amount_u
    names = {org_id: org.slug for org_id, org in orgs.items()}
    for org, amount_u in spent.most_common():
        born_us = orgs[org].created_at_us if org in orgs else 0
        if amount_u >= limits.new_u and period.from_us - born_us < limits.new_days * DAY_US:
            why = f"spent {format_yuan(amount_u)} of vouchers, known since {to_iso(born_us)[:10]}"
            yield _flag("velocity", names, org, "", amount_u, 0, why)


def _circles(seen: _Seen, names: Mapping[str, str]) -> Iterator[Row]:
    for (org, owner), amount_u in sorted(seen.paid.items()):
        back_u = seen.paid.get((owner, org), 0)
        if org < owner and back_u:
            why = (
                f"{format_yuan(amount_u)} one way and {format_yuan(back_u)} the other, by vouchers"
            )
            yield _flag("circle", names, org, owner, amount_u + back_u, 0, why)


def _loops(links: Iterable[Link], names: Mapping[str, str], period: Period) -> Iterator[Row]:
    """Find holdings that lead back to where they began, by whoever holds whom."""
    holds: defaultdict[str, list[str]] = defaultdict(list)
    for link in links:
        ended = link.to_us is not None and link.to_us <= period.from_us
        if (
            link.kind in ("shareholding", "control")
            and link.from_us < period.until_us
            and not ended
        ):
            holds[link.first].append(link.second)
    told: set[frozenset[str]] = set()
    for start in sorted(holds, key=lambda party: names.get(party, party)):
        path = _way_back(start, holds)
        if path and frozenset(path) not in told:
            told.add(frozenset(path))
            why = " → ".join(names.get(party, party) for party in (*path, start))
            yield _flag("circle", names, start, "", 0, 0, f"holdings close a loop: {why}")


def _by_rule(session: Session, names: Mapping[str, str], period: Period) -> Iterator[Row]:
    """Tell before the audit what it will refuse, by organisation and rule."""
    waits = col(Claim.state).in_(("draft", "submitted"))
    query = select(Claim).where(waits, Claim.until_us > period.from_us)
    for claim in session.exec(query.order_by(col(Claim.id))):
        found = {line.n: line for line in lines(session, claim.id)}
        sums: Counter[tuple[str, str, str]] = Counter()
        counts: Counter[tuple[str, str, str]] = Counter()
        for n, refusal in findings(session, claim, list(found.values())).items():
            key = (found[n].org_id, found[n].owner_org, words(refusal))
            sums[key] += found[n].amount_u
            counts[key] += 1
        for (org, owner, why), amount_u in sorted(sums.items()):
            count = counts[org, owner, why]
            yield _flag("rule", names, org, owner, amount_u, count, f"{claim.id}: {why}")


def _way_back(start: str, holds: Mapping[str, list[str]]) -> list[str]:
    """Return a shortest loop through `start`, [] when there is none."""
    reached: dict[str, str] = {}
    queue = [start]
    for party in queue:
        for other in holds.get(party, ()):
            if other == start:
                path = [party]
                while path[-1] != start:
                    path.append(reached[path[-1]])
                return path[::-1]
            if other not in reached:
                reached[other] = party
                queue.append(other)
    return []


def _flag(
    kind: str,
    names: Mapping[str, str],
    org: str,
    other: str,
    amount_u: int,
    calls: int,
    why: str,
) -> Row:
    return {
        "kind": kind,
        "who": names.get(org, org),
        "with": names.get(other, other),
        "amount_u": amount_u,
        "calls": calls,
        "why": why,
    }


def _hour(at_us: int) -> int:
    return datetime.fromtimestamp(at_us // 1_000_000, zone).hour
