"""Settings: one documented class, and the only reader of the environment."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from memos.config import DEFAULT_EMBEDDER, Settings, default_home

FIELDS = Settings.model_fields
PACKAGES = (
    "memos",
    "api/memos_api",
    "workers/memos_workers",
    "kernels/memos_kernels",
    "sdk/memos_sdk",
)
#: A value other than the default for each field, as the environment spells it.
GIVEN = {
    "home": ("/srv/memos", Path("/srv/memos")),
    "database_url": ("postgresql+psycopg://db/memos", "postgresql+psycopg://db/memos"),
    "compose": ("off", "off"),
    "eviction": ("arc", "arc"),
    "broker_url": ("redis://redis:6379/0", "redis://redis:6379/0"),
    "chroma_url": ("http://chroma:8000", "http://chroma:8000"),
    "embedder": ("openai:small", "openai:small"),
    "openai_base_url": ("http://localhost/v1", "http://localhost/v1"),
    "notes": ("local", "local"),
    "llm_base_url": ("http://localhost/v1", "http://localhost/v1"),
    "model": ("/srv/model", "/srv/model"),
    "model_dtype": ("bfloat16", "bfloat16"),
    "model_device": ("cuda:1", "cuda:1"),
    "kv_codec": ("int8", "int8"),
    "plan_adapters": ("true", True),
    "receipt_key": ("0" * 64, SecretStr("0" * 64)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_field_is_documented(name: str) -> None:
    description = FIELDS[name].description or ""
    assert len(description) > 10
    assert description.endswith(".")


@pytest.mark.parametrize("name", [name for name in FIELDS if not name.endswith("api_key")])
def test_environment_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = GIVEN.get(name, ("7", 7))
    monkeypatch.setenv(f"MEMOS_{name.upper()}", text)
    assert getattr(Settings(), name) == value


def test_key_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_OPENAI_API_KEY", "sk-secret")
    settings = Settings()
    assert settings.openai_api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(settings)


def test_argument_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_EMBED_BATCH", "7")
    assert Settings(embed_batch=3).embed_batch == 3


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMOS_HOME")
    settings = Settings()
    assert (settings.home, settings.embedder) == (default_home(), DEFAULT_EMBEDDER)
    assert settings.max_text_bytes == 1_048_576


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Settings(), "embed_batch", 1)  # noqa: B010 -- for mypy it is read-only already


@pytest.mark.parametrize("name", ["embed_batch", "max_text_bytes", "max_batch", "max_top_k", "index_threshold"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: 0})


def reads_environment(source: str) -> bool:
    """Whether a module names ``os.environ``, ``os.getenv`` or their relatives."""
    banned = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    nodes = list(ast.walk(ast.parse(source)))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "os"]
    names = {alias.name for node in imports for alias in node.names}
    return bool(banned & (attributes | names))


@pytest.mark.parametrize(
    "source",
    ["import os\nos.environ['X']", "import os as o\no.getenv('X')", "from os import environ"],
)
def test_checker_finds_environment(source: str) -> None:
    assert reads_environment(source)


@pytest.mark.parametrize("package", PACKAGES)
def test_only_settings_read_environment(repository: Path, package: str) -> None:
    files = (repository / package).rglob("*.py")
    assert [path for path in files if reads_environment(path.read_text())] == []
