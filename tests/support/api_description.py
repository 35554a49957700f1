"""schemathesis over the API description of a running marketplace."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.market import Market

from catalog.ground.clock import now_us
from marketplace.members.keys import create_key

ROOT = Path(__file__).resolve().parents[2]
_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
_EXAMPLES = 12


def check_description(market: Market, seed: int) -> list[str]:
    """Run schemathesis with both kinds of key, good and bad data alike; return what it found."""
    made = subprocess.run(
        ["make", "--no-print-directory", "toolchain-schemathesis"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    if made.returncode:
        return ["schemathesis could not be installed: make toolchain-schemathesis"]
    org, ordinary = market.organisation(voucher_u=1_000_000)
    database = market.database
    with database.session() as session:
        operator = create_key(session, org, "op", now_us(), operator=True)[1]
    database.dispose()
    failures = []
    for name, key in (("an operator", operator), ("an ordinary key", ordinary)):
        command = [
            str(ROOT / ".toolchains/schemathesis/bin/st"),
            "run",
            f"{market.url}/openapi.json",
        ]
        options = {
            "--header": f"Authorization: Bearer {key}",
            "--checks": _CHECKS,
            "--phases": "coverage,fuzzing",
            "--max-examples": str(_EXAMPLES),
            "--seed": str(seed),
            "--suppress-health-check": "all",
            "--request-timeout": "30",
        }
        flags = [word for pair in options.items() for word in pair]
        ran = subprocess.run(
            [*command, *flags, "--continue-on-failure", "--no-shrink", "--no-color"],
            cwd=market.data_dir,
            capture_output=True,
            text=True,
        )
        told = ran.stdout.splitlines()
        counted = next((line.strip() for line in told if " generated, " in line), "")
        print(f"schemathesis as {name}: {counted}")
        if ran.returncode or not counted:
            failures.append(f"schemathesis as {name}:\n{ran.stdout[-6_000:]}{ran.stderr[-1_000:]}")
    return failures
