"""How far a variant's next-token distributions lie from a reference's, over expected answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from catalog.seed.listing_translator_mini.decoding import Row, forced
from catalog.seed.listing_translator_mini.runners import Logits, Runner


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def between(reference: Runner, variant: Runner, rows: Sequence[Row]) -> dict[str, float | int]:
    """KL(reference || variant) in nats, mean and 99th percentile; share of equal argmaxes."""
    nats, same = [], []
    for (ours, _), (theirs, _) in zip(forced(reference, rows), forced(variant, rows), strict=True):
        p, q = _log_softmax(ours), _log_softmax(theirs)
        nats.append((np.exp(p) * (p - q)).sum(axis=-1))
        same.append(ours.argmax(-1) == theirs.argmax(-1))
    kl, top1 = np.concatenate(nats), np.concatenate(same)
    return {
        "tokens": len(kl),
        "kl_mean_nats": float(kl.mean()),
        "kl_p99_nats": float(np.quantile(kl, 0.99)),
        "top1_share": float(top1.mean()),
    }
