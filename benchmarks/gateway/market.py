"""A marketplace with one listing, one caller's key and money, set up as an operator does: by `tokenmart`.

Two ways to pay. *One voucher*: a programme of three funders pays every call in full. *Waterfall*: the free
quota, then a voucher of the platform's that pays 20 %, then a voucher of three funders that pays half of
what is left, then the caller's wallet. A free quota always pays in full, so the only call that draws on it
beside others is the one that uses it up; here it is used up by the first, and every later call looks at it
and then has three legs: two vouchers and the wallet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gateway.errors import Refused
from benchmarks.gateway.install import ROOT

LISTING = "tokenmart/bench"
ORG = "bench"
_LISTING = """\
tier = "park"
title_zh = "测量"
title_en = "For measuring"
summary_zh = "测量网关用。"
summary_en = "For measuring the gateway."
card_zh = "测量网关用。"
card_en = "For measuring the gateway."
vertical = "general"
tasks = ["text-generation"]
languages = ["zh"]
licence = "Apache-2.0"
context_length = 131072
max_output_tokens = 4096
"""
_PRICE = {"input_u_per_m": 10_000_000, "output_u_per_m": 20_000_000}
_YUAN = "100000"
# Many commands in one process, each as `tokenmart` runs it: a process for each would take half a minute.
_COMMANDS = """
import contextlib, io, json, sys
from marketplace.cli import main
told = []
for words in json.load(sys.stdin):
    sys.argv[1:], code, said = words, 0, io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    if code:
        sys.exit(f"tokenmart {' '.join(words)} ended with {code}")
    told.append(said.getvalue())
print(json.dumps(told))
"""
# There is no command that books a bank transfer into a wallet, and a benchmark must not import the
# marketplace: a process of its own does it.
_TOP_UP = """
import sys
from catalog.ground.clock import now_us
from marketplace.ledger.accounts import account_id, apply_now, open_account
from marketplace.ledger.chart import BANK, Code, Rule, wallet
from marketplace.ledger.operations import Entry, Post
from marketplace.members.organisations import organisation
from marketplace.settings import Settings
with Settings().database.session() as session:
    to = open_account(session, wallet(organisation(session, sys.argv[1]).id), Rule.DEBITS_WITHIN_CREDITS)
    entry = Entry(Code.TOPUP, account_id(session, BANK), to, int(sys.argv[2]) * 1_000_000)
    apply_now(session, Post("bench:top-up", (entry,), now_us()))
"""


def _programme(code: str, kind: str, funders: dict[str, int], **more: Any) -> dict[str, Any]:
    return {
        "code": code,
        "version": 1,
        "title_zh": code,
        "title_en": code,
        "kind": kind,
        "mode": "instant",
        "claimant": "platform",
        "funders": [{"funder": f, "level": f, "share_bp": bp} for f, bp in funders.items()],
        "budget": {"total_u": None},
        **more,
    }


def _voucher(code: str, funders: dict[str, int], ratio_bp: int, priority: int) -> dict[str, Any]:
    stacking = {"stack_class": code, "rule": "stack", "priority": priority}
    window = {"grant_ttl_days": 365}
    subsidy = {"ratio_bp": ratio_bp}
    return _programme(code, "token", funders, window=window, subsidy=subsidy, stacking=stacking)


_THREE = {"province": 5000, "city": 3000, "district": 2000}
_ALL = _voucher("bench-all", _THREE, 10_000, 100)
_FIFTH = _voucher("bench-fifth", {"platform": 10_000}, 2000, 10)
_HALF = _voucher("bench-half", _THREE, 5000, 100)
_FREE = _programme(
    "bench-free",
    "free_quota",
    {"platform": 10_000},
    subsidy={"ratio_bp": 10_000},
    quota={"unit": "CNY", "amount": 1, "recurrence": "day"},
    stacking={"stack_class": "free", "rule": "stack", "priority": 0},
)


@dataclass(frozen=True)
class Market:
    """A data directory that is ready to be served, and who may call."""

    folder: Path
    environment: dict[str, str]
    key: str

    def run(self, *commands: Sequence[str]) -> list[str]:
        """Run `tokenmart` commands against this marketplace; return what each prints on stdout."""
        told: list[str] = json.loads(self.python(_COMMANDS, given=json.dumps(commands)))
        return told

    def python(self, code: str, *arguments: str, given: str = "") -> str:
        """Run a piece of Python beside this marketplace and return what it prints on stdout."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Refused(f"the marketplace cannot be set up: {done.stderr[-800:].strip()}")
        return done.stdout

    def legs(self) -> int:
        """Return how many accounts paid for the newest call."""
        (newest,) = self.run(["usage", "--org", ORG, "--limit", "1", "--format", "json"])
        return len(json.loads(newest)[0]["paid_by"])


def open_market(folder: Path, upstream: str, *, waterfall: bool, database_url: str = "") -> Market:
    """Make the marketplace in `folder`; its listing is answered by `upstream`."""
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENMART_")}
    # Without a database of its own the marketplace keeps SQLite in its folder, as on a user's machine.
    given = {
        "TOKENMART_DATA_DIR": str(folder / "data"),
        "TOKENMART_DATABASE_URL": database_url,
        # One organisation makes all calls here, so its limits must not be what is measured.
        "TOKENMART_ORG_RPM": "0",
        "TOKENMART_ORG_CONCURRENCY": "0",
    }
    market = Market(folder, {**kept, **given, "PYTHONPATH": str(ROOT)}, "")
    limits = ["--rpm", "1000000000", "--concurrency", "100000"]
    *_, made = market.run(
        ["init"],
        *_shelf(folder, upstream),
        ["org", "create", ORG, "Bench"],
        *_money(folder, [_FREE, _FIFTH, _HALF] if waterfall else [_ALL]),
        ["key", "create", ORG, *limits, "--format", "json"],
    )
    if waterfall:
        market.python(_TOP_UP, ORG, _YUAN)
    return replace(market, key=json.loads(made)[0]["key"])


def _shelf(folder: Path, upstream: str) -> list[list[str]]:
    """Return the commands that put the listing on the shelf, price it and route it."""
    draft = _file(folder, "listing.toml", _LISTING)
    price = _file(folder, "price.json", json.dumps(_PRICE))
    reason = ["--reason", "measuring"]
    return [
        ["listing", "init", LISTING, "--from", draft, "--by", "developer"],
        ["listing", "submit", LISTING, "--by", "developer"],
        ["listing", "override", LISTING, "--by", "operator", *reason],
        ["listing", "publish", LISTING, "--by", "operator"],
        ["price", "publish", LISTING, "--file", price, *reason, "--yes"],
        ["endpoint", "add", LISTING, upstream, "--model", "mock"],
    ]


def _money(folder: Path, programmes: list[dict[str, Any]]) -> list[list[str]]:
    """Return the commands that publish the programmes and give the caller their vouchers."""
    commands = []
    for rules in programmes:
        code = str(rules["code"])
        commands.append(["programme", "publish", _file(folder, f"{code}.json", json.dumps(rules))])
        if rules["kind"] == "token":
            commands.append(["voucher", "issue", ORG, _YUAN, "--programme", code, "--appropriate"])
    return commands


def _file(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    return str(folder / name)
