"""What the builder refuses before it starts anything heavy; no toolchain is needed for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.onnx_decoder.command import main
from quantize.onnx_decoder.proof import divergence_nats

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 384,
    "vocab_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}


def _source(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_an_incomplete_source_names_what_it_lacks(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "source").mkdir()
    assert main([str(tmp_path / "source"), str(tmp_path / "target")]) == 2
    assert "lacks config.json, tokenizer.json" in capsys.readouterr().err


def test_another_architecture_is_refused(tmp_path: Path, capsys: Any) -> None:
    source = _source(tmp_path / "source", architectures=["MambaForCausalLM"])
    assert main([str(source), str(tmp_path / "target")]) == 2
    assert "MambaForCausalLM is not one of" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_source_that_is_no_json_object(tmp_path: Path, capsys: Any, content: str) -> None:
    source = _source(tmp_path / "source")
    (source / "config.json").write_text(content)
    assert main([str(source), str(tmp_path / "target")]) == 2
    assert "config.json is not a JSON object" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [None, "128", 0])
def test_a_size_that_is_missing_is_named(tmp_path: Path, capsys: Any, wrong: Any) -> None:
    source = _source(tmp_path / "source", vocab_size=wrong)
    assert main([str(source), str(tmp_path / "target")]) == 2
    assert "config.json has no vocab_size above 0" in capsys.readouterr().err


def test_a_target_that_is_a_file_is_left_alone(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "target").write_text("mine")
    assert main([str(_source(tmp_path / "source")), str(tmp_path / "target")]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "target").read_text() == "mine"


def test_a_layer_as_wide_as_the_vocabulary_is_refused(tmp_path: Path, capsys: Any) -> None:
    """The model builder would take that layer for the output projection, and finish without a word."""
    source = _source(tmp_path / "source", intermediate_size=1024)
    assert main([str(source), str(tmp_path / "target")]) == 2
    assert "cannot tell them apart" in capsys.readouterr().err


def test_a_variant_is_never_overwritten(tmp_path: Path, capsys: Any) -> None:
    source, target = _source(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    (target / "kept").write_text("mine")
    assert main([str(source), str(target)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (target / "kept").read_text() == "mine"


def test_divergence_is_zero_for_equals_and_known_for_a_coin() -> None:
    even = np.log(np.array([[0.5, 0.5]], np.float32))
    biased = np.log(np.array([[0.25, 0.75]], np.float32))
    assert divergence_nats(even, even + 3).item() == pytest.approx(0, abs=1e-12)
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert divergence_nats(even, biased).item() == pytest.approx(expected, rel=1e-6)
