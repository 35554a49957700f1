"""Send a prompt to the endpoint that has probably cached its beginning.

Engines keep the attention state of prompts that they saw lately, in blocks from the beginning on. So what
matters is that prompts with one beginning meet on one endpoint: the turns of a conversation, and calls
that share a long system prompt.
"""

from __future__ import annotations

from hashlib import blake2b
from math import log

_WINDOW_BYTES = 1024
_PROMPT_BYTES = 256
"""Of a plain prompt, which grows without a mark: longer ones keep their key, shorter ones cache little."""
_MASK = 2**64 - 1


def affinity_key(org_id: str, body: bytes, hint: str = "") -> int:
    """Return 64 bits that stay the same while a conversation grows at its end.

    `body` is the request as the caller sent it. The key covers the organisation, because caches are not
    shared across tenants on purpose, and the first kilobyte of the messages, at most up to the end of the
    first user message: every later turn repeats those bytes. Conversations behind a longer system prompt
    share a key. A `hint` (OpenAI's `prompt_cache_key`) takes the place of the prompt.
    """
    start = body.find(b'"messages"') if not hint else 0
    if hint:
        beginning = hint.encode()
    elif start >= 0:
        end = start + _WINDOW_BYTES
        user = body.find(b'"user"', start, end)
        # The first brace after it is in the message or at its end: a prefix of all later turns either way.
        closed = body.find(b"}", max(user, start), end)
        whole = user < 0 and len(body) >= end
        beginning = body[start : closed if closed >= 0 and not whole else end]
    else:
        start = max(body.find(b'"prompt"'), body.find(b'"input"'), 0)
        beginning = body[start : start + _PROMPT_BYTES]
    digest = blake2b(beginning, digest_size=8, key=org_id.encode()[:64]).digest()
    return int.from_bytes(digest, "big")


def endpoint_seed(endpoint_id: str) -> int:
    """Return the 64 bits that stand for an endpoint in `rendezvous`, the same in every process."""
    return int.from_bytes(blake2b(endpoint_id.encode(), digest_size=8).digest(), "big")


def rendezvous(key: int, seed: int, weight: int) -> float:
    """Return how much a key wants an endpoint; the highest of all is its home.

    Weighted rendezvous hashing (highest random weight: Thaler and Ravishankar 1998; the logarithm that
    makes it weighted: Schindelhauer and Schomaker 2005). An endpoint gets `weight` parts of all keys, and
    one that comes or goes moves no keys but its own.
    """
    mixed = ((key ^ seed) * 0xFF51AFD7ED558CCD) & _MASK  # the finaliser of MurmurHash3
    mixed = ((mixed ^ (mixed >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK
    chance = ((mixed ^ (mixed >> 33)) >> 11) * 2.0**-53 + 2.0**-54
    return -weight / log(chance)
