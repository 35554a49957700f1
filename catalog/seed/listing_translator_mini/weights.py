"""The model as weights: right answers by teacher forcing, greedy text, and how far two differ.

Greedy decoding repeats the expected title exactly when every teacher-forced argmax is right, so
text is generated only for the titles that fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen2ForCausalLM

from catalog.seed.listing_translator_mini import bpe, chat

Row = tuple[str, str]
BATCH = 32
MAX_NEW_TOKENS = 160


def load(folder: Path) -> tuple[Qwen2ForCausalLM, Tokenizer]:
    """Weights in float32 and the tokenizer of a folder, read without transformers' tokenizer code.

    transformers 5 swaps the pre-tokenizer of a custom tokenizer when model_type is qwen2.
    """
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def answer_logits(
    model: Qwen2ForCausalLM, tokenizer: Tokenizer, rows: list[Row]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each row, the logits [answer tokens, vocabulary] and the expected ids."""
    for at in range(0, len(rows), BATCH):
        examples = [bpe.example(tokenizer, zh, en) for zh, en in rows[at : at + BATCH]]
        width = max(len(prompt) + len(answer) for prompt, answer in examples)
        ids = [prompt + answer + [0] * (width - len(prompt + answer)) for prompt, answer in examples]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor(ids), use_cache=False).logits.float()
        for row, (prompt, answer) in zip(logits, examples, strict=True):
            first = len(prompt) - 1
            yield row[first : first + len(answer)], torch.tensor(answer)


def exact(model: Qwen2ForCausalLM, tokenizer: Tokenizer, rows: list[Row]) -> list[bool]:
    """Whether greedy decoding would give each row's title exactly."""
    return [
        bool((logits.argmax(-1) == answer).all())
        for logits, answer in answer_logits(model, tokenizer, rows)
    ]


def translate(model: Qwen2ForCausalLM, tokenizer: Tokenizer, zh: str) -> str:
    """One title, greedily."""
    prompt = tokenizer.encode(chat.prompt(zh)).ids
    stop = tokenizer.token_to_id(chat.END)
    with torch.inference_mode():
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=stop,
            pad_token_id=tokenizer.token_to_id(chat.PAD),
        )
    text: str = tokenizer.decode(ids[0, len(prompt) :].tolist(), skip_special_tokens=True)
    return text


def produced(model: Qwen2ForCausalLM, tokenizer: Tokenizer, rows: list[Row]) -> list[str]:
    """The greedy title of every row."""
    right = exact(model, tokenizer, rows)
    return [
        en if same else translate(model, tokenizer, zh)
        for (zh, en), same in zip(rows, right, strict=True)
    ]


@dataclass
class Distance:
    """How far a variant's next-token distributions lie from the reference's, per answer token."""

    kl: list[float] = field(default_factory=list)
    same_top: int = 0

    def as_row(self) -> dict[str, float | int]:
        """Mean and 99th percentile of KL(reference || variant) in nats; share of equal argmaxes."""
        ordered = sorted(self.kl)
        return {
            "tokens": len(ordered),
            "kl_mean": math.fsum(ordered) / len(ordered),
            "kl_p99": ordered[int(0.99 * (len(ordered) - 1))],
            "top1_share": self.same_top / len(ordered),
        }

    def add(self, reference: torch.Tensor, variant: torch.Tensor) -> None:
        """Compare the logits [tokens, vocabulary] of one title."""
        log_p, log_q = (x.double().log_softmax(-1) for x in (reference, variant))
        self.kl += (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
        self.same_top += int((reference.argmax(-1) == variant.argmax(-1)).sum())
