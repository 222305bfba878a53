"""Parts of the interface that later versions have: they answer 501, and say so."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from memos.access import Permission
from memos.errors import NotBuilt
from memos_api.caller import CallerOf
from memos_api.problems import PROBLEM, problems
from memos_api.service import ServiceOf

router = APIRouter(tags=["later"])


class Refusal(JSONResponse):
    """The only answer there is."""

    media_type = PROBLEM


FAILING = problems(401, 403, 429, 501, 503, 504)


@router.get(
    "/plan",
    responses=FAILING,
    summary="What the scheduler would move (a later version)",
    status_code=501,
    response_class=Refusal,
)
async def plan(caller: CallerOf, service: ServiceOf) -> Response:
    """Answer 501."""
    await service.run(caller, Permission.READ, lambda _: None)
    raise NotBuilt("plans come with the scheduler of a later version; promote memories yourself: POST /v1/bundles")


@router.get(
    "/moves",
    responses=FAILING,
    summary="What the scheduler moved (a later version)",
    status_code=501,
    response_class=Refusal,
)
async def moves(caller: CallerOf, service: ServiceOf) -> Response:
    """Answer 501."""
    await service.run(caller, Permission.READ, lambda _: None)
    raise NotBuilt("moves between tiers are recorded by the scheduler of a later version")


@router.post(
    "/compose",
    responses=FAILING,
    summary="Compose cubes in one prompt (a later version)",
    status_code=501,
    response_class=Refusal,
)
async def compose(caller: CallerOf, service: ServiceOf) -> Response:
    """Answer 501."""
    await service.run(caller, Permission.WRITE, lambda _: None)
    raise NotBuilt("composition of several KV files comes with a later version; a chat uses the one that covers most")
