"""The store against a real S3 endpoint: run as a script where moto's server and s3fs are installed.

    python s3_story.py <work folder>

`make toolchain-hub-s3` makes such an environment. Prints one line per step that held.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

from catalog.artifacts.store import open_store

BUCKET = "artifacts"


def main() -> int:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    try:
        tell(Path(sys.argv[1]))
    finally:
        server.stop()
    return 0


def tell(folder: Path) -> None:
    store = open_store(f"s3://{BUCKET}/models", spool=folder / "spool")
    body = random.Random(3).randbytes(7_000_000)
    digest = hashlib.sha256(body).hexdigest()
    with store.stage() as staging:
        staging.write(body)
        staged = staging.finish(sha256=digest)
    assert not store.exists(digest)
    store.publish(staged)
    assert not staged.path.exists()
    print("ok publish", flush=True)
    with store.open(digest) as reader:
        assert reader.size_bytes == len(body)
        assert reader.read(6_999_990, 100) == body[-10:]
        assert reader.read(1_000_000, 4096) == body[1_000_000:1_004_096]
    print("ok ranges", flush=True)
    (found,) = store.walk()
    assert (found.sha256, found.size_bytes) == (digest, len(body))
    assert found.modified_at_us > 1_600_000_000_000_000
    print("ok walk", flush=True)
    with store.stage() as staging:
        staging.write(body)
        store.publish(staging.finish())
    assert len(list(store.walk())) == 1
    store.delete(digest)
    store.delete(digest)
    assert not store.exists(digest)
    print("ok delete", flush=True)


if __name__ == "__main__":
    sys.exit(main())
