"""The developer's story, told by a real client: run as a script under any huggingface_hub from 0.36 on.

    HF_ENDPOINT=… HF_TOKEN=owner OTHER_TOKEN=stranger DEV_TOKEN=colleague python story.py <work folder>

Prints one line per step that held; the first that does not is an AssertionError. Standard library and
huggingface_hub only, since it runs in environments that have nothing else.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub as hf
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

REPO = "acme/story"
api = HfApi()
stranger = HfApi(token=os.environ["OTHER_TOKEN"])
colleague = HfApi(token=os.environ["DEV_TOKEN"])


def said(step: str) -> None:
    print("ok", step, flush=True)


def refused(kind: type[Exception], act: Callable[[], object], *words: str) -> None:
    said_instead = None
    try:
        act()
    except kind as error:
        said_instead = str(error)
    assert said_instead is not None, f"{kind.__name__} was expected"
    missing = [word for word in words if word not in said_instead]
    assert not missing, f"{missing} not in {said_instead}"


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def make_folder(root: Path) -> Path:
    folder = root / "model"
    (folder / "子目录" / "deep").mkdir(parents=True)
    noise = random.Random(7)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [story]\n---\n# 故事\n")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "weights.bin").write_bytes(noise.randbytes(3_000_000))
    (folder / "repeated.bin").write_bytes(b"\0\1\2\3abcd" * 400_000)
    header = b'{"t":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}'
    tensors = len(header).to_bytes(8, "little") + header + noise.randbytes(12)
    (folder / "model.safetensors").write_bytes(tensors)
    (folder / "empty.txt").write_bytes(b"")
    (folder / "子目录" / "a b%20.json").write_text('{"名": 1}')
    (folder / "子目录" / "deep" / "tiny.bin").write_bytes(b"\0\1\2")
    return folder


def upload(folder: Path) -> str:
    url = api.create_repo(REPO, private=True)
    assert url.repo_id == REPO, url
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    refused(HfHubHTTPError, lambda: api.create_repo(REPO), "409")
    info = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="first 上传")
    head = api.model_info(REPO).sha
    assert head == info.oid, (head, info)
    assert set(api.list_repo_files(REPO)) == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }
    said("create and upload a folder")
    return str(head)


def upload_again(folder: Path, first: str) -> None:
    api.upload_folder(repo_id=REPO, folder_path=folder)
    assert api.model_info(REPO).sha == first, "an upload without changes makes no commit"
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes() + b"more")
    api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="second")
    commits = api.list_repo_commits(REPO)
    assert [commit.title for commit in commits][-3:] == ["second", "first 上传", "initial commit"]
    assert commits[0].authors == ["li"]
    said("upload the changed part only")


def read(folder: Path, first: str) -> None:
    place = Path(hf.snapshot_download(REPO))
    for path in folder.rglob("*"):
        if path.is_file():
            assert digest(place / path.relative_to(folder)) == digest(path), path
    old = hf.hf_hub_download(REPO, "weights.bin", revision=first)
    assert Path(old).stat().st_size == 3_000_000
    assert place.name == api.model_info(REPO).sha
    refused(EntryNotFoundError, lambda: hf.hf_hub_download(REPO, "nothing.bin"))
    assert hf.try_to_load_from_cache(REPO, "nothing.bin") is not None, "the absence is remembered"
    refused(RevisionNotFoundError, lambda: hf.hf_hub_download(REPO, "README.md", revision="v9"))
    said("download by revision, absences are remembered")


def look(folder: Path) -> None:
    tree = {item.path: item for item in api.list_repo_tree(REPO, recursive=True, expand=True)}
    assert tree["weights.bin"].lfs.sha256 == digest(folder / "weights.bin")
    assert tree["weights.bin"].last_commit.title == "second"
    assert tree["config.json"].last_commit.title == "first 上传"
    below = [item.path for item in api.list_repo_tree(REPO, "子目录")]
    assert below == ["子目录/a b%20.json", "子目录/deep"], below
    found = api.get_paths_info(REPO, ["config.json", "子目录", "gone"])
    assert sorted(item.path for item in found) == ["config.json", "子目录"]
    info = api.model_info(REPO, files_metadata=True, securityStatus=True)
    sizes = {item.rfilename: item.size for item in info.siblings}
    assert sizes["empty.txt"] == 0
    assert sizes["weights.bin"] == 3_000_004
    assert info.safetensors.total == 6
    assert api.get_safetensors_metadata(REPO).parameter_count == {"F16": 6}
    assert REPO in [model.id for model in api.list_models(author="acme", search="stor")]
    said("tree, paths, history, info, list")


def ranges(folder: Path) -> None:
    data = (folder / "weights.bin").read_bytes()
    file = hf.HfFileSystem().open(f"{REPO}/weights.bin", block_size=4096)
    file.seek(1_000_000)
    assert file.read(5_000) == data[1_000_000:1_005_000]
    file.seek(-4, 2)
    assert file.read() == b"more"
    said("read ranges")


def change(folder: Path) -> None:
    head = api.create_commit(
        REPO,
        [
            CommitOperationCopy("repeated.bin", "copies/big.bin"),
            CommitOperationCopy("config.json", "copies/small.json"),
            CommitOperationDelete("empty.txt"),
            CommitOperationDelete("子目录/deep/"),
        ],
        commit_message="move things",
    )
    files = api.list_repo_files(REPO)
    assert "copies/big.bin" in files
    assert "copies/small.json" in files
    assert not {"empty.txt", "子目录/deep/tiny.bin"} & set(files)
    copied = hf.hf_hub_download(REPO, "copies/big.bin", revision=head.oid)
    assert digest(copied) == digest(folder / "repeated.bin")
    add = CommitOperationAdd("late.txt", b"late")
    refused(
        HfHubHTTPError,
        lambda: api.create_commit(REPO, [add], commit_message="x", parent_commit="0" * 40),
        "412",
        "has moved",
    )
    clash = CommitOperationAdd("Config.JSON", b"{}")
    refused(
        HfHubHTTPError,
        lambda: api.create_commit(REPO, [clash], commit_message="x"),
        "letter case",
    )
    assert api.model_info(REPO).sha == head.oid
    said("copy, delete, conflicts")


def name_things() -> None:
    api.create_branch(REPO, branch="dev/1")
    refused(HfHubHTTPError, lambda: api.create_branch(REPO, branch="dev/1"), "409")
    api.upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo="x.txt", revision="dev/1")
    assert "x.txt" in api.list_repo_files(REPO, revision="dev/1")
    assert "x.txt" not in api.list_repo_files(REPO)
    api.create_tag(REPO, tag="v1", tag_message="first")
    refused(HfHubHTTPError, lambda: api.create_tag(REPO, tag="v1"), "409")
    refused(RevisionNotFoundError, lambda: api.delete_tag(REPO, tag="v7"))
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert [ref.name for ref in refs.branches] == ["dev/1", "main"]
    assert [ref.name for ref in refs.tags] == ["v1"]
    assert hf.hf_hub_download(REPO, "config.json", revision="v1")
    api.delete_branch(REPO, branch="dev/1")
    api.delete_tag(REPO, tag="v1")
    said("branches and tags")


def propose(folder: Path) -> None:
    made = colleague.upload_file(
        repo_id=REPO,
        path_or_fileobj=b"proposed",
        path_in_repo="proposal.txt",
        create_pr=True,
        commit_message="a proposal",
    )
    assert (made.pr_num, made.pr_revision) == (1, "refs/pr/1"), made
    assert "proposal.txt" in api.list_repo_files(REPO, revision="refs/pr/1")
    assert "proposal.txt" not in api.list_repo_files(REPO)
    listed = list(api.get_repo_discussions(REPO))
    assert [(item.num, item.status) for item in listed] == [(1, "open")], listed
    api.merge_pull_request(REPO, 1)
    assert "proposal.txt" in api.list_repo_files(REPO)
    assert api.get_discussion_details(REPO, 1).status == "merged"
    folder = folder / "子目录"
    (folder / "more.bin").write_bytes(random.Random(8).randbytes(70_000))
    made = api.upload_folder(repo_id=REPO, folder_path=folder, path_in_repo="pr", create_pr=True)
    assert (made.pr_num, made.pr_revision) == (2, "refs/pr/2"), made
    assert "pr/more.bin" in api.list_repo_files(REPO, revision="refs/pr/2")
    said("pull requests")


def doors() -> None:
    refused(RepositoryNotFoundError, lambda: stranger.model_info(REPO))
    refused(RepositoryNotFoundError, lambda: HfApi(token=False).model_info(REPO))
    refused(
        HfHubHTTPError,
        lambda: stranger.upload_file(
            repo_id=REPO, path_or_fileobj=b"x", path_in_repo="x", token=os.environ["OTHER_TOKEN"]
        ),
    )
    refused(HfHubHTTPError, lambda: stranger.create_repo("acme/mine"), "403")
    wrong = HfApi(token="hf_wrong")
    refused(Exception, lambda: wrong.whoami(), "Invalid user token")
    refused(HfHubHTTPError, lambda: wrong.model_info(REPO), "401")
    settings = api.update_repo_settings
    settings(REPO, private=False)
    assert stranger.model_info(REPO).id == REPO
    settings(REPO, gated="auto")

    def fetch() -> object:
        cache = os.environ["HF_HOME"] + "/empty"
        return hf.hf_hub_download(REPO, "config.json", token=stranger.token, cache_dir=cache)

    refused(GatedRepoError, fetch)
    settings(REPO, gated=False)
    assert fetch()
    refused(RepositoryNotFoundError, lambda: api.model_info("acme/nothing"))
    refused(RepositoryNotFoundError, lambda: api.dataset_info(REPO), "models only")
    api.auth_check(REPO)
    assert api.whoami()["name"] == "li"
    said("private, gated, wrong key, other kinds")


def leave() -> None:
    api.move_repo(from_id=REPO, to_id="acme/renamed")
    assert api.repo_exists("acme/renamed")
    assert not api.repo_exists(REPO)
    refused(HfHubHTTPError, lambda: colleague.delete_repo("acme/renamed"), "403")
    api.delete_repo("acme/renamed")
    assert not api.repo_exists("acme/renamed")
    api.delete_repo("acme/renamed", missing_ok=True)
    said("move and delete")


def main() -> int:
    folder = make_folder(Path(sys.argv[1]))
    first = upload(folder)
    upload_again(folder, first)
    read(folder, first)
    look(folder)
    ranges(folder)
    change(folder)
    name_things()
    propose(folder)
    doors()
    leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
