"""What a release is, read from its files. Every fact says where it comes from.

architecture   config.json: class, model_type, layers, hidden size, heads, vocabulary
parameters     safetensors headers: total, by dtype, files
context_length config.json (max_position_embeddings and its older names), else the tokenizer's
tokenizer      which files, class, vocabulary size
chat_template  chat_template.jinja, else tokenizer_config.json
licence        the card's word and the licence file's digest
base_models    the card's, with the relation; languages, tasks, vertical: the card's
notes          where the card claims something else than the files show
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from catalog.artifacts.digest import files_digest
from catalog.artifacts.store import ArtifactStore
from catalog.hub import cards, summary
from catalog.hub.trees import Entry

SCHEMA_VERSION = 1
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_SHAPE_KEYS = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "attention_heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "vocab_size": ("vocab_size",),
}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
_LICENCE_FILES = re.compile(r"(licen[cs]e|copying)(\.(md|txt))?", re.IGNORECASE)
_RELATIONS = ("finetune", "quantized", "adapter", "merge")
_BILLION = re.compile(r"(\d+(?:\.\d+)?)\s*B\b")
_MAX_BELIEVABLE_CONTEXT = 100_000_000  # tokenizers write 1e30 for "unknown"


def _first(document: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = document.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    """Return class, type and shape; a multi-modal config keeps its text part in `text_config`."""
    inner = config.get("text_config")
    text = config | inner if isinstance(inner, dict) else config
    classes = config.get("architectures")
    facts: dict[str, Any] = {
        "class": classes[0] if isinstance(classes, list) and classes else None,
        "model_type": config.get("model_type"),
        "remote_code": bool(config.get("auto_map")),
    }
    facts |= {name: _first(text, keys) for name, keys in _SHAPE_KEYS.items()}
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        facts["quantization"] = quantization.get("quant_method")
    return facts


def context_length(config: dict[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return tokens and the file that says so."""
    inner = config.get("text_config")
    text = config | inner if isinstance(inner, dict) else config
    tokens = _first(text, _CONTEXT_KEYS)
    if tokens is not None:
        return {"tokens": tokens, "source": "config.json"}
    tokens = _first(tokenizer, ("model_max_length",))
    if tokens is not None and tokens < _MAX_BELIEVABLE_CONTEXT:
        return {"tokens": tokens, "source": "tokenizer_config.json"}
    return {"tokens": None, "source": None}


def chat_template(
    store: ArtifactStore, files: Mapping[str, Entry], tokenizer: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the template's text, its digest and where it stands; never rendered here."""
    text = summary.read_text(store, files.get("chat_template.jinja"))
    source = "chat_template.jinja"
    if text is None:
        source, named = "tokenizer_config.json", tokenizer.get("chat_template")
        if isinstance(named, list):
            named = next((item.get("template") for item in named if isinstance(item, dict)), None)
        text = named if isinstance(named, str) else None
    if text is None:
        return {"source": None, "sha256": None, "text": None}
    return {"source": source, "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}


def _licence(card: Mapping[str, Any], files: Mapping[str, Entry]) -> dict[str, Any]:
    name = next(iter(cards.texts(card.get("license"))), None)
    file = next((path for path in sorted(files) if _LICENCE_FILES.fullmatch(path)), None)
    return {
        "id": name,
        "name": card.get("license_name"),
        "link": card.get("license_link"),
        "source": "README.md" if name else None,
        "file": file,
        "file_sha256": files[file].sha256 if file else None,
    }


def _tokenizer(
    store: ArtifactStore, files: Mapping[str, Entry], config: Mapping[str, Any]
) -> dict[str, Any]:
    present = {path: files[path].sha256 for path in _TOKENIZER_FILES if path in files}
    vocabulary = summary.read_json(store, files.get("vocab.json"))
    return {
        "files": present,
        "class": config.get("tokenizer_class"),
        "vocab_entries": len(vocabulary) or None,
    }


def _notes(name: str, facts: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    notes = []
    claimed = _BILLION.search(name.replace("-", " ").replace("_", " "))
    total = facts["parameters"]["total"]
    if claimed and total:
        billions = float(claimed.group(1))
        if not 0.7 * billions <= total / 1e9 <= 1.4 * billions:
            notes.append(f"The name says {billions:g}B parameters, the weights hold {total:,}.")
    if not facts["licence"]["id"]:
        notes.append("The card names no licence.")
    if card.get("base_model_relation") not in (None, *_RELATIONS):
        notes.append(
            f"The relation {card['base_model_relation']!r} to the base is not a known one."
        )
    if facts["architecture"]["remote_code"]:
        notes.append("config.json asks for code from the repository (auto_map); it is never run.")
    return notes


def describe(
    store: ArtifactStore,
    name: str,
    files: Mapping[str, Entry],
    parameters_by_file: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """Return the manifest of the files of a revision.

    `parameters_by_file` holds what the safetensors headers say: `{path: {"F32": count}}`.
    """
    try:
        card = cards.parse(summary.read_text(store, files.get("README.md")) or "")
    except cards.CardError:
        card = {}
    config = summary.read_json(store, files.get("config.json"))
    tokenizer = summary.read_json(store, files.get("tokenizer_config.json"))
    by_dtype: dict[str, int] = {}
    for counts in parameters_by_file.values():
        for dtype, count in counts.items():
            by_dtype[dtype] = by_dtype.get(dtype, 0) + count
    bases = cards.texts(card.get("base_model"))
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "digest": files_digest({path: entry.sha256 or "" for path, entry in files.items()}),
        "architecture": architecture(config),
        "parameters": {
            "total": sum(by_dtype.values()) or None,
            "by_dtype": by_dtype,
            "files": sorted(parameters_by_file),
        },
        "context_length": context_length(config, tokenizer),
        "tokenizer": _tokenizer(store, files, tokenizer),
        "chat_template": chat_template(store, files, tokenizer),
        "licence": _licence(card, files),
        "base_models": bases,
        "base_relation": card.get("base_model_relation") or ("finetune" if bases else None),
        "languages": cards.texts(card.get("language")),
        "tasks": cards.texts(card.get("pipeline_tag")),
        "vertical": card.get("vertical") if isinstance(card.get("vertical"), str) else None,
        "tags": cards.texts(card.get("tags")),
        "size_bytes": sum(entry.size_bytes for entry in files.values()),
        "files": [
            {"path": path, "sha256": entry.sha256, "size_bytes": entry.size_bytes}
            for path, entry in sorted(files.items())
        ],
    }
    return facts | {"notes": _notes(name, facts, card)}
