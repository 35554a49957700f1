"""What a safetensors file says of itself, and the digest of each tensor in it.

Format: 8 bytes little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}` with an
optional `__metadata__`, then the tensors' bytes without a gap. Nothing is loaded: only the header is read,
and bytes are hashed in pieces.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Any

from sqlalchemy import exists
from sqlmodel import Session, col, select

from catalog.artifacts.scrub import digest_of
from catalog.artifacts.store import ArtifactStore, BlobReader
from catalog.artifacts.tables import Tensor
from catalog.ground.errors import BadRequest

MAX_HEADER_BYTES = 25_000_000
"""What the Hub's own clients read at most; a real header is a few hundred kilobytes."""

_DIMENSIONS_MAX = 64
"""What torch and numpy have at most."""

BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor; `start_byte` counts from the first byte of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start_byte: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """The header: tensors in the order of their bytes, and the free-text metadata."""

    tensors: tuple[TensorFacts, ...]
    metadata: dict[str, str]

    def parameters(self) -> dict[str, int]:
        """Return the number of parameters by dtype."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + prod(tensor.shape)
        return counts


def _bad(path: str, what: str) -> BadRequest:
    return BadRequest(
        f"{path} is not a sound safetensors file: {what}.",
        code="safetensors_invalid",
        rule="artifacts.safetensors",
        remedy="Save the weights again with the safetensors library and upload the new file.",
    )


def _facts(path: str, name: str, entry: Any, data_start: int) -> TensorFacts:
    try:
        dtype, shape = entry["dtype"], entry["shape"]
        begin, end = entry["data_offsets"]
        whole = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise _bad(path, f"the entry of tensor {name[:100]!r} lacks a field") from None
    if len(whole) > _DIMENSIONS_MAX + 2 or not isinstance(dtype, str):
        raise _bad(path, f"tensor {name[:100]!r} has a shape or a type that no tensor has")
    # Bounded before they are multiplied: a header has room for numbers of a million digits.
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in whole):
        raise _bad(path, f"tensor {name[:100]!r} has a shape or an offset that is no whole number")
    if dtype in BITS and prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise _bad(
            path, f"tensor {name[:100]!r} of {dtype} and shape {shape} does not fill its bytes"
        )
    return TensorFacts(name, dtype, tuple(shape), data_start + begin, end - begin)


def read_header(
    reader: BlobReader, path: str = "The file", *, max_header_bytes: int = MAX_HEADER_BYTES
) -> SafetensorsHeader:
    """Read and check the header; `BadRequest` says what is wrong with the file called `path`."""
    if reader.size_bytes < 8:
        raise _bad(path, "it is shorter than its own length field")
    length = int.from_bytes(reader.read(0, 8), "little")
    if length > max_header_bytes:
        raise _bad(
            path, f"its header claims {length} bytes, more than the {max_header_bytes} allowed"
        )
    if 8 + length > reader.size_bytes:
        raise _bad(path, f"its header claims {length} bytes and the file ends before")
    try:
        document = json.loads(reader.read(8, length))
    except (ValueError, RecursionError):
        raise _bad(path, "its header is not JSON") from None
    if not isinstance(document, dict):
        raise _bad(path, "its header is not an object")
    metadata = document.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise _bad(path, "__metadata__ is not an object")
    tensors = sorted(
        (_facts(path, name, entry, 8 + length) for name, entry in document.items()),
        key=lambda tensor: (tensor.start_byte, tensor.size_bytes),
    )
    _check_layout(path, tensors, 8 + length, reader.size_bytes)
    return SafetensorsHeader(tuple(tensors), {str(key): str(metadata[key]) for key in metadata})


def _check_layout(path: str, tensors: list[TensorFacts], start: int, size_bytes: int) -> None:
    for tensor in tensors:
        if tensor.start_byte != start:
            raise _bad(path, f"tensor {tensor.name[:100]!r} overlaps another or leaves a gap")
        start += tensor.size_bytes
    if start != size_bytes:
        raise _bad(path, f"its tensors end at byte {start} and the file at {size_bytes}")


def is_indexed(session: Session, sha256: str) -> bool:
    """Tell whether the tensors of an artifact are in the index."""
    return bool(session.scalar(select(exists().where(col(Tensor.sha256) == sha256))))


def tensor_rows(store: ArtifactStore, sha256: str, path: str) -> list[dict[str, object]]:
    """Return the index rows of an artifact, every tensor hashed.

    Reads the whole file once (about a second per GB), so call it in a job step and not in a transaction.
    """
    with store.open(sha256) as reader:
        return [
            {
                "sha256": sha256,
                "name": tensor.name[:512],
                "dtype": tensor.dtype[:16],
                "shape": json.dumps(tensor.shape),
                "start_byte": tensor.start_byte,
                "size_bytes": tensor.size_bytes,
                "digest": digest_of(reader, tensor.start_byte, tensor.size_bytes),
            }
            for tensor in read_header(reader, path).tensors
        ]
