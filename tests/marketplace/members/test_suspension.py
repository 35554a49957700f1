"""A suspended organisation is refused by a running gateway at once, and served again once resumed."""

from __future__ import annotations

import openai
from support.market import SEED, Market, wait_until

from marketplace.members.tables import Organisation


def test_a_running_gateway_refuses_and_serves_again(market: Market) -> None:
    org_id, secret = market.organisation(voucher_u=1_000_000)
    database = market.database
    with database.reading() as session:
        slug = session.get_one(Organisation, org_id).slug
    database.dispose()
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key=secret, max_retries=0) as client:

        def call() -> str:
            try:
                client.chat.completions.create(
                    model=SEED, messages=[{"role": "user", "content": "短袖 白色"}], max_tokens=8
                )
            except openai.PermissionDeniedError as error:
                return str(error.code)
            return "served"

        assert call() == "served"
        done = market.run("org", "suspend", slug, "--reason", "test", "--by", "anna")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: call() == "organisation_suspended")
        own = market.run("org", "resume", slug, "--reason", "test", "--by", "anna")
        assert own.returncode != 0
        assert "second person" in own.stderr
        done = market.run("org", "resume", slug, "--reason", "test", "--by", "ben")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: call() == "served")
