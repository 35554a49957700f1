"""The store itself: local and behind an fsspec URL, the same promises."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.artifacts.digest import files_digest
from catalog.artifacts.staging import Staged
from catalog.artifacts.store import ArtifactStore, open_store
from catalog.ground.errors import BadRequest, IntegrityError, PayloadTooLarge
from catalog.ground.ids import ulid


@pytest.fixture(params=["local", "memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    # `local://` makes fsspec treat a folder as if it were far away.
    url = f"memory://{ulid()}" if request.param == "memory" else f"local://{tmp_path / 'far'}"
    return open_store(url, spool=tmp_path / "spool")


def stage(store: ArtifactStore, body: bytes) -> Staged:
    with store.stage() as staging:
        staging.write(body)
        return staging.finish()


def test_a_body_goes_in_and_comes_out(store: ArtifactStore) -> None:
    body = bytes(range(256)) * 100
    staged = stage(store, body)
    assert staged.sha256 == hashlib.sha256(body).hexdigest()
    assert not store.exists(staged.sha256), "staged is not stored"
    store.publish(staged)
    assert not staged.path.exists()
    with store.open(staged.sha256) as reader:
        assert reader.size_bytes == len(body)
        assert reader.read(250, 20) == body[250:270]
        assert reader.read(len(body) - 3, 100) == body[-3:]
        assert reader.read(len(body) + 5, 10) == b""
    assert [(item.sha256, item.size_bytes) for item in store.walk()] == [(staged.sha256, len(body))]
    store.publish(stage(store, body))
    assert len(list(store.walk())) == 1
    store.delete(staged.sha256)
    store.delete(staged.sha256)
    assert not store.exists(staged.sha256)
    with pytest.raises(FileNotFoundError):
        store.open(staged.sha256)


def test_what_is_refused_leaves_nothing_in_the_spool(store: ArtifactStore) -> None:
    with pytest.raises(IntegrityError, match="sha256"), store.stage() as staging:
        staging.write(b"abc")
        staging.finish(sha256="0" * 64)
    with pytest.raises(IntegrityError, match="4 bytes"), store.stage() as staging:
        staging.write(b"abc")
        staging.finish(size_bytes=4)
    with pytest.raises(PayloadTooLarge), store.stage(max_bytes=2) as staging:
        staging.write(b"abc")
    assert list(store.spool.iterdir()) == []


@given(pieces=st.lists(st.binary(max_size=3000), max_size=8))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_make_no_difference(tmp_path: Path, pieces: list[bytes]) -> None:
    store = open_store(str(tmp_path / "store"))
    with store.stage() as staging:
        for piece in pieces:
            staging.write(piece)
        staged = staging.finish()
    whole = b"".join(pieces)
    assert (staged.sha256, staged.size_bytes) == (hashlib.sha256(whole).hexdigest(), len(whole))
    staged.discard()


def test_a_reader_keeps_what_is_removed_under_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    staged = stage(store, b"still here")
    store.publish(staged)
    with store.open(staged.sha256) as reader:
        store.delete(staged.sha256)
        assert reader.read(0, 100) == b"still here"


def test_a_remote_store_needs_a_spool() -> None:
    with pytest.raises(BadRequest, match="spool"):
        open_store("memory://x")


def test_the_digest_of_a_set_of_files_is_that_of_coreutils() -> None:
    # printf 'a' > a; mkdir b; printf 'c' > b/c; sha256sum a b/c | sha256sum
    digests = {name: hashlib.sha256(name[-1:].encode()).hexdigest() for name in ("b/c", "a")}
    expected = "".join(f"{digests[name]}  {name}\n" for name in ("a", "b/c"))
    assert files_digest(digests) == hashlib.sha256(expected.encode()).hexdigest()
