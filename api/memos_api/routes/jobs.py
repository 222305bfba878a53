"""Jobs: list and watch them, cancel them, try dead ones again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from memos.access import Permission
from memos.errors import MemosError
from memos.store.jobs import FINAL, Job
from memos.wire import Wire
from memos_api.answers import EVENTS, Answer, EventStream, encoded
from memos_api.caller import Caller, CallerOf, IdempotencyKey
from memos_api.problems import problems
from memos_api.routes.memories import READING, User
from memos_api.service import Service, ServiceOf, plain

router = APIRouter(tags=["jobs"])

JobId = Annotated[str, Path(description="The id of a job.")]
CHANGING = (400, 401, 403, 404, 409, 422, 429, 503, 504, 507)
#: Seconds between two looks at a job that is watched.
LOOK_S = 0.25


class Jobs(BaseModel):
    """A page of jobs, newest first; ``next`` is the ``after`` of the following page, null on the last."""

    jobs: list[Job]
    next: str | None = None


@router.get("/jobs", response_model=Jobs, responses=problems(*READING), summary="List jobs")
async def list_(
    caller: CallerOf,
    service: ServiceOf,
    *,
    user_id: User = None,
    state: Annotated[
        str | None, Query(description="Only `queued`, `running`, `done`, `failed` or `cancelled` ones.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Most jobs of a page.")] = 100,
    after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
) -> Answer:
    """List a user's jobs, newest first. Those in the state `failed` are kept until they are tried again."""
    payload = {"user_id": user_id, "state": state, "limit": limit, "after": after}

    def page(wire: Wire) -> bytes:
        jobs = wire.call("jobs", payload)
        return encoded({"jobs": jobs, "next": jobs[-1]["id"] if len(jobs) == limit else None})

    return Answer(await service.run(caller, Permission.READ, page))


@router.post("/jobs/{job_id}/cancel", response_model=Job, responses=problems(*CHANGING), summary="Cancel a job")
async def cancel(job_id: JobId, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None) -> Answer:
    """Cancel a job: at once if it waits, at its next report of progress if it is running; nothing of it is kept."""
    payload = {"id": job_id, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "cancel", payload)


@router.post("/jobs/{job_id}/retry", response_model=Job, responses=problems(*CHANGING), summary="Try a job again")
async def retry(job_id: JobId, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None) -> Answer:
    """Queue a job again that failed or was cancelled."""
    payload = {"id": job_id, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "retry", payload)


@router.get("/jobs/{job_id}", response_model=Job, responses=problems(*READING), summary="How a job stands")
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
