"""Settings that cannot be meant are refused by name, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from catalog.ground.errors import BadRequest
from marketplace.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DRAIN_S", "inf", "at most"),
        ("SLOW_REQUEST_S", "inf", "at most"),
        ("QUEUE_PATIENCE_S", "nan", "greater than 0"),
        ("HOLD_TTL_S", "9" * 20, "at most"),
        ("KEY_RPM", "9" * 20, "at most"),
        ("BODY_LIMIT_BYTES", "9" * 20, "at most"),
        ("FREE_DAILY_U", "9" * 20, "at most"),
        ("DATABASE_URL", "nonsense", "no address of a database"),
        ("DATABASE_URL", "postgresql://tm:p/w@host:port/market", "no address of a database"),
        ("OTLP_URL", "127.0.0.1:4318", "not a web address"),
        ("PUBLIC_URL", "market.example", "not a web address"),
        ("TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8", "'10.0.0.0/8' is not an address"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"TOKENMART_{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (wrong,) = refused.value.errors()
    assert wrong["loc"] == (name.lower(),)
    assert words in wrong["msg"]
    assert "p/w" not in wrong["msg"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DRAIN_S", "86400"),
        ("FREE_DAILY_U", "5000000000"),
        ("DATABASE_URL", "postgresql://tm:p%2Fw@host:5432/market"),
        ("TRUSTED_PROXIES", "10.0.0.5, ::1,"),
        ("TRUSTED_PROXIES", ""),
    ],
)
def test_what_is_meant_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TOKENMART_{name}", value)
    assert str(getattr(Settings(), name.lower())).removesuffix(".0") == value


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="TOKENMART_DATA_DIR"):
        _ = Settings(data_dir=tmp_path / "file" / "data").database
