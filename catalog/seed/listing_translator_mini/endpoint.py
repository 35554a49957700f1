"""Ask any OpenAI-compatible chat endpoint for titles, over plain HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

TIMEOUT_S = 120


@dataclass(frozen=True)
class Endpoint:
    """``url`` ends before ``/chat/completions``, as the OpenAI SDK's base_url does."""

    url: str
    model: str
    key: str = "none"

    def translate(self, zh: str) -> str:
        """One title at temperature 0."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": zh}],
            "temperature": 0,
            "max_tokens": 160,
        }
        request = urllib.request.Request(  # noqa: S310 - the caller names the endpoint
            self.url.rstrip("/") + "/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            text: str = json.load(answer)["choices"][0]["message"]["content"]
        return text

    def produced(self, titles: Sequence[str], at_once: int) -> list[str]:
        """Every title's translation, ``at_once`` requests open at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(self.translate, titles))
