"""Whether the process lives, whether it can serve, and what it counts."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import Response

from memos.access import Permission
from memos_api.answers import Answer, encoded
from memos_api.caller import CallerOf
from memos_api.problems import problems
from memos_api.readiness import look
from memos_api.service import ServiceOf

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """``ready``: all is well; ``degraded``: it serves, but slower or without a part; ``down``: it cannot serve.

    ``checks`` says of every dependency ``ok`` or what is wrong with it.
    """

    status: Literal["ready", "degraded", "down"]
    checks: dict[str, str]


@router.get("/healthz", response_model=Health, summary="Whether the process answers")
async def healthz() -> Answer:
    """Answer, whatever the state of the dependencies."""
    return Answer(encoded({"status": "ok"}))


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "A dependency without which nothing works is down."}},
    summary="Which dependency is down",
)
async def readyz(service: ServiceOf) -> Answer:
    """Say whether the database, the vector index and the rest can be reached."""
    found = await look(service)
    return Answer(encoded(found), 503 if found["status"] == "down" else 200)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text format."},
        **problems(401, 403, 429, 503, 504),
    },
    summary="Prometheus metrics",
)
async def metrics(caller: CallerOf, service: ServiceOf) -> Response:
    """Return what the process counts; beyond loopback, to callers with an ``admin`` key."""
    if not caller.local:
        await service.calls.run(lambda: service.admit(caller, Permission.ADMIN))
    return Response(await service.calls.run(service.measured), media_type=CONTENT_TYPE_LATEST)
