"""Adapters and cartridges: memories as weights."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from memos.access import Permission
from memos.parametric.listing import AdapterInfo
from memos.receipts.receipt import DeletionReceipt
from memos.store.jobs import Job
from memos.wire import Wire
from memos_api.answers import Answer, encoded
from memos_api.bodies import FuseAdaptersBody, WhichBody
from memos_api.caller import CallerOf, IdempotencyKey
from memos_api.problems import problems
from memos_api.routes.memories import READING, WRITING, Id, Only, User
from memos_api.routes.transfer import FILE_BODY
from memos_api.service import ServiceOf, plain
from memos_api.upload import FileAnswer, passing, received, unzip, zipped

router = APIRouter(tags=["adapters"])

ZIP = "application/zip"


class Adapters(BaseModel):
    """A user's adapters and cartridges, oldest first."""

    adapters: list[AdapterInfo]


@router.get("/adapters", response_model=Adapters, responses=problems(*READING), summary="List adapters")
async def list_(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """List a user's adapters and cartridges, with earlier versions and failed ones."""
    return await plain(service, caller, Permission.READ, "adapters", {"user_id": user_id}, under="adapters")


@router.get("/adapters/{cube_id}", response_model=AdapterInfo, responses=problems(*READING), summary="Get an adapter")
async def get(cube_id: Id, caller: CallerOf, service: ServiceOf, user_id: Only = None) -> Answer:
    """Get one adapter or cartridge, with its gate report and provenance."""
    return await plain(service, caller, Permission.READ, "adapter", {"id": cube_id, "user_id": user_id})


@router.post(
    "/adapters/fuse", status_code=202, response_model=Job, responses=problems(*WRITING), summary="Make several one"
)
async def fuse(
    body: FuseAdaptersBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Queue a job that serves one adapter in the place of several, if it knows what they know."""
    payload = {**body.payload(), "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "fuse_adapters", payload, status=202)


@router.delete(
    "/adapters/{cube_id}", response_model=DeletionReceipt, responses=problems(*WRITING), summary="Delete an adapter"
)
async def remove(
    cube_id: Id, caller: CallerOf, service: ServiceOf, user_id: Only = None, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Delete an adapter; the memories it was made from stay."""
    payload = {"id": cube_id, "user_id": user_id, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "remove_adapter", payload)


@router.post(
    "/adapters/{cube_id}/rollback",
    response_model=AdapterInfo,
    responses=problems(*WRITING),
    summary="Serve an earlier version of an adapter",
)
async def rollback(
    cube_id: Id, body: WhichBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Publish the version before a published adapter again, or a superseded one itself."""
    payload = {**body.payload(), "id": cube_id, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "rollback_adapter", payload)


@router.get(
    "/adapters/{cube_id}/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A ZIP archive of a PEFT directory.",
            "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems(*READING, 507),
    },
    summary="An adapter as a PEFT directory",
)
async def export(cube_id: Id, caller: CallerOf, service: ServiceOf, user_id: Only = None) -> FileAnswer:
    """Send an adapter as a ZIP archive of a PEFT directory."""

    def work(wire: Wire) -> FileAnswer:
        with passing(service.passage) as folder:
            payload = {"id": cube_id, "path": str(folder / "peft"), "user_id": user_id, "kept": False}
            wire.call("export_adapter", payload)
            zipped(folder / "peft", folder / "adapter.zip")
            return FileAnswer(folder / "adapter.zip", ZIP, {})

    return await service.run(caller, Permission.READ, work, service.files)


@router.post(
    "/adapters/import",
    status_code=201,
    response_model=AdapterInfo,
    responses=problems(*WRITING),
    openapi_extra=FILE_BODY,
    summary="Register a PEFT adapter",
)
async def import_(
    request: Request,
    caller: CallerOf,
    service: ServiceOf,
    *,
    user_id: User = None,
    name: Annotated[str | None, Query(min_length=1, max_length=256, description="The adapter's name.")] = None,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    """Register the adapter of a PEFT directory, sent as a ZIP archive; it is used only where a request names it."""
    await service.calls.run(lambda: service.admit(caller, Permission.WRITE))
    async with received(request, service.files, service.passage, "adapter.zip") as path:
        folder = path.parent / "peft"
        payload = {"path": str(folder), "name": name, "user_id": user_id, "idempotency_key": idempotency_key}

        def work(wire: Wire) -> bytes:
            folder.mkdir()
            unzip(path, folder, service.settings.max_file_bytes)
            return encoded(wire.call("import_adapter", payload))

        return Answer(await service.run(caller, Permission.WRITE, work, service.files, again=True), 201)
