"""Reading what a Xet client uploads: xorbs (packed chunks) and shards (which chunks make a file).

Little-endian throughout. A xorb is chunks one after another: version u8 (0), packed length u24, packing u8
(0 none, 1 LZ4 frame, 2 bytes grouped by position modulo 4 then LZ4 frame), plain length u24, data; a footer
may follow and is not needed. A shard is a 48-byte header (the word `HFRepoMetaData` first), then files:
48-byte records, see `read_shard`. All of it comes from a stranger: every length is checked before it is used.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lz4.frame

from catalog.ground.errors import BadRequest

MAX_CHUNK_BYTES = 2 << 20
_SHARD_TAG = b"HFRepoMetaData"
_RECORD_BYTES = 48
_HAS_VERIFICATION = 1 << 31
_HAS_METADATA = 1 << 30
_NO_MORE = b"\xff" * 32


def _bad(what: str) -> BadRequest:
    return BadRequest(f"The Xet upload cannot be read: {what}.", code="xet_invalid", rule="hub.xet")


class Segment(NamedTuple):
    """Chunks `[first, last)` of one xorb, `size_bytes` when unpacked."""

    xorb: str
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file: its sha256, and the segments that make it, in order."""

    sha256: str
    segments: tuple[Segment, ...]

    @property
    def size_bytes(self) -> int:
        """Return the file's length."""
        return sum(segment.size_bytes for segment in self.segments)


def hash_text(raw: bytes) -> str:
    """Return 32 bytes as Xet writes them: four little-endian u64, 16 hex digits each."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def read_shard(data: bytes) -> list[ShardFile]:
    """Return the files of a shard.

    Per file: hash 32, flags u32, n u32, 8 unused; n segments of xorb hash 32, flags u32, bytes u32, first
    u32, last u32; n verification records when bit 31 is set; 32 bytes of sha256 and 16 unused when bit 30
    is set. A record whose hash is all ones ends the list.
    """
    if len(data) < _RECORD_BYTES or not data.startswith(_SHARD_TAG):
        raise _bad("this is not a shard")
    files: list[ShardFile] = []
    at = _RECORD_BYTES
    while True:
        record = data[at : at + _RECORD_BYTES]
        if record[:32] == _NO_MORE:
            return files
        if len(record) < _RECORD_BYTES:
            raise _bad("the shard ends in the middle")
        flags, count = struct.unpack_from("<II", record, 32)
        at += _RECORD_BYTES
        records = count * (2 if flags & _HAS_VERIFICATION else 1) + bool(flags & _HAS_METADATA)
        if at + records * _RECORD_BYTES > len(data):
            raise _bad("the shard ends in the middle")
        segments = tuple(_segment(data, at + index * _RECORD_BYTES) for index in range(count))
        at += records * _RECORD_BYTES
        if not flags & _HAS_METADATA:
            raise _bad("a file comes without its sha256")
        raw = data[at - _RECORD_BYTES : at - _RECORD_BYTES + 32]
        files.append(ShardFile(hash_text(raw), segments))


def _segment(data: bytes, at: int) -> Segment:
    size, first, last = struct.unpack_from("<III", data, at + 36)
    if first >= last:
        raise _bad("a segment has no chunks")
    return Segment(hash_text(data[at : at + 32]), size, first, last)


def _unpack(packed: memoryview, packing: int, length: int) -> bytes:
    if packing == 0:
        plain = bytes(packed)
    elif packing in (1, 2):
        try:
            # A few bytes of LZ4 can ask for gigabytes; never take more than was announced.
            plain = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=length + 1)
        except RuntimeError:
            raise _bad("a chunk is not LZ4") from None
    else:
        raise _bad(f"packing {packing} is not known")
    if len(plain) != length:
        raise _bad("a chunk has another length than it says")
    return _ungroup(plain) if packing == 2 else plain


def _ungroup(grouped: bytes) -> bytes:
    plain = bytearray(len(grouped))
    at = 0
    for offset in range(4):
        group = len(range(offset, len(grouped), 4))
        plain[offset::4] = grouped[at : at + group]
        at += group
    return bytes(plain)


class XorbFile:
    """A xorb in the spool, mapped; `chunks` yields unpacked chunks. Use as a context."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            if path.stat().st_size < 8:
                raise _bad("a xorb is empty")
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._offsets: list[int] = [0]

    def _offset(self, index: int) -> int:
        while len(self._offsets) <= index:
            at = self._offsets[-1]
            packed, _, _ = self._header(at)
            self._offsets.append(at + 8 + packed)
        return self._offsets[index]

    def _header(self, at: int) -> tuple[int, int, int]:
        head = self._map[at : at + 8]
        if len(head) < 8 or head[0] != 0:
            raise _bad("a xorb has fewer chunks than a shard names")
        packed, plain = int.from_bytes(head[1:4], "little"), int.from_bytes(head[5:8], "little")
        if not 0 < plain <= MAX_CHUNK_BYTES or at + 8 + packed > len(self._map):
            raise _bad("a chunk is empty, or longer than it can be")
        return packed, head[4], plain

    def chunks(self, first: int, last: int) -> Iterator[bytes]:
        """Yield chunks `[first, last)`."""
        for index in range(first, last):
            at = self._offset(index)
            packed, packing, plain = self._header(at)
            with memoryview(self._map) as view, view[at + 8 : at + 8 + packed] as body:
                yield _unpack(body, packing, plain)

    def __enter__(self) -> XorbFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self._map.close()
