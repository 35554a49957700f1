"""Plant bugs in a copy of the house, one at a time: the ledger's tests must notice each of them.

    make prove-ledger-mutants [DURATION_S=600] [SEED=1]

A mutant is a bug that somebody could really write: a line in one file, replaced. Its tests stop at the
first failure. With DURATION_S no new mutant is begun after so many seconds. Exit 1 when one survives, or
when a mutant's line is no longer there: then this list is out of date.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LEDGER = (
    "tests/marketplace/ledger/test_holds.py",
    "tests/marketplace/ledger/test_posts.py",
    "tests/marketplace/ledger/test_charges.py",
    "tests/marketplace/ledger/test_batches.py",
    "tests/marketplace/ledger/test_machine.py",
    "tests/marketplace/ledger/test_writer.py",
    "tests/marketplace/ledger/test_remembered.py",
    "tests/marketplace/ledger/test_verify.py",
    "tests/marketplace/ledger/test_archive.py",
)
MACHINE = (
    "tests/marketplace/ledger/test_machine.py",
    "tests/marketplace/vouchers/test_waterfall.py",
    "tests/marketplace/vouchers/test_split.py",
    "tests/marketplace/prices/test_components.py",
)
CHARGES = (
    "tests/marketplace/ledger/test_charges.py",
    "tests/marketplace/ledger/test_batches.py",
    "tests/marketplace/ledger/test_charge_readers.py",
)
WALK = ("tests/marketplace/ledger/test_machine.py",)
"""The walk alone: what only its rules for links, caps, payouts and statements can catch."""
_LIMIT_S = 400
_WORKERS = 2


class Mutant(NamedTuple):
    """A bug: in `path`, `old` (there once) becomes `new`."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...] = LEDGER


JOURNAL = "marketplace/ledger/journal.py"
DIALECT = "marketplace/ledger/dialect_sqlite.py"
WRITER = "marketplace/ledger/writer.py"
MUTANTS = (
    Mutant(
        "settling does not release the rest",
        JOURNAL,
        "            row[_DR_PENDING] -= amount\n",
        "            row[_DR_PENDING] -= posted\n",
    ),
    Mutant(
        "more is posted than was held",
        JOURNAL,
        "if not 0 <= posted <= amount:",
        "if posted < 0:",
    ),
    Mutant(
        "an ended hold stays open, and expires again",
        DIALECT,
        '"DELETE FROM ledger_hold WHERE tx IN (SELECT value FROM json_each(?)) RETURNING tx, legs"',
        '"SELECT tx, legs FROM ledger_hold WHERE tx IN (SELECT value FROM json_each(?))"',
    ),
    Mutant(
        "an ended hold of one's own stays open",
        DIALECT,
        '"DELETE FROM ledger_hold WHERE tx IN ({})"',
        '"UPDATE ledger_hold SET tx=tx WHERE tx IN ({})"',
    ),
    Mutant(
        "what others have booked is not seen",
        DIALECT,
        "version is None or version != self._version or",
        "self._lane is None or",
    ),
    Mutant(
        "a hold that others ended is settled all the same",
        DIALECT,
        "            if not gone:\n                return {}\n",
        "            if not gone:\n                return own\n",
    ),
    Mutant(
        "of several holds that others ended one is settled all the same",
        DIALECT,
        "            if gone == len(own):\n",
        "            if gone:\n",
    ),
    Mutant(
        "what was rolled back is remembered",
        DIALECT,
        "        self._lane, self._version, self._promised = None, None, {}\n",
        "",
    ),
    Mutant(
        "a lane stays where it was",
        "marketplace/migrations/versions/0012_ledger.py",
        "next_batch = NEW.n + 1",
        "next_batch = NEW.n",
    ),
    Mutant(
        "a hold ignores what others hold",
        JOURNAL,
        "return row[_CR_POSTED] - row[_DR_POSTED] - row[_DR_PENDING]",
        "return row[_CR_POSTED] - row[_DR_POSTED]",
    ),
    Mutant(
        "two legs on one account are checked one by one",
        JOURNAL,
        'rule="ledger.amount")\n            wanted[account_id] = wanted.get(account_id, 0) + amount',
        'rule="ledger.amount")\n            wanted[account_id] = amount',
    ),
    Mutant(
        "a hold may take one micro-yuan too much",
        JOURNAL,
        "if amount > self._available[account_id]:",
        "if amount > self._available[account_id] + 1:",
    ),
    Mutant(
        "a charge takes what others hold",
        JOURNAL,
        "        self._check_left(wanted)\n        # From here",
        "        # From here",
        CHARGES,
    ),
    Mutant(
        "the last micro-yuan is nobody's",
        JOURNAL,
        "if amount > self._available[account_id]:",
        "if amount >= self._available[account_id]:",
        CHARGES,
    ),
    Mutant(
        "two legs of a charge are checked one by one",
        JOURNAL,
        'from account {account_id}.")\n            wanted[account_id] = wanted.get(account_id, 0) + amount',
        'from account {account_id}.")\n            wanted[account_id] = amount',
        CHARGES,
    ),
    Mutant(
        "a charge is paid by whoever has no balance",
        JOURNAL,
        "if amount < 0 or account_id not in self._totals:",
        "if amount < 0:",
        CHARGES,
    ),
    Mutant(
        "reserves shrink after a charge was checked",
        JOURNAL,
        "        for each in op.reholds:\n            self._rehold(each)\n",
        "        for each in op.reholds:\n"
        "            self._check_left({leg[0]: leg[1] for leg in op.legs})\n"
        "            self._rehold(each)\n",
        CHARGES,
    ),
    Mutant(
        "a charge that is known leaves its reserve without its row",
        JOURNAL,
        "        for each in op.reholds:\n            self._rehold(each)\n",
        "        for each in op.reholds if op.usage[0] not in self._known else ():\n"
        "            self._rehold(each)\n",
        CHARGES,
    ),
    Mutant(
        "a charge does not take the rows of the reserves it shrinks",
        JOURNAL,
        "ending += [each.tx for each in op.reholds]  # type: ignore[union-attr]",
        "pass",
        CHARGES,
    ),
    Mutant(
        "what a charge takes stays in clearing",
        JOURNAL,
        "if through := self._entries(tx, [*uses, *op.entries], at_us):",
        "if through := 0 * self._entries(tx, [*uses, *op.entries], at_us):",
        CHARGES,
    ),
    Mutant(
        "a charge's legs come behind its entries",
        JOURNAL,
        "[*uses, *op.entries]",
        "[*op.entries, *uses]",
        CHARGES,
    ),
    Mutant(
        "a charge has no event",
        JOURNAL,
        "        self._events.append((*op.usage, self._lane, self._next_seq))\n"
        "        self._next_seq += 1\n",
        "",
        CHARGES,
    ),
    Mutant(
        "a charge counts twice in one batch",
        JOURNAL,
        "        self._known.add(op.usage[0])\n",
        "",
        CHARGES,
    ),
    Mutant(
        "a release or rehold leaves it promised",
        JOURNAL,
        "            self._totals[account_id][_DR_PENDING] -= amount\n",
        "",
        CHARGES,
    ),
    Mutant(
        "a promise is not written to its account",
        JOURNAL,
        "            totals[account_id][_DR_PENDING] += amount\n"
        "            self._changed.add(account_id)\n",
        "            totals[account_id][_DR_PENDING] += amount\n",
        CHARGES,
    ),
    Mutant(
        "more is reheld than was held",
        JOURNAL,
        "if len(held) != 1 or not 0 <= op.amount <= held[0][1]:",
        "if len(held) != 1:",
        CHARGES,
    ),
    Mutant(
        "all is reheld",
        JOURNAL,
        "legs = (Leg(account_id, op.amount, sink_id),)",
        "legs = (Leg(account_id, held[0][1], sink_id),)",
        CHARGES,
    ),
    Mutant(
        "of several legs one is reheld",
        JOURNAL,
        "if len(held) != 1 or not 0 <= op.amount <= held[0][1]:",
        "if held and not 0 <= op.amount <= held[0][1]:",
        CHARGES,
    ),
    Mutant(
        "what is reheld goes to clearing whatever its unit",
        JOURNAL,
        "legs = (Leg(account_id, op.amount, sink_id),)",
        "legs = (Leg(account_id, op.amount, self._clearing),)",
        CHARGES,
    ),
    Mutant(
        "what is reheld expires at once",
        JOURNAL,
        'legs, "{}", op.at_us, op.expires_at_us)',
        'legs, "{}", op.at_us, op.at_us)',
        CHARGES,
    ),
    Mutant(
        "a batch does not see the reserves that it makes",
        JOURNAL,
        "if held is None and tx in self._promised:",
        "if False:",
        CHARGES,
    ),
    Mutant(
        "a reserve that was made and ended in a batch stays open",
        JOURNAL,
        "            self._holds = [row for row in self._holds if row[0] != tx]\n",
        "",
        CHARGES,
    ),
    Mutant(
        "a reserve that was made and ended in a batch ends twice",
        JOURNAL,
        "held = self._promised.pop(tx)\n",
        "held = self._promised[tx]\n",
        CHARGES,
    ),
    Mutant(
        "reserves from a clock that was ahead stay",
        "marketplace/ledger/sweep.py",
        'col(Hold.tx).startswith("res_", autoescape=True)',
        'col(Hold.tx).startswith("gen_", autoescape=True)',
        CHARGES,
    ),
    Mutant(
        "nobody paid for what was charged",
        "marketplace/ledger/reading.py",
        "and_(col(Transfer.kind) == int(Kind.POSTED), col(Transfer.code) == int(Code.USE)),",
        "and_(col(Transfer.kind) == int(Kind.VOID), col(Transfer.code) == int(Code.USE)),",
        CHARGES,
    ),
    Mutant(
        "the audit knows settled legs only",
        "marketplace/reports/audit.py",
        "_PAYS = (Kind.POST.name, Kind.POSTED.name)",
        "_PAYS = (Kind.POST.name,)",
        CHARGES,
    ),
    Mutant(
        "a description knows settled legs only",
        "marketplace/gateway/endpoints.py",
        "t.kind IN (1, 3)",
        "t.kind = 3",
        CHARGES,
    ),
    Mutant(
        "money may stay in clearing",
        JOURNAL,
        "        if through:\n",
        "        if False:\n",
    ),
    Mutant(
        "a post counts each time it is sent",
        JOURNAL,
        "        if op.tx in self._known:\n            return _UNCHANGED\n",
        "",
    ),
    Mutant(
        "a settlement counts twice in one batch",
        JOURNAL,
        "        self._known.add(usage[0])\n",
        "",
    ),
    Mutant(
        "a void changes the balance and writes no row",
        JOURNAL,
        "            self._transfers.append((lane, self._next_seq, tx, index, *what))\n",
        "            if kind == _VOID:\n                continue\n"
        "            self._transfers.append((lane, self._next_seq, tx, index, *what))\n",
    ),
    Mutant(
        "a row is written and the balance is not",
        JOURNAL,
        "totals[credit_id][_CR_POSTED] += amount",
        "totals[credit_id][_CR_POSTED] += 0",
    ),
    Mutant(
        "debit totals are those before the row",
        JOURNAL,
        "debit_total = row[_DR_POSTED]\n",
        "debit_total = row[_DR_POSTED] - amount\n",
    ),
    Mutant(
        "the chain skips usage events",
        "marketplace/ledger/chain.py",
        "(previous.encode(), transfers, events)",
        "(previous.encode(), transfers)",
    ),
    Mutant(
        "the chain forgets the link before",
        "marketplace/ledger/chain.py",
        "(previous.encode(), transfers, events)",
        "(transfers, events)",
    ),
    Mutant(
        "the sweeper expires holds that are still good",
        "marketplace/ledger/sweep.py",
        "expires_at_us) <= at_us)",
        "expires_at_us) > at_us)",
    ),
    Mutant(
        "one bad operation spoils its batch",
        WRITER,
        "        if len(operations) == 1:\n            return [_meaning(error)]\n",
        "        if operations:\n            return [_meaning(error)] * len(operations)\n",
    ),
    Mutant(
        "a batch that may be committed is not asked for",
        WRITER,
        "        if self._unseen is None or self._dialect is None:\n",
        "        if True:\n",
    ),
    Mutant(
        "an archived post counts again",
        DIALECT,
        '"SELECT tx FROM ledger_archived_tx WHERE tx IN (SELECT value FROM json_each(?1))"',
        '"SELECT tx FROM ledger_archived_tx WHERE tx IN (SELECT value FROM json_each(?1)) AND 0"',
    ),
    Mutant(
        "an archive forgets promises that reach over its cut",
        "marketplace/ledger/archive.py",
        "open=halves(replay),",
        "open=[],",
    ),
    Mutant(
        "related parties are subsidised",
        "marketplace/vouchers/waterfall.py",
        "if grant.blocks_related_party and facts",
        "if False and facts",
        MACHINE,
    ),
    Mutant(
        "owners are subsidised for their own listing",
        "marketplace/vouchers/waterfall.py",
        "if grant.blocks_self_owned and facts",
        "if False and facts",
        MACHINE,
    ),
    Mutant(
        "the total cap is ignored",
        "marketplace/vouchers/ladder.py",
        "                    if room < amount:\n                        amount = room\n",
        "",
        MACHINE,
    ),
    Mutant(
        "an exclusive class pays twice",
        "marketplace/vouchers/ladder.py",
        "            taken |= takes\n",
        "",
        MACHINE,
    ),
    Mutant(
        "a subsidy is rounded half up",
        "marketplace/vouchers/plan.py",
        "            want = base * ratio // WHOLE_BP\n",
        "            want = (base * ratio + WHOLE_BP // 2) // WHOLE_BP\n",
        MACHINE,
    ),
    Mutant(
        "each bucket is rounded for itself",
        "marketplace/prices/components.py",
        "numerator = used.input_uncached * input_rate + used.output * output_rate",
        "numerator = RATE_TOKENS * (round_cost_u(used.input_uncached * input_rate)"
        " + round_cost_u(used.output * output_rate))",
        MACHINE,
    ),
    Mutant(
        "funders are split by the largest deficit",
        "marketplace/vouchers/split.py",
        "pick = min(due, key=lambda i: ((counts[i] * grain + grain - 1) / shares_bp[i], i))",
        "pick = max(paying, key=lambda i: position * shares_bp[i] - counts[i] * WHOLE_BP)",
        MACHINE,
    ),
    Mutant(
        "the caller's own part is not held",
        "marketplace/gateway/money.py",
        "        if wallet_u and plan.wallet_account_id is not None:\n            legs.append",
        "        if False and plan.wallet_account_id is not None:\n            legs.append",
        MACHINE,
    ),
    Mutant(
        "the estimate is charged, not the use",
        "marketplace/gateway/money.py",
        "end = replay(self.plan, price_u, used.total)",
        "end = replay(self.plan, self.plan.cost_u, used.total)",
        MACHINE,
    ),
    Mutant(
        "caps count nothing",
        "marketplace/vouchers/granting.py",
        "    _count(session, order, grant, backed.parts)\n",
        "",
        MACHINE,
    ),
    Mutant(
        "a leg is claimed twice",
        "marketplace/vouchers/claim_lines.py",
        " and (item.event_id, item.leg, item.refund_id) not in live",
        "",
        MACHINE,
    ),
    Mutant(
        "what lapses goes back to whoever is first",
        "marketplace/vouchers/returning.py",
        "split.between(issued - amount, issued)",
        "split.between(0, amount)",
        MACHINE,
    ),
    Mutant(
        "a refund revives a lapsed voucher",
        "marketplace/vouchers/refunds.py",
        "        if _is_over(grant, made.at_us):\n            lapses",
        "        if False:\n            lapses",
        MACHINE,
    ),
    Mutant(
        "the whole refund goes to the wallet",
        "marketplace/vouchers/refunds.py",
        "            targets.append((back.leg.account_id, back.amount_u))\n",
        "            targets.append((own, back.amount_u))\n",
        MACHINE,
    ),
    Mutant(
        "vouchers get their money back before the caller",
        "marketplace/vouchers/parts.py",
        "for part in reversed(parts):",
        "for part in parts:",
        MACHINE,
    ),
    Mutant(
        "more is refunded than was paid",
        "marketplace/vouchers/refunds.py",
        "    if amount_u > left_u:\n",
        "    if amount_u > paid_u:\n",
        MACHINE,
    ),
    Mutant(
        "only direct links make related parties",
        "marketplace/members/related.py",
        "                queue.append(other)\n",
        "",
        WALK,
    ),
    Mutant(
        "a link that has ended still counts, and one that has not begun",
        "marketplace/members/related.py",
        "in_force = link.from_us <= at_us and (link.to_us is None or at_us < link.to_us)",
        "in_force = True",
        WALK,
    ),
    Mutant(
        "a holding of a quarter has no influence",
        "marketplace/members/related.py",
        "link.holding_bp >= influence_bp",
        "link.holding_bp > influence_bp",
        WALK,
    ),
    Mutant(
        "a group's cap is each programme's own",
        "marketplace/vouchers/caps.py",
        'scope = f"group:{cap.group}" if cap.group else programme.rules.code',
        "scope = programme.rules.code",
        WALK,
    ),
    Mutant(
        "what lapses leaves no room under its caps",
        "marketplace/vouchers/returning.py",
        "            row.returned_u += part\n",
        "",
        WALK,
    ),
    Mutant(
        "a free call that produced nothing counts as one",
        "marketplace/vouchers/plan.py",
        "        elif left:\n            amount, covered = (1 if unit == REQ",
        "        else:\n            amount, covered = (1 if unit == REQ",
        WALK,
    ),
    Mutant(
        "a published programme can be written over",
        "marketplace/vouchers/programmes.py",
        "    if known is not None and known.state != DRAFT:\n        return _same(known, sealed)\n    made",
        "    made",
        WALK,
    ),
    Mutant(
        "a price reaches back",
        "marketplace/prices/service.py",
        "    if known and effective_from_us < at_us:\n",
        "    if False:\n",
        WALK,
    ),
    Mutant(
        "voucher money is paid out before its funder has paid",
        "marketplace/payouts/accruals.py",
        'and rules.payout_on == "funder_settled"',
        'and rules.payout_on == "usage"',
        WALK,
    ),
    Mutant(
        "shares mature at once",
        "marketplace/payouts/accruals.py",
        "until_us - 1, until_us + MATURITY_US",
        "until_us - 1, until_us",
        WALK,
    ),
    Mutant(
        "shares mature under review",
        "marketplace/payouts/accruals.py",
        "if net_u < 0 or is_held(session, org_id):",
        "if net_u < 0:",
        WALK,
    ),
    Mutant(
        "a payout is approved under review",
        "marketplace/payouts/service.py",
        "    if is_held(session, row.org_id):\n",
        "    if False:\n",
        # The walk meets it only now and then: a hold between two steps of one payout.
        (*WALK, "tests/marketplace/payouts/test_payouts.py"),
    ),
    Mutant(
        "owners keep what was refunded",
        "marketplace/payouts/accruals.py",
        "    _accrue_refunds(session, terms)\n",
        "",
        WALK,
    ),
    Mutant(
        "a refund takes the fee from the owner",
        "marketplace/vouchers/refunds.py",
        "    owner_u = sum(call.priced.owner_u(b.low_u, b.low_u + b.amount_u) for b in backs)\n",
        "    owner_u = amount_u\n",
        WALK,
    ),
    Mutant(
        "owners keep what a funder refused",
        "marketplace/payouts/accruals.py",
        "    _accrue_refused(session, terms, at_us)\n",
        "",
        WALK,
    ),
    Mutant(
        "owners keep what a funder took back",
        "marketplace/payouts/accruals.py",
        "    _accrue_clawbacks(session, terms)\n",
        "",
        WALK,
    ),
    Mutant(
        "a refused line pays its owner",
        "marketplace/payouts/accruals.py",
        '_lines(session, claim.id, ("allowed", "clawed_back"))',
        '_lines(session, claim.id, ("allowed", "clawed_back", "disallowed"))',
        WALK,
    ),
    Mutant(
        "a day is added up before it is over",
        "marketplace/payouts/accruals.py",
        "        if end_us + LATE_US > at_us:\n",
        "        if end_us > at_us + 12 * HOUR_US:\n",
        WALK,
    ),
    Mutant(
        "a statement misses what was refunded",
        "marketplace/payouts/accruals.py",
        '_negative(session, {refund.owner_org: sums}, "refund", refund.id, refund.at_us)',
        '_negative(session, {refund.owner_org: sums}, "refund", refund.id, refund.at_us + 31 * DAY_US)',
        WALK,
    ),
    Mutant(
        "a statement is told before its month is added up",
        "marketplace/payouts/statements.py",
        "    accrue(session, at_us)\n",
        "",
        WALK,
    ),
    Mutant(
        "a statement forgets payouts that came back",
        "marketplace/payouts/statements.py",
        """row.amount_u for row in payouts if row.state == "reversed" and within""",
        """row.amount_u for row in payouts if row.state == "back" and within""",
        WALK,
    ),
    Mutant(
        "a statement opens with the month's own movements",
        "marketplace/payouts/statements.py",
        "opening = _available(accruals, payouts, 0, from_us)",
        "opening = _available(accruals, payouts, 0, until_us)",
        WALK,
    ),
    Mutant(
        "a payout that comes back stays away",
        "marketplace/payouts/service.py",
        "entry = Entry(Code.PAYOUT_REVERSE, source, available, row.amount_u)",
        "entry = Entry(Code.PAYOUT_REVERSE, source, available, row.amount_u - 1)",
        WALK,
    ),
    Mutant(
        "who prepared a payout may approve it",
        "marketplace/payouts/service.py",
        '    two_persons(by, row.prepared_by, what="payout")\n    if is_held',
        "    if is_held",
        WALK,
    ),
    Mutant(
        "a payment file asks again for what went out",
        "marketplace/payouts/files.py",
        "    ready = payouts(session, state=APPROVED)\n",
        '    ready = [*payouts(session, state=APPROVED), *payouts(session, state="exported")]\n',
        (*WALK, "tests/marketplace/payouts/test_payouts.py"),
    ),
    Mutant(
        "a reimbursement is paid whoever has refunded it",
        "marketplace/vouchers/refunds.py",
        "        due_u = max(0, min(amount_u, settled_u))\n",
        "        due_u = 0\n",
        WALK,
    ),
    Mutant(
        "a clawback leaves a leg's refunds alone",
        "marketplace/vouchers/claims.py",
        "        if other.refund_id and other.state == ALLOWED\n",
        "        if False\n",
        WALK,
    ),
    Mutant(
        "a funder gets back what it has not paid",
        "marketplace/vouchers/claim_lines.py",
        "        and not (item.refund_id and (item.event_id, item.leg) in undecided)\n",
        "",
        ("tests/marketplace/vouchers/test_refund_under_audit.py", *WALK),
    ),
    Mutant(
        "claims forget refunds of calls that were archived",
        "marketplace/vouchers/claimable.py",
        "        return Priced(row.covered_u, row.covered_u - row.owner_u), 0\n",
        "        raise LookupError\n",
        WALK,
    ),
)


def _tree(folder: Path) -> None:
    """Make a house whose `marketplace` may be changed; the rest is linked."""
    for entry in ROOT.iterdir():
        if entry.name in ("marketplace", "build", ".git", ".hypothesis") or entry.name.startswith(
            ".hypothesis"
        ):
            continue
        (folder / entry.name).symlink_to(entry)
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "marketplace", folder / "marketplace", ignore=skipped)


def _pytest(folder: Path, tests: tuple[str, ...], seed: int) -> tuple[int, str]:
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
        "-k", "not postgresql and not terminated", f"--hypothesis-seed={seed}", *tests,
    ]  # fmt: skip
    environment = os.environ | {
        "LEDGER_EXAMPLES": "25", "LEDGER_STEPS": "30", "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=_LIMIT_S, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return 1, "ran too long"
    return done.returncode, done.stdout


def _judge(mutant: Mutant, folder: Path, seed: int) -> tuple[str, str]:
    """Return (caught | survived | stale | broken, by what)."""
    path = folder / mutant.path
    source = path.read_text()
    if source.count(mutant.old) != 1:
        return "stale", f"its line is there {source.count(mutant.old)} times"
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        compile(path.read_text(), mutant.path, "exec")
        code, output = _pytest(folder, mutant.tests, seed)
    finally:
        path.write_text(source)
    if code == 0:
        return "survived", ""
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not any("::" in line for line in failed) and output != "ran too long":
        return "broken", output[-500:]
    return "caught", failed[0].partition(" - ")[0].rpartition("::")[2] if failed else output[-200:]


def main() -> None:
    """Run them all; see the module's own words."""
    parser = argparse.ArgumentParser(prog="ledger_mutants")
    parser.add_argument("only", nargs="*", help="run mutants whose name contains one of these")
    arguments = parser.parse_args()
    seed = int(os.environ.get("SEED") or 1)
    duration_s = float(os.environ.get("DURATION_S") or 0)
    chosen = [m for m in MUTANTS if not arguments.only or any(o in m.name for o in arguments.only)]
    if duration_s:
        random.Random(seed).shuffle(chosen)
    deadline = time.monotonic() + duration_s if duration_s else float("inf")
    with tempfile.TemporaryDirectory(prefix="tm-mutants-") as temporary:
        trees: Queue[Path] = Queue()
        for number in range(_WORKERS):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            _tree(folder)
            trees.put(folder)
        if not arguments.only:
            _sane(trees, seed)

        def run(mutant: Mutant) -> tuple[Mutant, str, str]:
            if time.monotonic() > deadline:
                return mutant, "not run", ""
            folder = trees.get()
            try:
                began = time.monotonic()
                verdict, by = _judge(mutant, folder, seed)
            finally:
                trees.put(folder)
            print(
                f"{verdict:9} {mutant.name:55} {time.monotonic() - began:5.1f} s  {by}", flush=True
            )
            return mutant, verdict, by

        with ThreadPoolExecutor(_WORKERS) as pool:
            results = list(pool.map(run, chosen))
    ran = [result for result in results if result[1] != "not run"]
    caught = sum(verdict == "caught" for _, verdict, _ in ran)
    print(f"{caught} of {len(ran)} planted bugs were caught (seed {seed}; {len(results)} listed)")
    sys.exit(caught != len(ran) or not ran)


def _sane(trees: Queue[Path], seed: int) -> None:
    """Without a bug everything passes, and it is the copy that is tested."""
    folder = trees.queue[0]
    where = subprocess.run(
        [sys.executable, "-c", "import marketplace; print(marketplace.__file__)"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(folder)), where.stdout
    code, output = _pytest(folder, tuple(dict.fromkeys(LEDGER + MACHINE)), seed)
    if code:
        sys.exit(f"The tests fail without any planted bug:\n{output[-3000:]}")


if __name__ == "__main__":
    main()
