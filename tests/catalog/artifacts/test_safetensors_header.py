"""Safetensors headers: what is sound is read, everything else is a sentence."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.artifacts.local import LocalStore
from catalog.artifacts.tensors import read_header, tensor_rows
from catalog.ground.errors import BadRequest


def weights(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def put(store: LocalStore, body: bytes) -> str:
    with store.stage() as staging:
        staging.write(body)
        staged = staging.finish()
    store.publish(staged)
    return staged.sha256


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


SOUND = {
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    "a": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]},
    "empty": {"dtype": "F32", "shape": [0], "data_offsets": [12, 12]},
    "__metadata__": {"format": "pt"},
}


def test_a_sound_header(store: LocalStore) -> None:
    digest = put(store, weights(SOUND, b"0123" + b"4567" * 2))
    with store.open(digest) as reader:
        header = read_header(reader)
    assert [tensor.name for tensor in header.tensors] == ["a", "b", "empty"]
    assert header.parameters() == {"BF16": 2, "F32": 2}
    assert header.metadata == {"format": "pt"}
    rows = {row["name"]: row for row in tensor_rows(store, digest, "w")}
    again = put(store, weights({"x": SOUND["a"]}, b"0123"))
    (same,) = tensor_rows(store, again, "w")
    assert rows["a"]["digest"] == same["digest"], "a tensor's digest does not depend on its file"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "shorter"),
        (struct.pack("<Q", 1 << 60), "allowed"),
        (struct.pack("<Q", 100) + b"{}", "ends before"),
        (weights(b"nonsense"), "not JSON"),
        (weights(b"[" * 5000), "not JSON"),
        (weights([1]), "not an object"),
        (weights({"a": {"dtype": "F32"}}), "lacks a field"),
        (weights({"a": 7}), "lacks a field"),
        (weights({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "whole number"),
        (weights({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"), "fill"),
        (weights({"a": SOUND["b"]}, b"1" * 12), "gap"),
        (weights({"a": SOUND["a"]}, b"12345"), "end at byte"),
        (weights({"a": SOUND["a"], "b": SOUND["a"]}, b"1234"), "overlaps"),
    ],
)
def test_what_is_wrong_is_said(store: LocalStore, body: bytes, words: str) -> None:
    with store.open(put(store, body)) as reader, pytest.raises(BadRequest, match=words):
        read_header(reader, "model.safetensors")


@given(data=st.data())
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_header_is_an_error_and_nothing_else(
    store: LocalStore, data: st.DataObject
) -> None:
    body = bytearray(weights(SOUND, b"0123" + b"4567" * 2))
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    digest = put(store, bytes(body))
    with store.open(digest) as reader, suppress(BadRequest):
        read_header(reader)
