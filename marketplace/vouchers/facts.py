"""The closed vocabulary of facts that a programme may ask about, and facts that hold from day to day.

A programme can ask nothing else, so a reviewer reads this page and knows every way in which a caller, a
contract, a listing or its provider can matter to a voucher. A new fact is a new line here.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal, NamedTuple

from catalog.ground.errors import BadRequest
from marketplace.vouchers.terms import Facts, FactValue

Kind = Literal["text", "flag", "number", "date", "region", "set"]
"""`date` is `YYYY-MM-DD` in Beijing time, `region` an administrative code of GB/T 2260 (a province is
its first two digits, a city four, a district six), `set` a set of texts."""

VOCABULARY: dict[str, tuple[Kind, str]] = {
    "org.region": ("region", "where the organisation is registered"),
    "org.status": ("text", "active, suspended or closed"),
    "org.kind": ("text", "enterprise, university, institute, individual"),
    "org.size": ("text", "micro, small, medium or large"),
    "org.is_opc": ("flag", "a one-person company"),
    "org.is_startup": ("flag", "within the years that its programme calls a start-up"),
    "org.legal_person": ("flag", "has legal personality of its own"),
    "org.incubators": ("set", "listed incubators and parks it is a resident of"),
    "org.industries": ("set", "industries and directions it is registered or approved for"),
    "org.dishonest_3y": ("flag", "on a list of serious dishonesty within three years"),
    "org.credit_checked": ("flag", "has passed the operator's credit check"),
    "org.subsidies": ("set", "classes of other public subsidies it draws for the same purpose"),
    "org.rd_spend_u": ("number", "research and development spend of the last year, micro-yuan"),
    "org.on_selected_list": ("flag", "selected by the programme office"),
    "contract.signed_on": ("date", "when the contract was signed"),
    "contract.months": ("number", "its term in months, begun months count whole"),
    "contract.amount_u": ("number", "its amount, micro-yuan"),
    "contract.paid": ("flag", "paid in full"),
    "contract.subsidised_before": ("flag", "named in another claim on public money"),
    "contract.supplier_related": ("flag", "its two parties are related"),
    "contract.subject": ("text", "what it buys: model, agent, compute, corpus or service"),
    "contract.listing": ("text", "the listing that it buys, by its slug"),
    "contract.channels": ("set", "platforms and exchanges that it went through"),
    "contract.claimed_by": ("text", "demander or provider, whoever claimed on it first"),
    "listing.kind": ("text", "model, agent, compute or corpus"),
    "listing.filing_status": ("text", "filed, registered, pending, none"),
    "listing.shelves": ("set", "approved shelves that the listing stands on"),
    "listing.directions": ("set", "industries and tasks that it serves"),
    "listing.charge": ("text", "what is charged for: tokens, compute, storage, network, security"),
    "listing.quota_class": ("text", "the class whose quotas pay for it"),
    "listing.self_owned": ("flag", "the caller owns it"),
    "listing.related_party": ("flag", "its owner and the caller are related"),
    "provider.admitted": ("set", "programmes that admitted the provider"),
    "provider.licences": ("set", "telecommunications licences, such as idc and isp"),
    "provider.pflops": ("number", "compute in operation, PFLOPS at FP16"),
    "provider.tokens_per_day": ("number", "tokens served a day, mean of the last month"),
    "provider.clients": ("number", "organisations served"),
    "provider.local_clients": ("number", "organisations served in the funder's region"),
    "cluster.region": ("region", "where the compute stands"),
    "cluster.chip_origin": ("text", "domestic or foreign"),
    "cluster.metering_log": ("flag", "keeps metering logs that an auditor can read"),
}


def kind_of(fact: str) -> Kind:
    """Return the kind of a fact; BadRequest with the nearest name if there is no such fact."""
    if fact in VOCABULARY:
        return VOCABULARY[fact][0]
    near = get_close_matches(fact, VOCABULARY, 1)
    raise BadRequest(
        f"{fact!r} is not a fact that a programme can ask about.",
        rule="predicate.fact",
        param=fact,
        remedy=f"Did you mean {near[0]!r}?" if near else "See marketplace.vouchers.facts.",
    )


class DatedFact(NamedTuple):
    """A fact with the time it holds: from `valid_from_us` on, before `valid_to_us` (None: still)."""

    key: str
    value: FactValue
    valid_from_us: int
    valid_to_us: int | None = None


def facts_at(dated: Iterable[DatedFact], at_us: int) -> Facts:
    """Return what holds at the instant. Sets join; of other values, the one that began last holds."""
    facts: dict[str, FactValue] = {}
    for fact in sorted(dated, key=lambda fact: fact.valid_from_us):
        if fact.valid_from_us <= at_us and (fact.valid_to_us is None or at_us < fact.valid_to_us):
            held = facts.get(fact.key)
            if isinstance(held, frozenset) and isinstance(fact.value, frozenset):
                facts[fact.key] = held | fact.value
            else:
                facts[fact.key] = fact.value
    return facts
