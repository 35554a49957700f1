"""From a folder to something that can answer: verify every byte, then load.

All failures are `TokenMartError`s with one sentence that names a file, never a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.ground.errors import BadRequest, NotFound
from catalog.variants import onnx_manifest
from catalog.variants.folder import read_object
from catalog.variants.onnx_manifest import Manifest
from serving.onnx_engine.decoder import Decoder
from serving.onnx_engine.options import Options
from serving.onnx_engine.template import ChatTemplate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Model:
    """A verified and loaded variant; `context_length` is what the cache has room for, in tokens."""

    manifest: Manifest
    tokenizer: Tokenizer
    template: ChatTemplate | None
    decoder: Decoder
    context_length: int


def load(options: Options) -> Model:
    """Verify and load the variant in `options.folder`."""
    folder = options.folder
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.", code="folder_missing")
    manifest = onnx_manifest.read(folder)
    onnx_manifest.verify(folder, manifest)
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        if name not in manifest.files:
            raise BadRequest(f"The manifest lists no {name}.", code="manifest_invalid")
    context_length = _context_length(manifest, options)
    decoder = Decoder(
        _open_graph(folder, manifest, options.threads),
        manifest,
        options.max_rows,
        context_length,
        options.chunk_tokens,
    )
    decoder.prefill(0, [0], 0)  # The first run allocates; no caller should wait for that.
    template = _load_template(folder, manifest)
    return Model(manifest, _load_tokenizer(folder), template, decoder, context_length)


def _context_length(manifest: Manifest, options: Options) -> int:
    if options.max_model_len > manifest.context_length:
        raise BadRequest(
            f"--max-model-len {options.max_model_len} is more than the model's context of "
            f"{manifest.context_length} tokens.",
            code="max_model_len_invalid",
        )
    if options.max_model_len:
        return options.max_model_len
    room = options.cache_bytes // (manifest.kv_bytes_per_token * options.max_rows)
    return max(1, min(manifest.context_length, room))


def _open_graph(folder: Path, manifest: Manifest, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A spinning pool would burn a core while nobody asks anything.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(folder / manifest.graph), options, providers=["CPUExecutionProvider"]
        )
    except Exception:
        # The runtime's words contain paths; the digest is right, so the build itself is at fault.
        raise BadRequest(
            f"{manifest.graph} is what the manifest announces, but onnxruntime cannot load it.",
            code="graph_unloadable",
        ) from None
    _check_graph(session, manifest)
    return session


def _check_graph(session: Any, manifest: Manifest) -> None:
    inputs = {item.name: item.shape for item in session.get_inputs()}
    wanted = {"input_ids", "seqlens_k", "total_sequence_length", "logit_positions"}
    wanted |= {
        f"past_key_values.{layer}.{kind}"
        # A manifest may announce more layers than there is memory for their names.
        for layer in range(min(manifest.layers, len(inputs)))
        for kind in ("key", "value")
    }
    shapes_fit = wanted == set(inputs) and all(
        shape[1] == manifest.kv_heads and shape[3] == manifest.head_size
        for name, shape in inputs.items()
        if name.startswith("past_key_values.")
    )
    logits = {item.name: item.shape for item in session.get_outputs()}.get("logits", [None])
    if not shapes_fit or logits[-1] != manifest.vocab_size:
        raise BadRequest(
            f"The manifest does not describe {manifest.graph}: its inputs or sizes are others.",
            code="manifest_invalid",
        )


def _load_tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception:
        raise BadRequest(f"{TOKENIZER} is not a tokenizer.", code="tokenizer_invalid") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load_template(folder: Path, manifest: Manifest) -> ChatTemplate | None:
    config = read_object(folder / TOKENIZER_CONFIG, "tokenizer_invalid")
    contents = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token")
    }
    tokens = {name: text for name, text in contents.items() if isinstance(text, str)}
    source = config.get("chat_template")
    if isinstance(source, list):  # Several by name, as transformers writes them too.
        named = [item for item in source if isinstance(item, dict)]
        source = next(
            (item.get("template") for item in named if item.get("name") == "default"), None
        )
    if TEMPLATE in manifest.files:
        source = _read_text(folder / TEMPLATE)
    return ChatTemplate(source, tokens) if isinstance(source, str) else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadRequest(f"{path.name} is not UTF-8.", code="template_invalid") from None
