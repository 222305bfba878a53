"""KV files of the activation tier: what there is, and how a user's are made and put together."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from memos.access import Permission
from memos.activation.listing import KVFile
from memos.store.kv_settings import KVSettings
from memos_api.answers import Answer
from memos_api.bodies import KVSettingsBody
from memos_api.caller import CallerOf, IdempotencyKey
from memos_api.problems import problems
from memos_api.routes.memories import READING, WRITING, User
from memos_api.service import ServiceOf, plain

router = APIRouter(tags=["tiers"])


class KVFiles(BaseModel):
    """The KV files of a user, oldest first."""

    files: list[KVFile]


@router.get("/kv", response_model=KVFiles, responses=problems(*READING), summary="List KV files")
async def files(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """List the KV files of a user: bytes beside those of the cache, and what that costs, in nats per token."""
    return await plain(service, caller, Permission.READ, "kv_files", {"user_id": user_id}, under="files")


@router.get("/kv/settings", response_model=KVSettings, responses=problems(*READING), summary="Get a user's KV settings")
async def settings(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """Get what holds for a user's KV files unless a request names something else; null is as the process is set."""
    return await plain(service, caller, Permission.READ, "kv_settings", {"user_id": user_id})


@router.put("/kv/settings", response_model=KVSettings, responses=problems(*WRITING), summary="Set a user's KV settings")
async def set_settings(
    body: KVSettingsBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Replace all of a user's KV settings, from the next promotion and chat on."""
    payload = {**body.payload(), "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "set_kv_settings", payload)
