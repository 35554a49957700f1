"""The whole way from a Hugging Face folder to a served variant folder.

The builder works in a scratch folder; the target appears complete or not at all. The tokenizer files
are the source's own, byte for byte: transformers 5 replaces the pre-tokeniser of a custom tokenizer
when it saves one for the architecture "qwen2", and the builder saves what transformers gives it.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from catalog.ground.errors import BadRequest, Conflict
from catalog.variants import onnx_manifest
from catalog.variants.folder import read_object
from catalog.variants.onnx_manifest import Manifest
from quantize.onnx_decoder import builder, proof, surgery

ARCHITECTURES = ("Qwen2ForCausalLM", "LlamaForCausalLM")
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
SIZES = (
    *("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers"),
    *("num_attention_heads", "max_position_embeddings"),
)
COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
TOOLS = ("onnxruntime-genai", "onnxruntime", "onnx", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build. `options` are further `key=value` options of the builder."""

    source: Path
    target: Path
    precision: str
    name: str
    block_size: int = 32
    temperature: float | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The variant that was made, its proof and its size on disk in bytes."""

    manifest: Manifest
    proof: proof.Proof
    size_bytes: int

    def summary(self) -> str:
        """Return one line for a person."""
        return (
            f"{self.manifest.name} {self.manifest.precision}: {self.size_bytes:,} bytes, KL to source "
            f"{self.proof.kl_mean_nats:.2g} nats (p99 {self.proof.kl_p99_nats:.2g}), "
            f"top-1 {self.proof.top1_share:.3f}, surgery changed {self.proof.surgery_max_abs:.2g}"
        )


def build(plan: Plan) -> Report:
    """Build, operate, prove, copy, describe; raise before anything is left in the target."""
    if plan.target.is_file() or (plan.target.exists() and any(plan.target.iterdir())):
        raise Conflict(f"{plan.target} is not empty: a variant is never overwritten.")
    config = _read_config(plan.source)
    options = _options(plan)
    with tempfile.TemporaryDirectory(prefix="onnx-decoder-") as scratch:
        built, folder = Path(scratch, "built"), Path(scratch, "variant")
        folder.mkdir()
        builder.run(plan.source, built, Path(scratch, "cache"), plan.precision, options)
        draft = _describe(plan, config)
        served = folder / draft.graph
        surgery.operate(built / builder.GRAPH, served, draft.layers, draft.head_size)
        proven = proof.prove(plan.source, built / builder.GRAPH, served, draft)
        for name in COPIED:
            if (plan.source / name).is_file():
                shutil.copyfile(plan.source / name, folder / name)
        manifest = _complete(draft, plan, options, proven, folder)
        onnx_manifest.write(folder, manifest)
        size_bytes = sum(entry.size_bytes for entry in manifest.files.values())
        shutil.copytree(folder, plan.target, dirs_exist_ok=True)
    onnx_manifest.verify(plan.target, manifest)
    return Report(manifest, proven, size_bytes)


def _options(plan: Plan) -> list[str]:
    options = list(plan.options)
    if plan.precision != "fp32":
        options.append(f"block_size={plan.block_size}")
    return options


def _read_config(source: Path) -> dict[str, Any]:
    missing = [name for name in NEEDED if not (source / name).is_file()]
    if missing:
        raise BadRequest(f"The source folder lacks {', '.join(missing)}.", code="source_incomplete")
    config = read_object(source / "config.json", "source_invalid")
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else named
    if architecture not in ARCHITECTURES:
        raise BadRequest(
            f"The architecture {architecture} is not one of {', '.join(ARCHITECTURES)}.",
            code="architecture_unsupported",
        )
    for name in SIZES:
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise BadRequest(f"config.json has no {name} above 0.", code="source_invalid")
    widths = ("intermediate_size", "hidden_size")
    if any(config[name] == config["vocab_size"] for name in widths):
        # onnxruntime-genai 0.18 takes every linear layer with vocab_size outputs for the lm_head.
        raise BadRequest(
            "The vocabulary is as large as a layer is wide; the builder cannot tell them apart.",
            code="architecture_unsupported",
            remedy="Pad the vocabulary to another size.",
        )
    return config


def _describe(plan: Plan, config: dict[str, Any]) -> Manifest:
    heads = config["num_attention_heads"]
    return Manifest(
        name=plan.name,
        architecture=config["architectures"][0],
        precision=plan.precision,
        layers=config["num_hidden_layers"],
        attention_heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
        hidden_size=config["hidden_size"],
        vocab_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        eos_token_ids=_eos(plan.source, config),
        sampling=_sampling(plan),
    )


def _generation_config(source: Path) -> dict[str, Any]:
    path = source / "generation_config.json"
    return read_object(path, "source_invalid") if path.is_file() else {}


def _eos(source: Path, config: dict[str, Any]) -> tuple[int, ...]:
    found = _generation_config(source).get("eos_token_id", config.get("eos_token_id"))
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (found,)


def _sampling(plan: Plan) -> dict[str, float]:
    stated = _generation_config(plan.source)
    defaults = {
        name: stated[name] for name in ("temperature", "top_p", "top_k") if stated.get(name)
    }
    if plan.temperature is not None:
        defaults["temperature"] = plan.temperature
    return defaults


def _complete(
    draft: Manifest, plan: Plan, options: list[str], proven: proof.Proof, folder: Path
) -> Manifest:
    sources = [*plan.source.glob("*.safetensors"), plan.source / "config.json"]
    facts = asdict(draft) | {
        "eos_token_ids": draft.eos_token_ids,
        "made_with": {
            "tools": {name: importlib.metadata.version(name) for name in TOOLS},
            "options": options,
            "proof": asdict(proven),
        },
        "made_from": {path.name: onnx_manifest.hash_file(path).sha256 for path in sorted(sources)},
        "files": onnx_manifest.describe_files(folder, [path.name for path in folder.iterdir()]),
    }
    return Manifest(**facts)
