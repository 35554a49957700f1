"""A folder of weights or an ONNX variant as one thing: ids in, logits out.

Everything is computed from whole sequences, one at a time and without a cache: slow per token,
exact, and the same for both kinds, so their numbers may be compared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Logits = npt.NDArray[np.float32]


class Runner(Protocol):
    """What the measurements need of a model."""

    tokenizer: Tokenizer

    def logits(self, ids: list[int], first: int) -> Logits:
        """Next-token logits [len(ids) - first, vocabulary] from position ``first`` on."""
        ...


class WeightsRunner:
    """Safetensors through transformers, in float32."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def open(cls, folder: Path) -> WeightsRunner:
        """Read a folder; the tokenizer directly, for transformers 5 alters it for "qwen2"."""
        import torch
        from transformers import Qwen2ForCausalLM

        torch.set_num_threads(1)
        model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(model, read_tokenizer(folder))

    def logits(self, ids: list[int], first: int) -> Logits:
        """See `Runner`."""
        import torch

        with torch.inference_mode():
            answer = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits
        found: Logits = answer[0, first:].float().numpy()
        return found


class GraphRunner:
    """A served ONNX variant (its ``manifest.json`` says what is inside) on one CPU thread."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self.tokenizer = read_tokenizer(folder)
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / self.manifest["graph"]), options, providers=["CPUExecutionProvider"]
        )

    def logits(self, ids: list[int], first: int) -> Logits:
        """See `Runner`."""
        shape = (1, self.manifest["kv_heads"], len(ids), self.manifest["head_size"])
        feeds: dict[str, Any] = {
            item.name: np.zeros(shape, np.float32)
            for item in self.session.get_inputs()
            if item.name.startswith("past_key_values.")
        }
        feeds["input_ids"] = np.array([ids])
        feeds["seqlens_k"] = np.array([len(ids) - 1], np.int32)
        feeds["total_sequence_length"] = np.array(len(ids), np.int32)
        feeds["logit_positions"] = np.arange(first, len(ids))
        found: Logits = self.session.run(["logits"], feeds)[0][0]
        return found


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer as it lies in the folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def open_runner(folder: Path) -> Runner:
    """Whatever the folder holds."""
    if (folder / "manifest.json").is_file():
        return GraphRunner(folder)
    return WeightsRunner.open(folder)
