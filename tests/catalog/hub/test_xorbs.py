"""Xorbs and shards: what was packed comes out, and nonsense is refused rather than believed."""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.artifacts.local import LocalStore
from catalog.ground.errors import BadRequest, TokenMartError
from catalog.hub.reassemble import Reassembler
from catalog.hub.xorbs import MAX_CHUNK_BYTES, ShardFile, XorbFile, hash_text, read_shard

XORB = bytes(range(32))


def pack(plain: bytes, packing: int) -> bytes:
    data = plain
    if packing == 2:
        data = b"".join(plain[offset::4] for offset in range(4))
    if packing:
        data = lz4.frame.compress(data)
    head = b"\0" + len(data).to_bytes(3, "little") + bytes([packing])
    return head + len(plain).to_bytes(3, "little") + data


def shard_of(files: list[tuple[bytes, list[tuple[bytes, int, int, int]]]]) -> bytes:
    out = b"HFRepoMetaData".ljust(48, b"\0")
    for digest, segments in files:
        out += struct.pack("<32sII8x", b"\1" * 32, (1 << 31) | (1 << 30), len(segments))
        for xorb, size, first, last in segments:
            out += struct.pack("<32sIIII", xorb, 0, size, first, last)
        out += bytes(48) * len(segments) + digest + bytes(16)
    return out + b"\xff" * 32 + bytes(16)


def raw_digest(text: str) -> bytes:
    """Hash text is four little-endian words; a shard holds them as they lie in memory."""
    return struct.pack("<4Q", *(int(text[first : first + 16], 16) for first in range(0, 64, 16)))


@given(
    chunks=st.lists(
        st.tuples(st.binary(min_size=1, max_size=300), st.sampled_from([0, 1, 2])), min_size=1
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_packed_comes_out(tmp_path: Path, chunks: list[tuple[bytes, int]]) -> None:
    store = LocalStore(tmp_path / "store")
    plain = b"".join(data for data, _ in chunks)
    (tmp_path / hash_text(XORB)).write_bytes(b"".join(pack(*chunk) for chunk in chunks) + b"footer")
    digest = hashlib.sha256(plain).hexdigest()
    segments = [(XORB, len(plain), 0, len(chunks))]
    (wanted,) = read_shard(shard_of([(raw_digest(digest), segments)]))
    assert wanted.sha256 == digest
    maker = Reassembler(store, tmp_path, max_bytes=1 << 20)
    staged = maker.file(wanted)
    maker.close()
    assert staged.path.read_bytes() == plain
    staged.discard()


def test_a_file_may_take_chunks_from_anywhere(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    other = bytes(32)
    (tmp_path / hash_text(XORB)).write_bytes(
        b"".join(pack(bytes([n]) * 9, n % 3) for n in range(6))
    )
    (tmp_path / hash_text(other)).write_bytes(pack(b"other", 0))
    segments = [(XORB, 18, 4, 6), (other, 5, 0, 1), (XORB, 9, 0, 1)]
    plain = b"\4" * 9 + b"\5" * 9 + b"other" + b"\0" * 9
    digest = hashlib.sha256(plain).hexdigest()
    (wanted,) = read_shard(shard_of([(raw_digest(digest), segments)]))
    maker = Reassembler(store, tmp_path, max_bytes=1000)
    assert maker.file(wanted).size_bytes == len(plain)
    lie = ShardFile("0" * 64, wanted.segments)
    with pytest.raises(TokenMartError, match="sha256"):
        maker.file(lie)
    maker.close()
    assert len(list(store.spool.iterdir())) == 1, "what was refused is gone from the spool"


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = lz4.frame.compress(bytes(200_000_000))
    head = b"\0" + len(bomb).to_bytes(3, "little") + b"\1"
    for claimed in (1000, MAX_CHUNK_BYTES + 1):
        path = tmp_path / f"x{claimed}"
        path.write_bytes(head + claimed.to_bytes(3, "little") + bomb)
        with XorbFile(path) as xorb, pytest.raises(TokenMartError):
            list(xorb.chunks(0, 1))


SOUND = shard_of([(bytes(32), [(XORB, 10, 0, 1)]), (bytes(32), [(XORB, 10, 0, 1)] * 3)])


@given(data=st.data())
@settings(max_examples=150)
def test_a_broken_shard_is_an_error_and_nothing_else(data: st.DataObject) -> None:
    broken = bytearray(SOUND[: data.draw(st.integers(0, len(SOUND)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadRequest):
        read_shard(bytes(broken))


@given(junk=st.binary(min_size=1, max_size=200))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_xorb_is_an_error_and_nothing_else(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "xorb"
    path.write_bytes(junk)
    with suppress(BadRequest), XorbFile(path) as xorb:
        list(xorb.chunks(0, 2))
