"""Settings of the service, each as ``MEMOS_API_<FIELD>`` too; what the engine does is set by :mod:`memos.config`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Sizes are bytes and times seconds unless a name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="MEMOS_API_", frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on; beyond loopback only once there is an API key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    max_body_bytes: int = Field(16 << 20, ge=1, description="Largest request body.")
    max_file_bytes: int = Field(1 << 30, ge=1, description="Largest file of an import.")
    rate: float = Field(0.0, ge=0, description="Most requests per second of one API key, on average; 0 for any.")
    burst: int = Field(100, ge=1, description="Requests of one API key that may come at once before `rate` counts.")
    threads: int = Field(8, ge=1, description="Calls of the engine at once.")
    chats: int = Field(32, ge=1, description="Chats at once; the model batches them.")
    files: int = Field(2, ge=1, description="Exports and imports at once.")
    waiting: int = Field(256, ge=0, description="Requests that may wait for each of these; beyond, the answer is 503.")
    timeout_s: float = Field(60.0, gt=0, description="Longest wait for an answer; 504 after that.")
    slow_timeout_s: float = Field(600.0, gt=0, description="The same for chats, exports and imports.")
    stall_s: float = Field(30.0, gt=0, description="Longest pause of a client that sends or reads a body.")
    shutdown_s: int = Field(30, ge=0, description="How long requests under way may take to end at shutdown.")
    upstream_url: str | None = Field(
        None,
        description="Base URL of an OpenAI-compatible server (http://host/v1) for chats; the local model if unset.",
    )
    upstream_key: SecretStr = Field(SecretStr(""), description="Key of that server.")
    log_format: Literal["json", "console"] = Field("json", description="How log lines are written to stderr.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    traces_url: str | None = Field(
        None, description="OTLP/HTTP endpoint for traces (http://host:4318/v1/traces); none are made if unset."
    )
