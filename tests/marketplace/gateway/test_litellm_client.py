"""The litellm SDK, in an environment of its own (`make toolchain-litellm`), works unchanged."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.market import SEED, TITLE, Market

PYTHON = Path(__file__).parents[3] / ".toolchains/litellm/bin/python"
STORY = """
import json, sys, litellm
base, key, model, title = sys.argv[1:]
ask = dict(model="openai/" + model, api_base=base + "/v1", api_key=key, temperature=0,
           messages=[{"role": "user", "content": title}])
plain = litellm.completion(**ask)
chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
usage = [c.usage.model_dump() for c in chunks if getattr(c, "usage", None)][-1]
try:
    litellm.completion(**(ask | {"api_key": "tm-wrong"}), num_retries=0)
    refused = ""
except litellm.AuthenticationError:
    refused = "AuthenticationError"
print(json.dumps([plain.choices[0].message.content, plain.usage.total_tokens, text,
                  usage["total_tokens"], refused]))
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="needs make toolchain-litellm")
def test_the_litellm_sdk(market: Market) -> None:
    run = subprocess.run(
        [PYTHON, "-c", STORY, market.url, market.demo_key, SEED, TITLE],
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    plain, tokens, streamed, streamed_tokens, refused = json.loads(run.stdout.splitlines()[-1])
    assert plain == streamed
    assert tokens == streamed_tokens > 0
    assert refused == "AuthenticationError"
