"""Ask any OpenAI-compatible chat endpoint for titles, over plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit

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
        parts = urlsplit(self.url.rstrip("/") + "/chat/completions")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.netloc, timeout=TIMEOUT_S)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        try:
            connection.request("POST", parts.path, json.dumps(body), headers)
            answer = connection.getresponse()
            said = json.load(answer)
        finally:
            connection.close()
        if answer.status != 200:
            raise ConnectionError(f"the endpoint answered {answer.status}: {said}")
        text: str = said["choices"][0]["message"]["content"]
        return text

    def produced(self, titles: Sequence[str], at_once: int) -> list[str]:
        """Every title's translation, ``at_once`` requests open at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(self.translate, titles))
