"""The first walk, as a newcomer does it: start, copy the printed line, look at the bill."""

from __future__ import annotations

import json
import subprocess

from support.market import SEED, Market


def test_the_printed_curl_line_works_as_printed_and_the_voucher_pays(market: Market) -> None:
    printed = "".join(market.printed)
    command = printed[printed.index("curl ") : printed.index("}'") + 2]
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    answer = json.loads(done.stdout)
    assert answer["choices"][0]["message"]["content"]
    newest = json.loads(market.run("usage", "--org", "demo", "--format", "json").stdout)[0]
    assert newest["model"] == SEED
    used = newest["tokens"]
    assert used["output"] == answer["usage"]["completion_tokens"]
    assert used["input_uncached"] == answer["usage"]["prompt_tokens"]
    assert newest["paid_by"][0]["programme"] == "starter"
    assert newest["voucher_u"] == newest["cost_u"] > 0
    table = market.run("usage", "--org", "demo").stdout
    assert "starter ¥0.0" in table


def test_the_command_line_makes_keys_and_vouchers_that_work_at_once(market: Market) -> None:
    slug = "cli-story"
    assert market.run("org", "create", slug, "CLI story").returncode == 0
    made = json.loads(market.run("key", "create", slug, "--format", "json").stdout)[0]
    assert made["key"].startswith("tm-")
    assert "seed" not in market.run("key", "list", "--org", slug).stdout
    issued = market.run("voucher", "issue", slug, "1.5", "--tx", "story", "--format", "json")
    again = market.run("voucher", "issue", slug, "1.5", "--tx", "story", "--format", "json")
    assert json.loads(issued.stdout) == json.loads(again.stdout)
    listed = json.loads(market.run("voucher", "list", "--org", slug, "--format", "json").stdout)
    assert [(row["amount"], row["left"]) for row in listed] == [("¥1.50", "¥1.50")]
    assert market.run("key", "revoke", made["id"]).returncode == 0
    assert "revoked" in market.run("key", "list", "--org", slug).stdout


def test_verify_says_exact_and_errors_are_one_sentence(market: Market) -> None:
    done = market.run("ledger", "verify")
    assert (done.returncode, "exact" in done.stderr) == (0, True), done.stdout + done.stderr
    done = market.run("key", "create", "nobody-here")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "tokenmart: There is no organisation 'nobody-here'."
