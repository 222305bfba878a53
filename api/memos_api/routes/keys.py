"""API keys of the caller's tenant, for callers whose key has the ``admin`` scope."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from memos.access import ApiKey, NewKey, Permission
from memos_api.answers import Answer, encoded
from memos_api.bodies import KeyBody
from memos_api.caller import CallerOf
from memos_api.problems import problems
from memos_api.routes.memories import READING, WRITING
from memos_api.service import ServiceOf

router = APIRouter(tags=["keys"])

KeyId = Annotated[str, Path(description="The id of a key: what stands between its underscores.")]


class Keys(BaseModel):
    """The keys of a tenant, oldest first."""

    keys: list[ApiKey]


@router.post("/keys", status_code=201, response_model=NewKey, responses=problems(*WRITING), summary="Make an API key")
async def create(body: KeyBody, caller: CallerOf, service: ServiceOf) -> Answer:
    """Make a key; its text is in this answer and nowhere else."""

    def work() -> bytes:
        tenant = service.admit(caller, Permission.ADMIN).tenant
        made = service.access.create(tenant, body.scopes, name=body.name, expires_at=body.expires_at)
        return encoded(made)

    return Answer(await service.calls.run(work), 201)


@router.get("/keys", response_model=Keys, responses=problems(*READING), summary="List API keys")
async def list_(caller: CallerOf, service: ServiceOf) -> Answer:
    """List the tenant's keys, without their secrets."""

    def work() -> bytes:
        return encoded({"keys": service.access.list(service.admit(caller, Permission.ADMIN).tenant)})

    return Answer(await service.calls.run(work))


@router.post(
    "/keys/{key_id}/rotate",
    response_model=NewKey,
    responses=problems(*WRITING),
    summary="Give an API key another secret",
)
async def rotate(key_id: KeyId, caller: CallerOf, service: ServiceOf) -> Answer:
    """Give a key another secret; the old one ends at once."""

    def work() -> bytes:
        return encoded(service.access.rotate(key_id, service.admit(caller, Permission.ADMIN).tenant))

    return Answer(await service.calls.run(work))


@router.delete("/keys/{key_id}", response_model=ApiKey, responses=problems(*WRITING), summary="Revoke an API key")
async def revoke(key_id: KeyId, caller: CallerOf, service: ServiceOf) -> Answer:
    """End a key at once."""

    def work() -> bytes:
        return encoded(service.access.revoke(key_id, service.admit(caller, Permission.ADMIN).tenant))

    return Answer(await service.calls.run(work))
