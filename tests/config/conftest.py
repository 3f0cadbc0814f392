"""A registry with a few policies' options, and a loader that takes YAML text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from proxy.config import ConfigError, Loaded, Model, UpstreamName, load
from proxy.config.units import Duration


class Account(Model):
    """Usage and cost."""


class RateLimit(Model):
    """Calls per minute."""

    rpm: int | None = Field(default=None, ge=1, description="Calls in a minute.")
    on_limit: Literal["reject", "wait"] = "reject"
    max_wait: Duration = 0.0


class Target(Model):
    upstream: UpstreamName
    model: str | None = None


class Fallback(Model):
    """Other targets."""

    targets: tuple[Target, ...]


class Signed(Model):
    """A policy with a secret, and with validators that quote what they refuse."""

    secret: SecretStr | None = None
    word: str = "a"
    codes: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, value: Any) -> Any:
        return dict(value)

    @field_validator("word")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 3:
            raise ValueError(f"the word {value[:6].upper()} is too long")
        return value


class Lenient(BaseModel):
    """An outsider's options, whose model lets unknown keys pass."""

    level: int = 1


POLICIES: dict[str, type[BaseModel]] = {
    "account": Account,
    "fallback": Fallback,
    "rate_limit": RateLimit,
    "signed": Signed,
}


def resolve(name: str) -> type[BaseModel] | None:
    if name.startswith("broken:"):
        raise ImportError("No module named 'broken'")
    return {"mine:Limit": RateLimit, "mine:Lenient": Lenient}.get(name) or POLICIES.get(name)


@pytest.fixture
def policies() -> dict[str, type[BaseModel]]:
    return POLICIES


@pytest.fixture
def from_files(tmp_path: Path) -> Callable[..., Loaded]:
    """Writes the files (names with `__` for a dot) and loads `config.yaml`."""

    def run(files: Mapping[str, str], *overrides: str, env: Mapping[str, str] | None = None) -> Loaded:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return load(
            tmp_path / "config.yaml", overrides=overrides, env=env or {}, resolve=resolve, names=lambda: POLICIES
        )

    return run


@pytest.fixture
def loaded(from_files: Callable[..., Loaded]) -> Callable[..., Loaded]:
    """Loads one YAML text."""

    def run(text: str, *overrides: str, env: Mapping[str, str] | None = None) -> Loaded:
        return from_files({"config.yaml": text}, *overrides, env=env)

    return run


@pytest.fixture
def mistakes(loaded: Callable[..., Loaded], tmp_path: Path) -> Callable[..., list[str]]:
    """The mistakes in one YAML text, without the folder's name."""

    def run(text: str, *overrides: str, env: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            loaded(text, *overrides, env=env)
        return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return run
