"""Answers: models to JSON bytes, made in the thread that made the model."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

JSON = "application/json"


def encoded(data: Any) -> bytes:
    """Return models or plain data as JSON; times are ISO 8601, what is no number is null."""
    return to_json(data, inf_nan_mode="null")


def tag(version: int) -> dict[str, str]:
    """Return the ``ETag`` of a version of a memory."""
    return {"ETag": f'"{version}"'}


class Answer(Response):
    """A response of JSON bytes that are ready."""

    media_type = JSON
