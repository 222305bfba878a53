"""Parts of the interface that later versions have: they answer 501, and say so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from memos.access import Permission
from memos.errors import NotBuilt
from memos_api.caller import CallerOf
from memos_api.problems import PROBLEM, problems
from memos_api.service import ServiceOf

router = APIRouter(tags=["later"])

LATER = (
    (
        "POST",
        "/compose",
        "Compose cubes in one prompt",
        "composition of several KV files comes with a later version; a chat uses the one that covers most",
    ),
)


class Refusal(JSONResponse):
    """The only answer there is."""

    media_type = PROBLEM


def _refusing(permission: Permission, said: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(caller: CallerOf, service: ServiceOf) -> Response:
        """Answer 501."""
        await service.run(caller, permission, lambda _: None)
        raise NotBuilt(said)

    return refuse


for method, path, what, said in LATER:
    router.add_api_route(
        path,
        _refusing(Permission.READ if method == "GET" else Permission.WRITE, said),
        methods=[method],
        name=path[1:],
        summary=f"{what} (a later version)",
        status_code=501,
        response_class=Refusal,
        responses=problems(401, 403, 429, 501, 503, 504),
    )
