"""The file: what it may say, and that secrets are not in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from catalog.ground.errors import BadRequest
from serving.litellm_adapter.config import Config, load

ROOT = Path(__file__).parents[3]
SECRETS = {"K": "sk-1", "H": "header-secret", "A": "aws-secret"}
MODEL = '[models.m]\nmodel = "openai/x"\napi_base = "https://api.acme.example/v1"\n'


def read(folder: Path, text: str) -> Config:
    path = folder / "adapter.toml"
    path.write_text(text)
    return load(path, SECRETS)


def test_what_a_call_gets(tmp_path: Path) -> None:
    more = 'api_key_env = "K"\nheaders = { x-a = "1" }\nheaders_env = { x-b = "H" }\n'
    more += 'parameters = { api_version = "2" }\nsecrets_env = { aws_secret_access_key = "A" }\n'
    config = read(tmp_path, 'allowed_hosts = ["Other.Example:8443"]\n' + MODEL + more)
    assert config.models["m"].arguments == {
        "api_base": "https://api.acme.example/v1",
        "api_key": "sk-1",
        "api_version": "2",
        "aws_secret_access_key": "aws-secret",
        "extra_headers": {"x-a": "1", "x-b": "header-secret"},
    }
    assert config.hosts == {("api.acme.example", 443), ("other.example", 8443)}
    assert set(config.secrets) == set(SECRETS.values())
    assert not any(secret in repr(config) for secret in SECRETS.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "models"),
        ("[models]\n", "no model"),
        ("models = [", "not TOML"),
        ('[models.m]\nmodel = "openai/x"\n', "no host"),
        ('[models.m]\nmodel = "gpt"\napi_base = "https://a.example"\n', "provider/name"),
        (MODEL + 'api_key = "sk-1"\n', "api_key"),
        (MODEL + 'api_key_env = "UNSET"\n', "UNSET is not set"),
        (MODEL + 'parameters = { aws_secret_access_key = "x" }\n', "secrets_env"),
        (MODEL + "parameters = { num_retries = 3 }\n", "num_retries"),
        (MODEL + 'pass_fields = ["api_base"]\n', "api_base"),
        (MODEL + 'pass_fields = ["api_key"]\n', "api_key"),
        (MODEL + 'headers = { authorization = "x" }\n', "headers_env"),
        (MODEL + 'serves = ["images"]\n', "images"),
        (MODEL + "timeout_s = 0\n", "timeout_s"),
        ("max_concurency = 3\n" + MODEL, "max_concurency"),
        (MODEL.replace("https://", "ftp://"), "http"),
        (MODEL.replace("https://", "https://me:pw@"), "password"),
        ('allowed_hosts = ["https://a.example/v1"]\n' + MODEL, "host:port"),
    ],
)
def test_what_it_may_not_say(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(words)) as caught:
        read(tmp_path, text)
    assert caught.value.code == "invalid_config"


def test_the_example_in_the_documentation_is_a_file_that_loads(tmp_path: Path) -> None:
    page = (ROOT / "docs/providers.md").read_text()
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example
    named = re.findall(r'_env\s*=\s*(?:"(\w+)"|\{[^}]*"(\w+)"\s*\})', example[1])
    path = tmp_path / "adapter.toml"
    path.write_text(example[1])
    config = load(path, {one or other: "secret" for one, other in named})
    assert len(config.models) >= 3


def test_every_field_is_on_its_page() -> None:
    from serving.litellm_adapter.config import File, Model

    page = (ROOT / "docs/providers.md").read_text()
    for name in (*File.__struct_fields__, *Model.__struct_fields__):
        assert f"`{name}`" in page, f"docs/providers.md says nothing of {name}"


def test_litellm_is_imported_by_the_adapter_alone() -> None:
    importing = re.compile(r"^\s*(?:import|from) litellm\b", re.MULTILINE)
    for folder in ("marketplace", "benchmarks", "quantize", "serving", "catalog"):
        for path in (ROOT / folder).glob("**/*.py"):
            if importing.search(path.read_text()):
                assert path.parent == ROOT / "serving/litellm_adapter", path
