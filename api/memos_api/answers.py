"""Answers: models to JSON bytes, made in the thread that made the model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

JSON = "application/json"


def encoded(data: Any) -> bytes:
    """Return models or plain data as JSON; times are ISO 8601, what is no number is null."""
    return to_json(data, inf_nan_mode="null")


def tag(version: int) -> dict[str, str]:
    """Return the ``ETag`` of a version of a memory."""
    return {"ETag": f'"{version}"'}


#: How the document tells of server-sent events: what each of them holds.
EVENTS: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
            "required": ["data"],
        }
    }
}


class EventStream(StreamingResponse):
    """Server-sent events, which no proxy is to keep back."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


class Answer(Response):
    """A response of JSON bytes that are ready."""

    media_type = JSON
