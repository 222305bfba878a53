"""Memories: store, list, get, change, forget."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from memos.access import Permission
from memos.cube import CubeVersion, Link, MemCube
from memos.errors import PreconditionFailed, VersionConflict
from memos.receipts.receipt import DeletionReceipt
from memos.store.jobs import Job
from memos.wire import Wire
from memos_api.answers import Answer, encoded, tag
from memos_api.bodies import (
    OneOrMany,
    RefineBody,
    RollbackBody,
    StoreBody,
    UpdateBody,
)
from memos_api.caller import CallerOf, IdempotencyKey, IfMatch, version_of
from memos_api.problems import problems
from memos_api.service import ServiceOf, plain, tagged

router = APIRouter(tags=["memories"])

Id = Annotated[str, Path(description="The id of a memory.")]
User = Annotated[str | None, Query(min_length=1, max_length=256, description="Whose memory; default: `default`.")]
Agent = Annotated[str | None, Query(min_length=1, max_length=256, description="Only this agent's.")]
Run = Annotated[str | None, Query(min_length=1, max_length=256, description="Only this run's.")]
Only = Annotated[str | None, Query(alias="user_id", min_length=1, max_length=256, description="Confine to this user.")]
READING = (401, 403, 404, 422, 429, 503, 504)
WRITING = (400, 401, 403, 404, 409, 413, 415, 422, 429, 503, 504, 507)


class Memories(BaseModel):
    """A page of memories; ``next`` is the ``after`` of the following page, null on the last."""

    memories: list[MemCube]
    next: str | None = None


class History(BaseModel):
    """Every version of a memory, oldest first."""

    versions: list[CubeVersion]


class Sources(BaseModel):
    """What a memory was fused from, in order."""

    memories: list[MemCube]


class Links(BaseModel):
    """The links of a memory, strongest first."""

    links: list[Link]


TAGGED: dict[str, Any] = {
    "headers": {"ETag": {"description": "The memory's version, for If-Match.", "schema": {"type": "string"}}}
}


@router.post(
    "/memories",
    status_code=201,
    response_model=MemCube | Memories,
    responses=problems(*WRITING),
    summary="Store one memory, or several",
)
async def store(
    body: OneOrMany, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Store a memory, or all of ``memories`` or none; they can be recalled at once."""
    given = body.payload()
    whose = {name: given.pop(name) for name in ("user_id", "agent_id", "run_id")}
    if isinstance(body, StoreBody):
        payload = {"item": given, **whose, "idempotency_key": idempotency_key}

        def one(wire: Wire) -> tuple[bytes, dict[str, str]]:
            cube = wire.call("store", payload)
            return encoded(cube), {**tag(cube["version"]), "Location": f"/v1/memories/{cube['id']}"}

        content, headers = await service.run(caller, Permission.WRITE, one)
        service.metrics.stored.inc()
        return Answer(content, 201, headers)
    payload = {"items": given["memories"], **whose, "idempotency_key": idempotency_key}

    def many(wire: Wire) -> tuple[bytes, int]:
        cubes = wire.call("store_many", payload)
        return encoded({"memories": cubes, "next": None}), len(cubes)

    content, count = await service.run(caller, Permission.WRITE, many)
    service.metrics.stored.inc(count)
    return Answer(content, 201)


@router.get("/memories", response_model=Memories, responses=problems(*READING), summary="List memories")
async def list_(
    caller: CallerOf,
    service: ServiceOf,
    *,
    user_id: User = None,
    agent_id: Agent = None,
    run_id: Run = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Most memories of a page.")] = 100,
    after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
) -> Answer:
    """List memories in the order they were stored."""
    payload = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id, "limit": limit, "after": after}

    def page(wire: Wire) -> bytes:
        cubes = wire.call("list", payload)
        return encoded({"memories": cubes, "next": cubes[-1]["id"] if len(cubes) == limit else None})

    return Answer(await service.run(caller, Permission.READ, page))


@router.delete(
    "/memories", response_model=DeletionReceipt, responses=problems(*WRITING), summary="Forget all memories of a user"
)
async def forget_all(
    caller: CallerOf,
    service: ServiceOf,
    *,
    user_id: User = None,
    agent_id: Agent = None,
    run_id: Run = None,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    """Forget every memory of a user, or of one agent or run of that user, with all that was derived from them."""
    whose = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
    payload = {**whose, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "forget_all", payload)


@router.get(
    "/memories/{cube_id}",
    response_model=MemCube,
    responses={200: TAGGED, **problems(*READING)},
    summary="Get a memory",
)
async def get(cube_id: Id, caller: CallerOf, service: ServiceOf, user_id: Only = None) -> Answer:
    """Get one memory; its version is its ``ETag``."""

    payload = {"id": cube_id, "user_id": user_id}
    return await tagged(service, caller, Permission.READ, "get", payload, service.reads)


@router.patch(
    "/memories/{cube_id}",
    response_model=MemCube,
    responses={200: TAGGED, **problems(*WRITING, 412)},
    summary="Change a memory",
)
async def update(
    cube_id: Id,
    body: UpdateBody,
    caller: CallerOf,
    service: ServiceOf,
    *,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    """Write a new version.

    A version that is not the current one any more is 412 if ``If-Match`` names it and 409 if ``expected_version`` does.
    """
    matched = version_of(if_match)
    payload = {**body.payload(), "id": cube_id, "idempotency_key": idempotency_key}
    if matched is not None:
        payload["expected_version"] = matched

    def change(wire: Wire) -> tuple[bytes, dict[str, str]]:
        try:
            cube = wire.call("update", payload)
        except VersionConflict as error:
            if matched is None:
                raise
            raise PreconditionFailed(error.message, **error.extra) from error
        return encoded(cube), tag(cube["version"])

    content, headers = await service.run(caller, Permission.WRITE, change)
    return Answer(content, headers=headers)


@router.delete(
    "/memories/{cube_id}", response_model=DeletionReceipt, responses=problems(*WRITING), summary="Forget a memory"
)
async def forget(
    cube_id: Id, caller: CallerOf, service: ServiceOf, user_id: Only = None, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Forget one memory everywhere, with all that was derived from it."""
    payload = {"id": cube_id, "user_id": user_id, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "forget", payload)


@router.get(
    "/memories/{cube_id}/history",
    response_model=History,
    responses=problems(*READING),
    summary="Every version of a memory",
)
async def history(cube_id: Id, caller: CallerOf, service: ServiceOf, user_id: Only = None) -> Answer:
    """Get every version of a memory, oldest first."""
    payload = {"id": cube_id, "user_id": user_id}
    return await plain(service, caller, Permission.READ, "history", payload, under="versions")


@router.get(
    "/memories/{cube_id}/links", response_model=Links, responses=problems(*READING), summary="Links of a memory"
)
async def links(cube_id: Id, caller: CallerOf, service: ServiceOf, user_id: Only = None) -> Answer:
    """Get the typed links of a memory, strongest first."""
    payload = {"id": cube_id, "user_id": user_id}
    return await plain(service, caller, Permission.READ, "links", payload, under="links")


@router.get(
    "/memories/{cube_id}/sources",
    response_model=Sources,
    responses=problems(*READING),
    summary="What a memory was fused from",
)
async def sources(cube_id: Id, caller: CallerOf, service: ServiceOf, user_id: Only = None) -> Answer:
    """Get the memories that a memory was fused from or stands for, or that a cube of a higher tier was made from."""
    payload = {"id": cube_id, "user_id": user_id}
    return await plain(service, caller, Permission.READ, "expand", payload, under="memories")


@router.post(
    "/memories/{cube_id}/rollback",
    response_model=MemCube,
    responses={200: TAGGED, **problems(*WRITING)},
    summary="Go back to an earlier version",
)
async def rollback(
    cube_id: Id, body: RollbackBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Write a new version that says what an earlier one said."""
    payload = {**body.payload(), "id": cube_id, "idempotency_key": idempotency_key}
    return await tagged(service, caller, Permission.WRITE, "rollback", payload)


@router.post(
    "/memories/refine",
    status_code=202,
    response_model=Job,
    responses=problems(*WRITING),
    summary="Have notes written again",
)
async def refine(
    body: RefineBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Queue a job that writes the notes that wait, and again those of ``ids`` or those that fell back to rules."""
    payload = {**body.payload(), "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "refine", payload, status=202)
