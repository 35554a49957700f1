"""What is refused, in words, and that the store is as clean afterwards as it was before."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from catalog.artifacts.collect import collect
from catalog.hub.scrub import scrub

LIMITS = {
    "org_quota_bytes": 300_000,
    "file_max_bytes": 250_000,
    "inline_max_bytes": 20_000,
    "repo_files_max": 40,
    "multipart_from_bytes": 100_000,
    "part_bytes": 50_000,
}


@pytest.fixture
def hub(thread_hub: Callable[..., Any]) -> Any:
    hub = thread_hub(**LIMITS)
    assert hub.ask("POST", "/api/repos/create", {"name": "m", "organization": "acme"}).status == 200
    return hub


def small(path: str, body: bytes = b"x", **more: Any) -> dict[str, Any]:
    content = base64.b64encode(body).decode()
    value = {"path": path, "encoding": "base64", "content": content}
    return {"key": "file", "value": value | more}


def large(path: str, body: bytes, **more: Any) -> dict[str, Any]:
    oid = hashlib.sha256(body).hexdigest()
    value = {"path": path, "algo": "sha256", "oid": oid, "size": len(body)}
    return {"key": "lfsFile", "value": value | more}


def batch(hub: Any, body: bytes, *, claim: bytes | None = None, **options: Any) -> Any:
    oid = hashlib.sha256(body if claim is None else claim).hexdigest()
    asked = {"operation": "upload", "objects": [{"oid": oid, "size": len(body)}]}
    asked |= {"transfers": options.pop("transfers", ["basic"])}
    repo = options.pop("repo", "acme/m")
    return hub.ask("POST", f"/{repo}.git/info/lfs/objects/batch", asked, **options)


def send(hub: Any, body: bytes, *, claim: bytes | None = None) -> Any:
    upload = batch(hub, body, claim=claim).json()["objects"][0]["actions"]["upload"]
    return hub.ask("PUT", urlsplit(upload["href"]).path, body, key=None)


def files(hub: Any) -> list[str]:
    tree = hub.ask("GET", "/api/models/acme/m/tree/main?recursive=true").json()
    return [item["path"] for item in tree]


def clean(hub: Any) -> None:
    """Nothing half done is left: rows and bytes agree, and the collector has nothing to keep."""
    assert scrub(hub.database, hub.store) == []
    assert not [path for path in hub.store.spool.rglob("*") if path.is_file()]
    collect(hub.database, hub.store, grace_us=-1)
    assert scrub(hub.database, hub.store) == []


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/x", "a//b", ".git/config", "a/.GIT/x", "a\\b", "a\nb", "", "x" * 300,
     "a/./b", "e\u0301", "trailing ", "dot.", "a\u202eb", ".cache/x", "\ud800", "C:/x", "a?b", "nul",
     "a/Aux.txt", "com1"],
)  # fmt: skip
def test_a_path_that_would_lead_astray_is_refused(hub: Any, path: str) -> None:
    answer = hub.commit("acme/m", small("fine.txt"), small(path))
    assert answer.status == 400, answer.body
    assert answer.json()["error"]
    assert files(hub) == []
    clean(hub)


def test_links_and_modes_are_refused(hub: Any) -> None:
    answer = hub.commit("acme/m", small("link", b"/etc/passwd", mode="120000"))
    assert answer.status == 400
    assert "no links" in answer.json()["error"]
    clean(hub)


def test_names_that_differ_in_letter_case_are_refused(hub: Any) -> None:
    assert hub.commit("acme/m", small("a/Model.json")).status == 200
    for changes in ([small("a/model.json")], [small("A/x")], [small("b/X"), small("b/x")]):
        answer = hub.commit("acme/m", *changes)
        assert (answer.status, answer.headers["x-error-code"]) == (409, "path_case_conflict")
    deleted = {"key": "deletedFile", "value": {"path": "a/Model.json"}}
    assert hub.commit("acme/m", deleted, small("a/model.json")).status == 200
    assert files(hub) == ["a", "a/model.json"]
    clean(hub)


def test_a_file_and_a_folder_cannot_share_a_name(hub: Any) -> None:
    assert hub.commit("acme/m", small("a/b")).status == 200
    assert hub.commit("acme/m", small("a")).status == 400
    assert hub.commit("acme/m", small("a/b/c")).status == 400
    assert hub.commit("acme/m", small("t"), small("t")).status == 400
    clean(hub)


def test_a_folder_that_a_commit_empties_leaves_its_name(hub: Any) -> None:
    def gone(path: str) -> dict[str, Any]:
        return {"key": "deletedFile", "value": {"path": path}}

    assert hub.commit("acme/m", small("Dir/deep/a"), small("d/f")).status == 200
    assert hub.commit("acme/m", gone("Dir/deep/a"), small("dir/a")).status == 200
    assert hub.commit("acme/m", gone("d/f"), small("d")).status == 200
    assert files(hub) == ["d", "dir", "dir/a"]
    clean(hub)


def test_an_empty_file_is_a_file(hub: Any) -> None:
    assert hub.commit("acme/m", small("empty", b"")).status == 200
    answer = hub.ask("GET", "/acme/m/resolve/main/empty")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert answer.headers["etag"] == '"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"'
    assert (
        hub.ask("GET", "/acme/m/resolve/main/empty", headers={"Range": "bytes=0-9"}).status == 416
    )
    clean(hub)


def test_bytes_that_are_not_what_was_announced_are_refused(hub: Any) -> None:
    answer = send(hub, b"these bytes", claim=b"other bytes")
    assert (answer.status, answer.headers["x-error-code"]) == (400, "integrity_error")
    short = batch(hub, b"12345678").json()["objects"][0]["actions"]["upload"]["href"]
    assert hub.ask("PUT", urlsplit(short).path, b"1234", key=None).status == 400
    assert hub.ask("PUT", urlsplit(short).path, b"123456789", key=None).status == 413
    missing = hub.commit("acme/m", large("w.bin", b"never sent"))
    assert (missing.status, missing.headers["x-error-code"]) == (400, "lfs_missing")
    clean(hub)


def test_a_link_is_good_for_one_thing_only(hub: Any) -> None:
    href = urlsplit(batch(hub, b"some").json()["objects"][0]["actions"]["upload"]["href"]).path
    assert hub.ask("PUT", href[:-1] + ("A" if href[-1] != "A" else "B"), b"some").status == 403
    assert hub.ask("PUT", "/_lfs/nonsense", b"some").status == 403
    token = hub.ask("GET", "/api/models/acme/m/xet-write-token/main").json()["accessToken"]
    assert hub.ask("PUT", f"/_lfs/{token}", b"some").status == 403


def test_a_safetensors_header_must_be_sound(hub: Any) -> None:
    huge = struct.pack("<Q", 1 << 40) + b"{}"
    gap = json.dumps({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode()
    odd = json.dumps({"t": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}).encode()
    # Multiplied out, these would keep everybody waiting for minutes; quoted, they fit into no header.
    numbers = b'{"t":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}'
    long, many = numbers % b",".join([b"9" * 4000] * 20), numbers % b",".join([b"1"] * 99)
    for body in (
        huge,
        b"tiny",
        struct.pack("<Q", len(gap)) + gap + b"\0" * 8,
        *(struct.pack("<Q", len(head)) + head + bytes(4) for head in (odd, long, many)),
    ):
        assert send(hub, body).status == 200
        answer = hub.commit("acme/m", large("model.safetensors", body))
        assert (answer.status, answer.headers["x-error-code"]) == (400, "safetensors_invalid")
        assert len(answer.headers["x-error-message"]) <= 1000
    assert files(hub) == []
    clean(hub)


def test_weights_are_counted_from_the_header(hub: Any) -> None:
    tensor = {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]}
    header = json.dumps({"t": tensor, "__metadata__": {"format": "pt"}}).encode()
    body = struct.pack("<Q", len(header)) + header + b"\1" * 12
    assert send(hub, body).status == 200
    assert hub.commit("acme/m", large("model.safetensors", body)).status == 200
    info = hub.ask("GET", "/api/models/acme/m").json()
    assert info["safetensors"] == {"parameters": {"F16": 6}, "total": 6}


def test_a_quota_holds_at_every_door(hub: Any) -> None:
    first = b"a" * 200_000
    assert send(hub, first).status == 200
    second = b"b" * 150_000
    for answer in (
        batch(hub, second),
        hub.ask(
            "POST",
            "/api/models/acme/m/preupload/main",
            {"files": [{"path": "b.bin", "size": len(second), "sample": ""}]},
        ),
    ):
        assert (answer.status, answer.headers["x-error-code"]) == (403, "quota_exceeded")
        assert "300000 bytes" in answer.json()["error"]
    big = batch(hub, b"c" * 10).json()["objects"][0]["actions"]["upload"]["href"]
    assert hub.ask("PUT", urlsplit(big).path, b"c" * 10, key=None).status == 200
    fill = [small(f"f{number}", bytes([number]) * 19_000) for number in range(6)]
    assert hub.commit("acme/m", *fill).status == 403
    assert batch(hub, b"d" * 250_001).status in (403, 413)
    assert files(hub) == []
    clean(hub)


def test_sizes_and_counts_have_limits(hub: Any) -> None:
    assert hub.commit("acme/m", small("a", b"x" * 20_001)).status == 413
    many = [small(f"f{number}") for number in range(41)]
    answer = hub.commit("acme/m", *many)
    assert (answer.status, answer.headers["x-error-code"]) == (403, "too_many_files")
    item = {"path": "b.bin", "size": 250_001, "sample": ""}
    answer = hub.ask("POST", "/api/models/acme/m/preupload/main", {"files": [item]})
    assert answer.status == 413
    assert "max_shard_size" in answer.json()["error"]
    clean(hub)


def test_a_commit_that_cannot_be_read_changes_nothing(hub: Any) -> None:
    for body in (b"", b"{}", b"[1]\n", b'{"key":"file","value":{"path":"a"}}', b"\xff\xfe"):
        assert hub.ask("POST", "/api/models/acme/m/commit/main", body).status == 400
    bad = {"key": "file", "value": {"path": "a", "content": "%%%", "encoding": "base64"}}
    assert hub.commit("acme/m", small("b"), bad).status == 400
    assert hub.commit("acme/m", {"key": "deletedFile", "value": {"path": "no"}}).status == 404
    assert hub.commit("acme/m", {"key": "odd", "value": {"path": "no"}}).status == 400
    assert files(hub) == []
    clean(hub)


def test_a_body_of_another_shape_is_refused_in_words(hub: Any) -> None:
    repo, lfs = "/api/models/acme/m", "/acme/m.git/info/lfs/objects/batch"
    head = {"key": "header", "value": {"summary": "t", "parentCommit": 12345678}}
    for method, path, body in (
        ("POST", f"{repo}/preupload/main", {"files": 5}),
        ("POST", f"{repo}/preupload/main", {"files": ["a"]}),
        ("POST", f"{repo}/preupload/main", b'{"files":[{"path":"a","size":Infinity}]}'),
        ("POST", f"{repo}/preupload/main", {"files": [{"path": "a", "size": -1}]}),
        ("POST", f"{repo}/preupload/main", {"files": [{"path": "\ud800", "size": 1}]}),
        ("POST", f"{repo}/commit/main", head),
        ("POST", lfs, {"operation": "upload", "objects": ["x"]}),
        ("POST", lfs, {"operation": "upload", "objects": 5}),
        ("POST", "/api/repos/create", {"name": "n", "organization": ["acme"]}),
        ("DELETE", "/api/repos/delete", {"name": "m", "organization": ["acme"]}),
    ):
        answer = hub.ask(method, path, body)
        assert (answer.status, bool(answer.json()["error"])) == (400, True), (path, body)
    assert hub.ask("POST", "/api/repos/create", {"name": "n", "type": "\ud800"}).status == 404
    assert hub.ask("GET", f"{repo}/tree/main?cursor={'9' * 30}").json() == []


def test_two_writers_with_one_parent_make_one_commit(hub: Any) -> None:
    head = hub.ask("GET", "/api/models/acme/m").json()["sha"]
    statuses: list[int] = []

    def write(number: int) -> None:
        answer = hub.commit("acme/m", small(f"f{number}"), parent=head)
        statuses.append(answer.status)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    assert sorted(statuses) == [200] + [412] * 5
    assert len(files(hub)) == 1
    clean(hub)


def test_writers_without_a_parent_all_get_in(hub: Any) -> None:
    def write(number: int) -> None:
        hub.commit("acme/m", small(f"f{number}"))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    assert files(hub) == [f"f{number}" for number in range(6)]
    assert len(hub.ask("GET", "/api/models/acme/m/commits/main").json()) == 7
    clean(hub)


def test_knowing_a_digest_gives_no_right_to_the_bytes(hub: Any) -> None:
    secret = b"weights that are private" * 100
    assert send(hub, secret).status == 200
    assert hub.commit("acme/m", large("w.bin", secret)).status == 200
    assert hub.ask("PUT", "/api/models/acme/m/settings", {"private": True}).status == 200
    made = hub.ask("POST", "/api/repos/create", {"name": "theirs"}, key="hf_other")
    assert made.status == 200
    stolen = hub.commit("other/theirs", large("w.bin", secret), key="hf_other")
    assert (stolen.status, stolen.headers["x-error-code"]) == (400, "lfs_missing")
    asked = batch(hub, secret, key="hf_other", repo="other/theirs")
    assert "actions" in asked.json()["objects"][0], "they have to bring the bytes"
    hub.ask("PUT", "/api/models/acme/m/settings", {"private": False})
    copied = hub.commit("other/theirs", large("w.bin", secret), key="hf_other")
    assert copied.status == 200, "what anybody may read, anybody may copy"
    clean(hub)


def test_parts_arrive_in_any_order_and_survive_a_restart(hub: Any) -> None:
    body = bytes(range(256)) * 500
    upload = batch(hub, body, transfers=["basic", "multipart"]).json()["objects"][0]["actions"]
    header = upload["upload"]["header"]
    assert header.pop("chunk_size") == "50000"
    parts = []
    for number in ("3", "1"):
        first = (int(number) - 1) * 50_000
        path = urlsplit(header[number]).path
        answer = hub.ask("PUT", path, body[first : first + 50_000], key=None)
        parts.append({"partNumber": int(number), "etag": answer.headers["etag"]})
    done = urlsplit(upload["upload"]["href"]).path
    assert hub.ask("POST", done, {"parts": parts}, key=None).status == 400, "part 2 is missing"
    hub.stop()
    hub.start()
    answer = hub.ask("PUT", urlsplit(header["2"]).path, body[50_000:100_000], key=None)
    parts.append({"partNumber": 2, "etag": answer.headers["etag"]})
    for _ in range(2):  # the second time because the first answer did not arrive
        assert hub.ask("POST", done, {"parts": parts}, key=None).status == 200
    assert hub.commit("acme/m", large("w.bin", body)).status == 200
    assert hub.ask("GET", "/acme/m/resolve/main/w.bin").body == body
    clean(hub)


@pytest.mark.parametrize(
    "key", [None, "hf_other", "hf_auditor", "hf_dev", "hf_owner", "hf_operator"]
)
def test_every_door_for_every_visitor(hub: Any, key: str | None) -> None:
    hub.ask("PUT", "/api/models/acme/m/settings", {"private": True})
    member = key in ("hf_auditor", "hf_dev", "hf_owner", "hf_operator")
    writer = key in ("hf_dev", "hf_owner", "hf_operator")
    admin = key in ("hf_owner", "hf_operator")
    assert (hub.ask("GET", "/api/models/acme/m", key=key).status == 200) is member
    assert (hub.ask("GET", "/api/models/acme/m/tree/main", key=key).status == 200) is member
    listed = [item["id"] for item in hub.ask("GET", "/api/models", key=key).json()]
    assert ("acme/m" in listed) is member
    assert (hub.commit("acme/m", small("x"), key=key).status == 200) is writer
    token = hub.ask("GET", "/api/models/acme/m/xet-write-token/main", key=key)
    assert (token.status == 200) is writer
    settings = hub.ask("PUT", "/api/models/acme/m/settings", {"gated": "manual"}, key=key)
    assert (settings.status == 200) is admin
    removed = hub.ask("DELETE", "/api/repos/delete", {"name": "m", "organization": "acme"}, key=key)
    assert (removed.status == 200) is admin
    if not member:
        unseen = hub.ask("GET", "/api/models/acme/m", key=key)
        free = hub.ask("GET", "/api/models/acme/free", key=key)
        assert unseen.headers["x-error-code"] == free.headers["x-error-code"] == "RepoNotFound"
        assert unseen.status == free.status == 404


@pytest.mark.parametrize("key", [None, "hf_other", "hf_auditor"])
def test_behind_a_closed_gate_a_stranger_sees_the_name_and_nothing_else(
    hub: Any, key: str | None
) -> None:
    card = b"---\ntags: [unread]\nlicense: mit\n---\nWords that nobody has reviewed."
    assert hub.commit("acme/m", small("README.md", card)).status == 200
    opened = hub.ask("POST", "/api/models/acme/m/discussions", {"title": "secret"})
    assert opened.status == 200
    hub.ask("PUT", "/api/models/acme/m/settings", {"gated": "manual"})
    repo, member = "/api/models/acme/m", key == "hf_auditor"
    for method, path in (
        ("GET", repo),
        ("GET", f"{repo}/revision/main?blobs=true"),
        ("GET", f"{repo}/tree/main?expand=true"),
        ("POST", f"{repo}/paths-info/main"),
        ("GET", f"{repo}/commits/main"),
        ("GET", f"{repo}/refs"),
        ("GET", f"{repo}/discussions"),
        ("GET", f"{repo}/discussions/1"),
        ("GET", f"{repo}/releases"),
        ("GET", f"{repo}/auth-check"),
        ("GET", "/acme/m/resolve/main/README.md"),
    ):
        answer = hub.ask(method, path, key=key)
        seen = (answer.status, answer.headers.get("x-error-code"))
        assert seen == ((200, None) if member else (403, "GatedRepo")), path
    (listed,) = hub.ask("GET", "/api/models?full=true", key=key).json()
    assert (listed["id"], "siblings" in listed) == ("acme/m", member)
    assert listed["tags"] == (["unread", "license:mit"] if member else [])
    assert len(hub.ask("GET", "/api/models?filter=unread", key=key).json()) == member


def test_a_name_without_an_organisation_is_told_as_unknown(hub: Any) -> None:
    for path in (
        "/api/models/gpt2",
        "/api/models/gpt2/revision/main",
        "/api/models/gpt2/tree/main",
        "/gpt2/resolve/main/config.json",
    ):
        answer = hub.ask("GET", path)
        assert (answer.status, answer.headers.get("x-error-code")) == (404, "RepoNotFound"), path


def test_absences_carry_what_the_clients_look_for(hub: Any) -> None:
    head = hub.ask("GET", "/api/models/acme/m").json()["sha"]
    for path in (
        "/acme/m/resolve/main/no.json",
        "/api/models/acme/m/tree/main/additional_chat_templates",
    ):
        answer = hub.ask("HEAD" if "resolve" in path else "GET", path)
        assert answer.status == 404
        assert answer.headers["x-error-code"] == "EntryNotFound"
        assert answer.headers["x-repo-commit"] == head
    answer = hub.ask("HEAD", f"/acme/m/resolve/{quote('没有', safe='')}/x")
    assert answer.headers["x-error-code"] == "RevisionNotFound"
    assert "\\u6ca1" in answer.headers["x-error-message"], "headers hold latin-1 only"


def test_a_page_links_to_the_next(thread_hub: Callable[..., Any]) -> None:
    hub = thread_hub(page_entries=3)
    hub.ask("POST", "/api/repos/create", {"name": "acme/m"})
    hub.commit("acme/m", *[small(f"d/f{number}") for number in range(7)])
    url, seen = "/api/models/acme/m/tree/main/d?recursive=true", []
    while url:
        answer = hub.ask("GET", url)
        seen += [item["path"] for item in answer.json()]
        link = answer.headers.get("link", "")
        assert not link or link.startswith(f"<{hub.url}/api/models/acme/m/tree/main/d?")
        url = link.partition(">")[0].removeprefix(f"<{hub.url}")
    assert seen == [f"d/f{number}" for number in range(7)]


def test_too_many_requests_say_when_to_come_again(thread_hub: Callable[..., Any]) -> None:
    hub = thread_hub(requests_per_minute=3)
    answers = [hub.ask("GET", "/api/models") for _ in range(5)]
    assert [answer.status for answer in answers][-1] == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_downloads_are_counted(hub: Any, tmp_path: Path) -> None:
    hub.commit("acme/m", small("x", b"0123456789"))
    for _ in range(3):
        hub.ask("GET", "/acme/m/resolve/main/x", headers={"X-HF-Download-Counter": "1"})
    resumed = {"X-HF-Download-Counter": "1", "Range": "bytes=5-"}
    assert hub.ask("GET", "/acme/m/resolve/main/x", headers=resumed).body == b"56789"
    hub.stop()
    hub.start()
    assert hub.ask("GET", "/api/models/acme/m").json()["downloads"] == 3
