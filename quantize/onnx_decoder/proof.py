"""Prove a build before it is called good: load it, compare it, let it generate.

Two comparisons, because two things go wrong without an error. The served graph must answer exactly
like the builder's graph (the surgery changed nothing), in one prefill and in single steps over a
fixed cache. And it must answer like the source model (the builder understood it): reported as
Kullback-Leibler divergence in nats and top-1 agreement, and enforced for fp32, where nothing but
rounding may differ. Quantised builds are judged later, on real text, by whoever publishes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.ground.errors import BadRequest
from catalog.variants.onnx_manifest import Manifest

PROMPT_TOKENS = 24
STEPS = 8
SAME_MAX = 1e-4
FP32_KL_MAX_NATS = 1e-6
Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Proof:
    """What was measured: nats, share of positions, greatest difference of two logits."""

    kl_mean_nats: float
    kl_p99_nats: float
    top1_share: float
    surgery_max_abs: float


def _session(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BadRequest(
            "The build finished, but onnxruntime cannot load it.",
            code="build_unloadable",
            rule="quantize.onnx_decoder.proof",
            remedy="Try `--option shared_embeddings=false`, or another block size.",
        ) from error


class _Feeder:
    """Feeds one row to a graph, the cache going in and coming out as plain arrays."""

    def __init__(self, graph: Path, manifest: Manifest, cache_length: int) -> None:
        self.session = _session(graph)
        self.served = "seqlens_k" in {item.name for item in self.session.get_inputs()}
        shape = (1, manifest.kv_heads, cache_length if self.served else 0, manifest.head_size)
        self.cache = {
            item.name: np.zeros(shape, np.float32)
            for item in self.session.get_inputs()
            if item.name.startswith("past_key_values.")
        }
        self.length = 0

    def feed(self, ids: Ids) -> Logits:
        """Append `ids` [n]; return their logits [n, vocab]."""
        self.length += len(ids)
        feeds: dict[str, Any] = {"input_ids": ids[None]} | self.cache
        if self.served:
            feeds["seqlens_k"] = np.array([self.length - 1], np.int32)
            feeds["total_sequence_length"] = np.array(self.length, np.int32)
            feeds["logit_positions"] = np.arange(len(ids))
        else:
            feeds["attention_mask"] = np.ones((1, self.length), np.int64)
        outputs = dict(
            zip(
                (o.name for o in self.session.get_outputs()),
                self.session.run(None, feeds),
                strict=True,
            )
        )
        for name in self.cache:
            self.cache[name] = outputs[name.replace("past_key_values", "present")]
        logits: Logits = outputs["logits"][0]
        return logits


def _source_logits(source: Path, ids: Ids) -> Logits:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: Logits = model(torch.from_numpy(ids[None])).logits[0].numpy()
    return logits


def divergence_nats(reference: Logits, other: Logits) -> npt.NDArray[np.float64]:
    """Return KL(reference ‖ other) of each position [n], from logits [n, vocab]."""

    def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))

    p, q = log_softmax(reference), log_softmax(other)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


def prove(source: Path, built: Path, served: Path, manifest: Manifest) -> Proof:
    """Compare source folder, builder's graph and served graph; raise `BadRequest` when they part."""
    ids = np.random.default_rng(7).integers(0, manifest.vocab_size, PROMPT_TOKENS)
    reference = _source_logits(source, ids)
    before = _Feeder(built, manifest, 0)
    after = _Feeder(served, manifest, PROMPT_TOKENS + STEPS)
    first, second = before.feed(ids), after.feed(ids)
    apart = float(np.abs(first - second).max())
    nats = divergence_nats(reference, second)
    agree = float((reference.argmax(-1) == second.argmax(-1)).mean())
    token = first[-1:].argmax(-1)
    for _ in range(STEPS):
        one, other = before.feed(token), after.feed(token)
        apart = max(apart, float(np.abs(one - other).max()))
        token = one.argmax(-1)
    proof = Proof(float(nats.mean()), float(np.quantile(nats, 0.99)), agree, apart)
    _judge(proof, manifest)
    return proof


def _judge(proof: Proof, manifest: Manifest) -> None:
    if not proof.surgery_max_abs <= SAME_MAX:
        _fail(f"the served graph differs from the built one by {proof.surgery_max_abs:.2g}")
    if manifest.precision == "fp32" and not proof.kl_mean_nats <= FP32_KL_MAX_NATS:
        _fail(f"the build differs from the source by {proof.kl_mean_nats:.2g} nats")


def _fail(what: str) -> None:
    raise BadRequest(
        f"The build loads, but {what}.", code="build_wrong", rule="quantize.onnx_decoder.proof"
    )
