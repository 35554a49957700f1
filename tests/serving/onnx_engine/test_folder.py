"""A folder that is not as its manifest says: one clear sentence, exit code 2, nothing is served."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[3]


def _refused(folder: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "serving.onnx_engine", str(folder), "--port", "0", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, "one sentence, no traceback"
    return done.stderr


def _change_manifest(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _write(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda f: (f / "manifest.json").unlink(),
            "manifest.json is not a valid manifest: the file",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda f: _flip(f / "model.onnx"), "model.onnx is corrupt"),
        (lambda f: _change_manifest(f, layers=77), "does not describe model.onnx"),
        (lambda f: _change_manifest(f, layers=2**52), "does not describe model.onnx"),
        (lambda f: _change_manifest(f, vocab_size=99_999), "does not describe model.onnx"),
        (lambda f: _change_manifest(f, format_version=9), '"format_version" must be 1'),
    ],
)
def test_a_harmed_folder_is_refused(
    copy: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    harm(copy)
    assert sentence in _refused(copy)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("model.onnx", "no graph", "onnxruntime cannot load it"),
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer"),
        ("tokenizer_config.json", "[" * 100_000, "tokenizer_config.json is not a JSON object"),
        ("chat_template.jinja", "{% for %}", "chat template is not valid"),
        ("chat_template.jinja", b"\xff\xfe{{ messages }}", "chat_template.jinja is not UTF-8"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    copy: Path, announce: Any, name: str, content: str | bytes, sentence: str
) -> None:
    _write(copy, name, content)
    announce(copy, name)
    assert sentence in _refused(copy)


def test_a_tokenizer_of_more_tokens_than_the_model_harms_no_neighbour(
    copy: Path, announce: Any, start: Any, titles: list[str]
) -> None:
    path = copy / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save(str(path))
    announce(copy, path.name)
    engine = start(folder=copy)
    ask = {"model": engine.model, "stream": True, "extra_body": {"ignore_eos": True}}
    with engine.client.completions.create(prompt=titles[0], max_tokens=400, **ask) as neighbour:
        next(neighbour)
        for text in ("<extra>", [0, 10**9]):
            with pytest.raises(openai.BadRequestError, match="outside the model's vocabulary"):
                engine.client.completions.create(model=engine.model, prompt=text)
        with pytest.raises(openai.BadRequestError) as caught:
            engine.client.chat.completions.create(
                model=engine.model, messages=[{"role": "user", "content": "<extra>"}]
            )
        assert caught.value.param == "messages"
        *_, last = neighbour
    assert last.choices[0].finish_reason == "length"


def test_of_several_templates_the_default_is_taken(copy: Path, announce: Any, start: Any) -> None:
    template = (copy / "chat_template.jinja").read_text(encoding="utf-8")
    (copy / "chat_template.jinja").unlink()
    config = json.loads((copy / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "?"}, {"name": "default", "template": template}]
    # A token may be described by an object, and by one without its text.
    changes = {"chat_template": named, "sep_token": {"id": 3}}
    _write(copy, "tokenizer_config.json", json.dumps(config | changes))
    announce(copy, "tokenizer_config.json")
    engine = start(folder=copy)
    answer = engine.client.chat.completions.create(
        model=engine.model, messages=[{"role": "user", "content": "红色"}], max_tokens=3
    )
    assert answer.choices[0].message.content


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "There is no folder" in _refused(tmp_path / "nowhere")


def test_a_context_longer_than_the_models_is_refused(variant: Path) -> None:
    assert "is more than the model's context" in _refused(variant, "--max-model-len", "99999")


def test_an_address_that_is_taken(engine: Any, variant: Path) -> None:
    port = engine.url.rpartition(":")[2]
    assert "Cannot listen on" in _refused(variant, "--port", port)


def test_the_engine_is_ready_in_under_three_seconds(start: Any) -> None:
    began = time.monotonic()
    start()
    assert time.monotonic() - began < 3
