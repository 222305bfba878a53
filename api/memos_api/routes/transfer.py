"""A user's memories as a file: export, import, and what there is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from memos.access import Permission
from memos.store.statistics import Statistics
from memos.transfer.report import ImportReport
from memos.wire import Wire
from memos_api.answers import Answer, encoded
from memos_api.caller import CallerOf, IdempotencyKey
from memos_api.problems import problems
from memos_api.routes.memories import READING, WRITING, Agent, Run, User
from memos_api.service import ServiceOf, plain
from memos_api.upload import FileAnswer, passing, received

router = APIRouter(tags=["transfer"])

LINES = "application/x-ndjson"
COUNT = "Memos-Count"
FILE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {"description": "JSON Lines.", "content": {LINES: {"schema": {"type": "string"}}}},
        **problems(*READING, 507),
    },
    summary="A user's memories as a file",
)
async def export(caller: CallerOf, service: ServiceOf, user_id: User = None) -> FileAnswer:
    """Send a user's memories with their history and links as JSON Lines, as of one moment."""

    def work(wire: Wire) -> FileAnswer:
        with passing(service.passage) as folder:
            path = folder / "memories.jsonl"
            count = wire.call("export", {"path": str(path), "user_id": user_id, "kept": False})
            return FileAnswer(path, LINES, {COUNT: str(count)})

    return await service.run(caller, Permission.READ, work, service.files)


@router.post(
    "/import",
    response_model=ImportReport,
    responses=problems(*WRITING),
    openapi_extra=FILE_BODY,
    summary="Read memories from a file",
)
async def import_(
    request: Request,
    caller: CallerOf,
    service: ServiceOf,
    *,
    user_id: User = None,
    agent_id: Agent = None,
    run_id: Run = None,
    strict: Annotated[bool, Query(description="Refuse the whole file at the first malformed line.")] = False,
    name: Annotated[str | None, Query(max_length=256, description="The file's name; it may name a run.")] = None,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    """Read an own export, JSON Lines, LoCoMo or a chat log; the body is the file itself."""
    await service.calls.run(lambda: service.admit(caller, Permission.WRITE))  # before a large body is taken
    async with received(request, service.files, service.passage, name) as path:
        whose = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
        payload = {"path": str(path), **whose, "strict": strict, "idempotency_key": idempotency_key}

        def work(wire: Wire) -> bytes:
            return encoded(wire.call("import", payload))

        return Answer(await service.run(caller, Permission.WRITE, work, service.files, again=True))


@router.get("/stats", response_model=Statistics, responses=problems(*READING), summary="What a user's namespace holds")
async def stats(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """Count what a user's namespace holds in each tier."""
    return await plain(service, caller, Permission.READ, "stats", {"user_id": user_id})
