"""The measuring program runs and writes the shape that every benchmark writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import engine_onnx

VARIANT = Path(__file__).parents[2] / "catalog" / "seed" / "listing_translator_mini" / "onnx"


def test_a_short_run_writes_its_report(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "bench" / "engine-onnx.json"
    short = ["--rounds", "2", "--requests", "2", "--new-tokens", "4", "--prompt-tokens", "4"]
    assert engine_onnx.main([str(VARIANT), *short, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(report) == {"environment", "rows", "ratios"}
    assert len(report["rows"]) == 2 * len(engine_onnx.CONCURRENCY)
    for ratio in report["ratios"].values():
        assert set(ratio) == {"median", "low", "high", "n"}
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["n"] == 2
    assert "engine: 8 at once / 1" in capsys.readouterr().out
