"""The adapter's file: which models there are, where they are, and which hosts may be spoken to.

Secrets are never in it, only the names of the environment variables that hold them. Unknown fields are
refused, so that a misspelt limit is not a missing one.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from catalog.ground.errors import BadRequest

Endpoint = Literal["chat", "completions", "embeddings", "moderations"]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Host = tuple[str, int]
"""A name (or address) in lower case, and a port."""

_SECRET = re.compile(r"key|secret|token$|password|credential|authorization", re.IGNORECASE)
_OURS = frozenset(
    {"model", "messages", "stream", "stream_options", "timeout", "api_base", "base_url"}
    | {"num_retries", "max_retries", "fallbacks", "context_window_fallback_dict", "mock_response"}
    | {"model_list", "cache", "caching", "extra_headers", "drop_params", "client", "logger_fn"}
)
"""Arguments of litellm that this adapter sets, or that would change what an answer costs."""


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model: the name before it is public, `model` is litellm's (`provider/name`).

    `timeout_s` bounds the whole of an answer, and in a stream each silence. `pass_fields` are request
    fields beyond OpenAI's that go to the provider; `parameters` are sent with every call.
    """

    model: str
    serves: tuple[Endpoint, ...] = ("chat",)
    api_base: str | None = None
    api_key_env: str | None = None
    headers: dict[str, str] = {}
    headers_env: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    secrets_env: dict[str, str] = {}
    pass_fields: tuple[str, ...] = ()
    drop_params: bool = False
    timeout_s: Seconds = 120.0
    max_concurrency: Positive | None = None
    context_length: Positive | None = None


class File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    models: dict[str, Model]
    allowed_hosts: tuple[str, ...] = ()
    max_concurrency: Positive = 64
    max_body_bytes: Positive = 8 * 2**20


class Served(Struct, frozen=True, kw_only=True):
    """A model with its secrets read: what calls need. Not to be printed."""

    name: str
    settings: Model
    arguments: dict[str, Any]
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Served({self.name!r})"


class Config(Struct, frozen=True, kw_only=True):
    """Everything that the adapter needs to know."""

    models: dict[str, Served]
    hosts: frozenset[Host]
    max_concurrency: int
    max_body_bytes: int

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret, longest first: none of them may leave in an answer or a log."""
        found = {secret for model in self.models.values() for secret in model.secrets}
        return tuple(sorted(found, key=len, reverse=True))


def load(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Return the checked configuration; `BadRequest` says which line of thought is wrong.

    Raises the same for an environment variable that is named and not set.
    """
    environment = os.environ if environment is None else environment
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        file = msgspec.convert(document, File)
    except OSError as error:
        raise _wrong(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(f"{path} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise _wrong(f"{path}: {error}") from None
    if not file.models:
        raise _wrong(f"{path} lists no model")
    hosts = {_host(entry, f"allowed_hosts: {entry!r}") for entry in file.allowed_hosts}
    for name, model in file.models.items():
        if model.api_base is not None:
            hosts.add(_host_of_url(model.api_base, f"models.{name}.api_base"))
    if not hosts:
        raise _wrong(
            f"{path}: no host may be spoken to; set api_base, or name the provider's host in "
            "allowed_hosts"
        )
    return Config(
        models={name: _served(name, model, environment) for name, model in file.models.items()},
        hosts=frozenset(hosts),
        max_concurrency=file.max_concurrency,
        max_body_bytes=file.max_body_bytes,
    )


def _served(name: str, model: Model, environment: Mapping[str, str]) -> Served:
    if "/" not in model.model:
        raise _wrong(f"models.{name}.model must be litellm's provider/name, not {model.model!r}")
    for parameter in model.parameters:
        if parameter in _OURS or parameter.startswith("_"):
            raise _wrong(f"models.{name}.parameters: {parameter} is not yours to set there")
        if _SECRET.search(parameter):
            raise _wrong(f"models.{name}.parameters: {parameter} belongs into secrets_env")
    for field in model.pass_fields:
        if field in _OURS or field.startswith("_") or _SECRET.search(field):
            raise _wrong(f"models.{name}.pass_fields: {field} is not a caller's to set")
    for header in model.headers:
        if _SECRET.search(header):
            raise _wrong(f"models.{name}.headers: {header} belongs into headers_env")

    def secret(variable: str, place: str) -> str:
        value = environment.get(variable, "")
        if not value:
            raise _wrong(f"models.{name}.{place}: the environment variable {variable} is not set")
        return value

    key = model.api_key_env and secret(model.api_key_env, "api_key_env")
    headers = {k: secret(v, f"headers_env.{k}") for k, v in model.headers_env.items()}
    secrets = {k: secret(v, f"secrets_env.{k}") for k, v in model.secrets_env.items()}
    arguments: dict[str, Any] = dict(model.parameters) | secrets
    if model.api_base is not None:
        arguments["api_base"] = model.api_base
        # A server without keys ignores it; litellm would look for OpenAI's in the environment instead.
        arguments["api_key"] = "none"
    if key:
        arguments["api_key"] = key
    if model.headers or headers:
        arguments["extra_headers"] = model.headers | headers
    hidden = [*([key] if key else []), *headers.values(), *secrets.values()]
    return Served(name=name, settings=model, arguments=arguments, secrets=tuple(hidden))


def _host_of_url(url: str, place: str) -> Host:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _wrong(f"{place}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _wrong(f"{place} must be an http(s) URL, not {url!r}")
    if parts.username or parts.password:
        raise _wrong(f"{place} must not carry a password")
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)


def _host(entry: str, place: str) -> Host:
    if "/" in entry:
        raise _wrong(f"{place} must be host or host:port")
    return _host_of_url(f"https://{entry}", place)


def _wrong(what: str) -> BadRequest:
    return BadRequest(f"{what}.", code="invalid_config", remedy="docs/providers.md has an example.")
