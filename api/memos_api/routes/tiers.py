"""Tiers: carry memories into a higher one and back, and watch the jobs that do it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import StreamingResponse

from memos.access import Permission
from memos.errors import MemosError
from memos.receipts.receipt import DeletionReceipt
from memos.store.jobs import FINAL, Job
from memos.wire import Wire
from memos_api.answers import EVENTS, Answer, EventStream, encoded
from memos_api.bodies import BundleBody, PromoteBody, WhichBody
from memos_api.caller import Caller, CallerOf, IdempotencyKey
from memos_api.problems import problems
from memos_api.routes.memories import READING, WRITING, Id
from memos_api.service import Service, ServiceOf, plain

router = APIRouter(tags=["tiers"])

JobId = Annotated[str, Path(description="The id of a job.")]
#: Seconds between two looks at a job that is watched.
LOOK_S = 0.25


@router.post(
    "/bundles",
    status_code=202,
    response_model=Job,
    responses=problems(*WRITING),
    summary="Carry memories into a higher tier",
)
async def bundle(
    body: BundleBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Queue a job that makes one KV file or one adapter of several memories of a user; they stay as they are."""
    payload = {**body.payload(), "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "promote", payload, status=202)


@router.post(
    "/cubes/{cube_id}/promote",
    status_code=202,
    response_model=Job,
    responses=problems(*WRITING),
    summary="Carry a memory into a higher tier",
)
async def promote(
    cube_id: Id, body: PromoteBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Queue a job that makes a KV file or an adapter of one memory."""
    payload = {**body.payload(), "ids": [cube_id], "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "promote", payload, status=202)


@router.post(
    "/cubes/{cube_id}/demote",
    response_model=DeletionReceipt,
    responses=problems(*WRITING),
    summary="Delete a cube of a higher tier",
)
async def demote(
    cube_id: Id, body: WhichBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Delete a KV file or an adapter; the memories it was made from stay."""
    payload = {**body.payload(), "id": cube_id, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "demote", payload)


@router.get(
    "/jobs/{job_id}", response_model=Job, responses=problems(*READING), summary="How a job stands", tags=["jobs"]
)
async def job(job_id: JobId, caller: CallerOf, service: ServiceOf) -> Answer:
    """Get a job."""
    return await plain(service, caller, Permission.READ, "job", {"id": job_id})


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": EVENTS, "description": "Events `job`."},
        **problems(*READING),
    },
    summary="Watch a job",
    tags=["jobs"],
)
async def events(job_id: JobId, caller: CallerOf, service: ServiceOf) -> EventStream:
    """Send the job as a server-sent event whenever it changes, until it is over."""
    first = await _look(service, caller, job_id)
    return EventStream(_watched(service, caller, job_id, first))


async def _watched(service: Service, caller: Caller, job_id: str, first: tuple[bytes, bool]) -> AsyncIterator[bytes]:
    now, over = first
    yield b"event: job\ndata: " + now + b"\n\n"
    while not over and not service.stopping.is_set():
        await asyncio.sleep(LOOK_S)
        try:
            then, over = await _look(service, caller, job_id, again=True)
        except MemosError as error:  # forgotten meanwhile, the key revoked, the database gone
            yield b"event: problem\ndata: " + encoded(error.problem()) + b"\n\n"
            return
        if then != now:
            now = then
            yield b"event: job\ndata: " + now + b"\n\n"


async def _look(service: Service, caller: Caller, job_id: str, *, again: bool = False) -> tuple[bytes, bool]:
    def work(wire: Wire) -> tuple[bytes, bool]:
        found = wire.call("job", {"id": job_id})
        return encoded(found), found["state"] in FINAL

    return await service.run(caller, Permission.READ, work, again=again)
