"""Write a trained model as the folder that is uploaded, served and quantised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import Qwen2ForCausalLM

from catalog.seed.listing_translator_mini import chat

RELEASE = Path(__file__).parent / "release"


def write(model: Qwen2ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Weights in float16, and small files that old and new readers both understand."""
    folder.mkdir(parents=True, exist_ok=True)
    model.set_attn_implementation("sdpa")
    model.to(torch.float16).save_pretrained(folder)
    _amend(folder / "config.json", _for_older_readers(model))
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_configuration(tokenizer))
    _write(folder / "generation_config.json", _generation_configuration(tokenizer))
    (folder / "chat_template.jinja").write_text(chat.TEMPLATE, encoding="utf-8")


def _for_older_readers(model: Qwen2ForCausalLM) -> dict[str, Any]:
    """transformers 5 renamed these; Optimum and others still look for the old names."""
    return {
        "torch_dtype": "float16",
        "rope_theta": model.config.rope_parameters["rope_theta"],
    }


def _tokenizer_configuration(tokenizer: Tokenizer) -> dict[str, Any]:
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in (chat.PAD, chat.START, chat.END)
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        "bos_token": None,
        "eos_token": chat.END,
        "pad_token": chat.PAD,
        "unk_token": None,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
    }


def _generation_configuration(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "do_sample": False,
        "eos_token_id": tokenizer.token_to_id(chat.END),
        "pad_token_id": tokenizer.token_to_id(chat.PAD),
        "max_new_tokens": 160,
    }


def _amend(path: Path, more: dict[str, Any]) -> None:
    _write(path, json.loads(path.read_text(encoding="utf-8")) | more)


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
