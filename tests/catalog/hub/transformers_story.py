"""Make a tiny model, upload it, and load it again by name: run where transformers and torch are installed.

HF_ENDPOINT=… HF_TOKEN=… python transformers_story.py <work folder>
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from huggingface_hub import HfApi
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

REPO = "acme/tiny-llama"
WORDS = ["<unk>", "<s>", "</s>", "hello", "world", "你好", "世界"]


def make(folder: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **shape, **heads))
    model.save_pretrained(folder, max_shard_size="8KB")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.chat_template = "{{ messages[0].content }}"
    fast.save_pretrained(folder)


def main() -> int:
    folder = Path(sys.argv[1]) / "tiny"
    make(folder)
    api = HfApi()
    api.create_repo(REPO, exist_ok=True)
    api.upload_folder(repo_id=REPO, folder_path=folder)
    print("ok upload", len(list(folder.glob("*.safetensors"))), "shards", flush=True)
    assert AutoConfig.from_pretrained(REPO).num_hidden_layers == 2
    tokenizer = AutoTokenizer.from_pretrained(REPO)
    assert tokenizer("hello 世界")["input_ids"] == [3, 6]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"
    print("ok tokenizer", flush=True)
    loaded = AutoModelForCausalLM.from_pretrained(REPO)
    before = LlamaForCausalLM.from_pretrained(folder).state_dict()
    after = loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    print("ok model", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
