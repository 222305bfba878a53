"""Settings: one class, read from arguments and ``MEMOS_*`` environment variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
BUNDLED_MODEL = "bundled"
AUTO_CODEC = "auto"
OFF, OFFLINE, LOCAL = "off", "offline", "local"


_RECEIPT_KEY = re.compile("(?:[0-9a-f]{64})?")


def default_home() -> Path:
    """Return the platform's data directory for this application."""
    return Path(platformdirs.user_data_dir("memos"))


class Settings(BaseSettings):
    """Everything that can be set, each field as ``MEMOS_<FIELD>`` too.

    Sizes are bytes unless a name says otherwise.
    """

    model_config = SettingsConfigDict(env_prefix="MEMOS_", frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default_factory=default_home, description="Data directory of the embedded store.")
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL of PostgreSQL (postgresql+psycopg://...); SQLite in `home` when unset.",
    )
    broker_url: str | None = Field(
        None,
        description="URL of a Celery broker (redis://:PASSWORD@HOST:6379/0): workers run jobs; this process if unset.",
    )
    chroma_url: str | None = Field(
        None,
        description="URL of a Chroma server (http://host:port); embedded Chroma in `home` when unset.",
    )
    embedder: str = Field(
        DEFAULT_EMBEDDER,
        description="A sentence-transformers model name or folder, or `openai:MODEL` for a /v1/embeddings endpoint.",
    )
    openai_base_url: str = Field("https://api.openai.com/v1", description="Base URL of the embeddings endpoint.")
    openai_api_key: SecretStr = Field(SecretStr(""), description="Key of the embeddings endpoint.")
    notes: str = Field(
        OFFLINE,
        description="Who writes notes: `offline` (rules), `local` (the local model), `openai:MODEL`, or `off`.",
    )
    llm_base_url: str = Field("https://api.openai.com/v1", description="Base URL of the chat endpoint for notes.")
    llm_api_key: SecretStr = Field(SecretStr(""), description="Key of the chat endpoint.")
    llm_timeout_s: float = Field(60.0, gt=0, description="Longest wait for an answer of the chat endpoint, in seconds.")
    llm_concurrency: int = Field(4, ge=1, description="Most requests to the chat endpoint at once.")
    llm_prompt_price: float = Field(
        0.0, ge=0, description="Price of a million prompt tokens, for the cost that a job reports."
    )
    llm_completion_price: float = Field(0.0, ge=0, description="Price of a million completion tokens.")
    embed_batch: int = Field(64, ge=1, description="Texts per embedding call.")
    max_text_bytes: int = Field(1 << 20, ge=1, description="Longest text accepted, in UTF-8 bytes.")
    max_metadata_bytes: int = Field(64 << 10, ge=1, description="Largest metadata accepted, as JSON bytes.")
    max_batch: int = Field(100_000, ge=1, description="Most memories in one store_many.")
    max_top_k: int = Field(1000, ge=1, description="Largest top_k accepted.")
    cache_bytes: int = Field(1 << 30, ge=0, description="Host memory for recall views of recently used namespaces.")
    index_threshold: int = Field(
        20_000,
        ge=1,
        description="Memories from which a namespace gets a Chroma collection; below, scans are faster.",
    )
    model: str = Field(
        BUNDLED_MODEL,
        description="Local language model: `bundled` (SmolLM2-135M), a folder with safetensors, or a hub name.",
    )
    model_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="What the model computes in.")
    model_device: str = Field("cpu", description="Where the model runs: `cpu`, `cuda`, `cuda:1`.")
    chat_memory_tokens: int = Field(1024, ge=1, description="Most tokens of memories recalled into one chat prompt.")
    bundle_min_tokens: int = Field(64, ge=1, description="Fewest tokens of memories worth a KV file.")
    kv_codec: str = Field(
        AUTO_CODEC,
        description="How KV files are compressed: `auto` (exact: `lossless` in 16 bits, `raw` in 32), or a codec.",
    )
    compose: Literal["auto", "off"] = Field(
        "auto", description="Whether one prompt may begin with the KV caches of several files: `auto`, or `off`."
    )
    kv_bytes: int = Field(10 << 30, ge=0, description="Most disk space for KV files.")
    kv_free_bytes: int = Field(1 << 30, ge=0, description="Free disk space that KV files must leave.")
    kv_host_bytes: int = Field(1 << 30, ge=0, description="Host memory for recently used KV caches.")
    prefetch_bytes: int = Field(
        256 << 20, ge=0, description="Host memory for KV caches and adapters that are likely needed next; 0 for none."
    )
    adapter_bytes: int = Field(
        10 << 30, ge=0, description="Most disk space for adapters; they leave the free space that KV files leave."
    )
    adapter_max_rank: int = Field(256, ge=1, description="Largest rank of an adapter.")
    scrub_bytes_per_s: int = Field(8 << 20, ge=1, description="Most bytes that a scrub reads in a second.")
    pool_bytes: int = Field(
        1 << 30, ge=1, description="Memory for the KV caches of running requests, adapters and shared prompts."
    )
    quota_memories: int = Field(0, ge=0, description="Most memories of one user; 0 for any number.")
    quota_characters: int = Field(0, ge=0, description="Most text of one user, in characters of what memories say now.")
    quota_kv_bytes: int = Field(0, ge=0, description="Most KV files of one user.")
    quota_adapter_bytes: int = Field(0, ge=0, description="Most adapters of one user.")
    quota_jobs: int = Field(0, ge=0, description="Most jobs of one user that wait or run.")
    lease_s: float = Field(
        60.0,
        gt=0,
        description="Seconds that a job is left to a worker of which nothing is heard.",
    )
    retry_s: float = Field(
        4.0,
        gt=0,
        description="Seconds until a job that failed may be tried again; four times that after the next time.",
    )
    plan_hours: float = Field(
        0.0,
        ge=0,
        description="Hours between two times that memories are fused and moved as `memos plan` would; 0 for never.",
    )
    plan_adapters: bool = Field(
        False,
        description="Whether plans also train adapters of what is used so often that it pays; for chats without text.",
    )
    eviction: Literal["lru", "lfu", "gdsf", "s3fifo", "arc", "density", "learned"] = Field(
        "density", description="Which KV files plans give up first where room is short: a policy of docs/eviction.md."
    )
    heat_half_life_days: float = Field(
        7.0, gt=0, description="Days after which a use of a memory counts half: what is hot is moved up first."
    )
    receipt_key: SecretStr = Field(
        SecretStr(""),
        description="What receipts of deletion are signed with, 64 hex digits; made in `home/receipts` when unset.",
    )
    idempotency_hours: int = Field(24, ge=1, description="How long an idempotency key is remembered.")

    @field_validator("receipt_key")
    @classmethod
    def _check_receipt_key(cls, value: SecretStr) -> SecretStr:
        if not _RECEIPT_KEY.fullmatch(value.get_secret_value()):
            raise ValueError("must be 64 hex digits, as `openssl rand -hex 32` prints them")
        return value
