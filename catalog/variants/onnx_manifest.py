"""The manifest of an ONNX decoder variant: what is in the folder, and the digest of every file.

    write(folder, manifest)   the builder: measures and hashes the files, writes `manifest.json`
    read(folder)              the engine: the description alone, checked field by field
    verify(folder, manifest)  the engine: every file is there, has its size and its SHA-256

A runtime does not notice flipped bits in weights, it only talks nonsense afterwards; so nothing is
loaded before `verify` has passed. Error sentences name files, never folders: they may travel.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from catalog.ground.errors import BadRequest, IntegrityError

FILE_NAME = "manifest.json"
FORMAT = "tokenmart-onnx-decoder"
FORMAT_VERSION = 1
PRECISIONS = ("fp32", "int8", "int4")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_POSITIVE = (
    "layers",
    "attention_heads",
    "kv_heads",
    "head_size",
    "hidden_size",
    "vocab_size",
    "context_length",
)
_SAMPLING_RANGE = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0), "top_k": (0.0, 1e6)}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the folder: its SHA-256 in lower-case hex and its size in bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an engine must know of a decoder before it opens the graph.

    `name` is the model's public name; `sampling` holds the defaults a caller gets who names none
    (temperature, top_p, top_k); `made_with` says by which tools and options; `made_from` maps source
    files to their SHA-256; `files` maps plain file names to their entries.
    """

    name: str
    architecture: str
    precision: str
    layers: int
    attention_heads: int
    kv_heads: int
    head_size: int
    hidden_size: int
    vocab_size: int
    context_length: int
    eos_token_ids: tuple[int, ...]
    graph: str = "model.onnx"
    sampling: dict[str, float] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)
    made_from: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of key and value cache that one token of one sequence takes (float32)."""
        return self.layers * 2 * self.kv_heads * self.head_size * 4


def _wrong(what: str) -> BadRequest:
    return BadRequest(
        f"{FILE_NAME} is not a valid manifest: {what}.",
        code="manifest_invalid",
        rule="variants.onnx_manifest",
        remedy="Build the variant again with `python -m quantize.onnx_decoder`.",
    )


def hash_file(path: Path) -> FileEntry:
    """Return size and SHA-256 of a file; it is read in pieces, so any size will do."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(digest, path.stat().st_size)


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Return the entries of the named files, sorted by name."""
    return {name: hash_file(folder / name) for name in sorted(names)}


def write(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; it is checked first, so what was written can be read."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
    parse(document)
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Return the manifest of the folder; `BadRequest` says what is wrong with it."""
    try:
        document = json.loads((folder / FILE_NAME).read_bytes())
    except FileNotFoundError:
        raise _wrong("the file is missing") from None
    except (ValueError, RecursionError):
        raise _wrong("it is not JSON in UTF-8") from None
    except OSError as error:
        raise _wrong(f"it cannot be read ({error.strerror})") from None
    return parse(document)


def parse(document: object) -> Manifest:
    """Return a `Manifest` from decoded JSON, every field checked; unknown fields are ignored."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _wrong(f'"format" must be "{FORMAT}"')
    if document.get("format_version") != FORMAT_VERSION:
        raise _wrong(f'"format_version" must be {FORMAT_VERSION}')
    for name in ("name", "architecture", "graph"):
        if not isinstance(document.get(name), str) or not document[name]:
            raise _wrong(f'"{name}" must be a text')
    if document.get("precision") not in PRECISIONS:
        raise _wrong(f'"precision" must be one of {", ".join(PRECISIONS)}')
    for name in _POSITIVE:
        if not _is_count(document.get(name)) or document[name] == 0:
            raise _wrong(f'"{name}" must be a positive whole number')
    files = _parse_files(document)
    if document["graph"] not in files:
        raise _wrong('"graph" must be one of "files"')
    return Manifest(
        **{name: document[name] for name in ("name", "architecture", "precision", "graph")},
        **{name: document[name] for name in _POSITIVE},
        eos_token_ids=_parse_eos(document),
        sampling=_parse_sampling(document),
        made_with=_parse_table(document, "made_with"),
        made_from=_parse_table(document, "made_from"),
        files=files,
    )


def verify(folder: Path, manifest: Manifest) -> None:
    """Read every file once and compare; `IntegrityError` names the first that is not as announced."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise IntegrityError(
                f"{name} is missing: the manifest announces it.", code="file_missing", param=name
            )
        found = path.stat().st_size
        if found != entry.size_bytes:
            raise IntegrityError(
                f"{name} has {found} bytes, the manifest announces {entry.size_bytes}.",
                code="file_corrupt",
                param=name,
            )
        if hash_file(path).sha256 != entry.sha256:
            raise IntegrityError(
                f"{name} is corrupt: its SHA-256 is not the one in the manifest.",
                code="file_corrupt",
                param=name,
            )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _parse_eos(document: dict[str, Any]) -> tuple[int, ...]:
    ids = document.get("eos_token_ids")
    if not isinstance(ids, list | tuple) or not all(_is_count(item) for item in ids):
        raise _wrong('"eos_token_ids" must be a list of token ids')
    if any(item >= document["vocab_size"] for item in ids):
        raise _wrong('"eos_token_ids" must be smaller than "vocab_size"')
    return tuple(ids)


def _parse_sampling(document: dict[str, Any]) -> dict[str, float]:
    table = _parse_table(document, "sampling")
    for name, value in table.items():
        low, high = _SAMPLING_RANGE.get(name, (0.0, -1.0))
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise _wrong(f'"sampling" has no default {name!r} with the value {value!r}')
    return table


def _parse_table(document: dict[str, Any], name: str) -> dict[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise _wrong(f'"{name}" must be an object')
    return table


def _parse_files(document: dict[str, Any]) -> dict[str, FileEntry]:
    files: dict[str, FileEntry] = {}
    for name, entry in _parse_table(document, "files").items():
        if not _PLAIN_NAME.fullmatch(name) or name == FILE_NAME:
            raise _wrong(f"{name!r} is not a plain file name")
        if not isinstance(entry, dict) or not _is_count(entry.get("size_bytes")):
            raise _wrong(f'{name!r} needs "size_bytes"')
        if not isinstance(entry.get("sha256"), str) or not _SHA256.fullmatch(entry["sha256"]):
            raise _wrong(f'{name!r} needs "sha256", 64 hex digits')
        files[name] = FileEntry(entry["sha256"], entry["size_bytes"])
    return files
