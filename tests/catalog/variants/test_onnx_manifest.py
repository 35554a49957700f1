"""The manifest: what was written can be read, and nothing that differs from it passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from catalog.ground.errors import BadRequest, IntegrityError
from catalog.variants import onnx_manifest
from catalog.variants.onnx_manifest import Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"weights" * 1000)
    (tmp_path / "tokenizer.json").write_text("{}")
    files = onnx_manifest.describe_files(tmp_path, ["tokenizer.json", "model.onnx"])
    manifest = Manifest(
        name="tokenmart/tiny",
        architecture="Qwen2ForCausalLM",
        precision="int4",
        layers=2,
        attention_heads=2,
        kv_heads=1,
        head_size=64,
        hidden_size=128,
        vocab_size=1024,
        context_length=512,
        eos_token_ids=(2,),
        sampling={"temperature": 0.0},
        files=files,
    )
    onnx_manifest.write(tmp_path, manifest)
    return tmp_path


def _change(folder: Path, **fields: Any) -> None:
    path = folder / onnx_manifest.FILE_NAME
    document = json.loads(path.read_text())
    document.update(fields)
    path.write_text(json.dumps(document))


def test_what_was_written_is_read_and_verified(folder: Path) -> None:
    manifest = onnx_manifest.read(folder)
    onnx_manifest.verify(folder, manifest)
    assert manifest.eos_token_ids == (2,)
    assert list(manifest.files) == ["model.onnx", "tokenizer.json"]
    assert manifest.kv_bytes_per_token == 2 * 2 * 1 * 64 * 4


def test_unknown_fields_are_ignored(folder: Path) -> None:
    _change(folder, invented_later=True)
    assert onnx_manifest.read(folder).layers == 2


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match=r"^tokenizer.json is missing") as caught:
        onnx_manifest.verify(folder, onnx_manifest.read(folder))
    assert caught.value.code == "file_missing"


def test_one_flipped_bit_is_found(folder: Path) -> None:
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"^model.onnx is corrupt"):
        onnx_manifest.verify(folder, onnx_manifest.read(folder))


def test_a_cut_file_is_found_by_its_size(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="has 6999 bytes, the manifest announces 7000"):
        onnx_manifest.verify(folder, onnx_manifest.read(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "something else"),
        ("format_version", 2),
        ("name", ""),
        ("precision", "int3"),
        ("layers", 0),
        ("layers", True),
        ("vocab_size", "1024"),
        ("eos_token_ids", [1024]),
        ("eos_token_ids", 2),
        ("graph", "absent.onnx"),
        ("sampling", {"temperature": 9}),
        ("sampling", {"top_z": 1}),
        ("files", {"../model.onnx": {"sha256": "0" * 64, "size_bytes": 1}}),
        ("files", {"model.onnx": {"sha256": "short", "size_bytes": 1}}),
        ("files", {"model.onnx": {"sha256": "0" * 64, "size_bytes": -1}}),
        ("files", {"model.onnx": []}),
    ],
)
def test_a_wrong_field_is_named(folder: Path, field: str, value: Any) -> None:
    _change(folder, **{field: value})
    with pytest.raises(BadRequest) as caught:
        onnx_manifest.read(folder)
    assert caught.value.code == "manifest_invalid"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / onnx_manifest.FILE_NAME).write_bytes(content)
    with pytest.raises(BadRequest, match=r"manifest.json is not a valid manifest"):
        onnx_manifest.read(folder)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="the file is missing"):
        onnx_manifest.read(tmp_path)
