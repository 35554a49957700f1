"""What the router knows of an endpoint."""

from __future__ import annotations

from typing import Literal

import msgspec

QUANTIZATIONS = frozenset(
    "int4 int8 fp4 mxfp4 nvfp4 fp6 fp8 mxfp8 fp16 bf16 fp32 unknown".split()  # noqa: SIM905
)
"""How an endpoint's weights are stored; OpenRouter's words."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint that may answer. It may be subclassed to carry more than the router needs.

    `provider` is the slug of who runs it, in lower case, perhaps with a variant: `acme` or `acme/turbo`.
    `weight` is its share among endpoints of the same `priority` (lower is tried first); with 0 it gets
    no requests. `data_collection` is `deny` where prompts are neither kept nor trained on, `zdr` is True
    where nothing of a request is kept at all. `supports` names the request parameters that it understands
    (None: all). Prices are what the caller pays, in micro-yuan per million tokens (None: unknown).
    """

    id: str
    url: str
    model: str
    provider: str = "self"
    weight: int = 1
    priority: int = 0
    quantization: str = "unknown"
    data_collection: Literal["allow", "deny"] = "allow"
    zdr: bool = False
    supports: frozenset[str] | None = None
    max_concurrency: int | None = None
    input_u_per_m: int | None = None
    output_u_per_m: int | None = None
