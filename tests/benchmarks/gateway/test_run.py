"""A short whole run of this gateway: set up, paid in both ways, measured, written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gateway.__main__ import main
from benchmarks.gateway.scenarios import MAIN


def test_a_short_run_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gateway.json"
    # The waterfall, because it needs everything that one voucher needs, and more.
    short = ["--targets", "tokenmart-waterfall", "--seconds", "0.2", "--rounds", "1", "--offline"]
    assert main([*short, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(report) == {"environment", "rows", "ratios"}
    costs = {
        row["target"]: row["cpu_us"] for row in report["rows"] if row.get("scenario") == MAIN.name
    }
    assert costs["direct"] == 0
    assert costs["tokenmart-waterfall"] > 0
    assert any(row.get("pss_mib", 0) > 0 for row in report["rows"])
    # Every ratio needs somebody who did not take part.
    assert report["ratios"] == {}
    assert "tokenmart-waterfall*" in capsys.readouterr().out
    # The folder of the run, with its databases, is gone.
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_an_unknown_target_is_called_wrongly(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--targets", "tokenmart,unheard-of"])
    assert "unheard-of" in capsys.readouterr().err
