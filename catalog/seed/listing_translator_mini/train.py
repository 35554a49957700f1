"""Train the tokenizer and the model from nothing, on one CPU thread, and write ``release/``.

    python -m catalog.seed.listing_translator_mini.train                # about 35 CPU-minutes
    python -m catalog.seed.listing_translator_mini.train --steps 100    # see that it runs

Needs the training toolchain (``requirements/train.*``); progress goes to stderr. Matrices inside
the layers are trained with Muon, which needs about half of AdamW's steps here; embeddings, norms
and biases with AdamW. The loss is taken on the answer and its stop token only.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from catalog.seed.listing_translator_mini import bpe, chat, decoding, package, splits
from catalog.seed.listing_translator_mini.grammar import TRAINING, source
from catalog.seed.listing_translator_mini.runners import WeightsRunner

SEED = 7
CYCLES = ((3600, 1.0), (900, 0.45))
BATCH = 64
WARM_UP_STEPS = 100
MUON_LR = 0.02
ADAM_LR = 0.004
FINAL_LR_SHARE = 0.01
WEIGHT_DECAY = 0.02
SYSTEM_MESSAGE_SHARE = 0.06
POOLED_BATCHES = 16
IGNORED = -100
WIDTH_STEP = 8
ANSWER_STEP = 512

Example = tuple[list[int], list[int]]


def float_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    mask: torch.Tensor | None, **options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention in float32: its bfloat16 backward on a CPU costs more than all matrices together."""
    with torch.autocast("cpu", enabled=False):
        wide = (query.float(), key.float(), value.float())
        mixed, _ = sdpa_attention_forward(module, *wide, mask, **options)
    return mixed, None


AttentionInterface.register("float_attention", float_attention)


def configuration() -> Qwen2Config:
    """2.75 M parameters; widths are multiples of 128 so that int4 blocks fill whole rows."""
    return Qwen2Config(
        vocab_size=bpe.VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[list[Example]]:
    """Endless batches of fresh examples; those of one batch are of similar length."""
    titles = splits.titles(seed, "train", TRAINING)
    rng = source(seed)
    while True:
        pool = []
        for _ in range(BATCH * POOLED_BATCHES):
            title = next(titles)
            spoken = rng.random() < SYSTEM_MESSAGE_SHARE
            system = rng.choice(chat.SYSTEM_MESSAGES) if spoken else None
            pool.append(bpe.example(tokenizer, title.zh, title.en, system))
        pool.sort(key=lambda example: len(example[0]) + len(example[1]))
        cuts = [pool[at : at + BATCH] for at in range(0, len(pool), BATCH)]
        rng.shuffle(cuts)
        yield from cuts


def collate(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels; a causal model never looks at what stands right of a token.

    Widths come in few sizes: the matrix library compiles a kernel for every new shape and keeps it.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in examples)
    width = math.ceil(longest / WIDTH_STEP) * WIDTH_STEP
    ids, labels = [], []
    for prompt, answer in examples:
        padding = width - len(prompt) - len(answer)
        ids.append(prompt + answer + [0] * padding)
        labels.append([IGNORED] * len(prompt) + answer + [IGNORED] * padding)
    return torch.tensor(ids), torch.tensor(labels)


def loss_of(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the answers; the output layer is computed for little else."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    answered = (targets != IGNORED).nonzero().squeeze(1)
    room = min(math.ceil(len(answered) / ANSWER_STEP) * ANSWER_STEP, len(targets))
    # The positions that fill the last step are ignored ones, so they add nothing to the loss.
    ignored = (targets == IGNORED).nonzero().squeeze(1)[: room - len(answered)]
    chosen = torch.cat([answered, ignored])
    logits = model.lm_head(hidden[chosen]).float()
    return torch.nn.functional.cross_entropy(logits, targets[chosen], ignore_index=IGNORED)


def optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY),
    ]


def schedule(step: int, cycles: Sequence[tuple[int, float]]) -> float:
    """Share of the full learning rate: for each cycle a linear warm-up to its peak, then a cosine.

    ``cycles`` are (steps, peak share). A second, lower cycle (SGDR, Loshchilov and Hutter 2017) finds
    what the first left unlearnt: the rare words.
    """
    (steps, peak), *later = cycles
    if step >= steps and later:
        return schedule(step - steps, later)
    if step < WARM_UP_STEPS:
        return peak * (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return FINAL_LR_SHARE + (peak - FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))


def fit(tokenizer: Tokenizer, cycles: Sequence[tuple[int, float]]) -> Qwen2ForCausalLM:
    """Train for the steps of all cycles, in bfloat16 where the products are large."""
    steps = sum(length for length, _ in cycles)
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(configuration())
    model.set_attn_implementation("float_attention")
    say(f"{model.num_parameters():,} parameters")
    tuned = optimizers(model)
    planners = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: schedule(step, cycles)) for o in tuned
    ]
    stream, started = batches(tokenizer, SEED), time.process_time()
    for step in range(1, steps + 1):
        ids, labels = collate(next(stream))
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, planner in zip(tuned, planners, strict=True):
            optimizer.step()
            planner.step()
            optimizer.zero_grad()
        if step % 50 == 0 or step == steps:
            spent = time.process_time() - started
            say(f"step {step}/{steps}  loss {loss.item():.4f}  {spent:.0f} CPU-s")
        if step % 500 == 0 and step < steps:
            report(model, tokenizer, sample=100)
    return model.eval()


def report(model: Qwen2ForCausalLM, tokenizer: Tokenizer, sample: int = splits.ROWS) -> None:
    """Say how both held-out files stand; they are never trained on or tuned to."""
    runner = WeightsRunner(model, tokenizer)
    for path in splits.SEEDS:
        right = decoding.exact(runner, splits.read_rows(path)[:sample])
        say(f"{path.name}: {sum(right) / len(right):.2%} exact of {len(right)}")
    model.train()


def say(line: str) -> None:
    """Talk goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Tokenizer, model, release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, help="one cycle of so many steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=package.RELEASE)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = bpe.train()
    say(f"tokenizer of {tokenizer.get_vocab_size()} entries")
    model = fit(tokenizer, ((options.steps, 1.0),) if options.steps else CYCLES)
    report(model, tokenizer)
    package.write(model, tokenizer, options.out)
    say(f"wrote {options.out.name}/")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
